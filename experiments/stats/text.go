package stats

import "strings"

// Words counts the words of a text, split at white space.
func Words(text string) int { return len(strings.Fields(text)) }

// Lengths compares the lengths of outputs with those of their references.
type Lengths struct {
	Mean          float64 // words per output
	ReferenceMean float64 // words per reference
	Longer        float64 // share of outputs with more words than their reference
}

// CompareLengths takes outputs and references in parallel; its numbers are NaN for none.
func CompareLengths(outputs, references []string) (l Lengths) {
	for i, text := range outputs {
		words, reference := Words(text), Words(references[i])
		l.Mean += float64(words)
		l.ReferenceMean += float64(reference)
		if words > reference {
			l.Longer++
		}
	}
	n := float64(len(outputs))
	return Lengths{l.Mean / n, l.ReferenceMean / n, l.Longer / n}
}

// Diversity of a set of outputs. A policy that has collapsed to one canned answer shows in all four.
type Diversity struct {
	Distinct1, Distinct2 float64 // different n-grams of words / all n-grams, over all outputs (Li et al. 2016)
	Unique               float64 // different outputs / outputs
	Mode                 float64 // share of the most frequent output
	ModeText             string  // that output; the first to appear among equals
}

// Diverse measures outputs; ratios with nothing to count are NaN. Distinct-n falls as texts get more and longer, so
// compare it only between sets of one size.
func Diverse(outputs []string) (d Diversity) {
	counts := make(map[string]int, len(outputs))
	for _, text := range outputs {
		counts[text]++
	}
	top := 0
	for _, text := range outputs { // in their order, for a stable choice among equals
		if counts[text] > top {
			top, d.ModeText = counts[text], text
		}
	}
	n := float64(len(outputs))
	d.Unique, d.Mode = float64(len(counts))/n, float64(top)/n
	d.Distinct1, d.Distinct2 = distinct(outputs, 1), distinct(outputs, 2)
	return d
}

func distinct(outputs []string, n int) float64 {
	seen, total := map[string]bool{}, 0
	for _, text := range outputs {
		words := strings.Fields(text)
		for i := 0; i+n <= len(words); i++ {
			seen[strings.Join(words[i:i+n], " ")] = true
			total++
		}
	}
	return float64(len(seen)) / float64(total)
}
