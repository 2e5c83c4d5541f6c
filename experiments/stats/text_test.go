package stats_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"gobpo/experiments/stats"
)

func TestWords(t *testing.T) {
	for text, want := range map[string]int{"": 0, "  \n": 0, "one": 1, "one  two\tthree\n": 3, "été, 日本": 2} {
		if got := stats.Words(text); got != want {
			t.Errorf("Words(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestCompareLengths(t *testing.T) {
	got := stats.CompareLengths([]string{"a b c", "a", "a b", ""}, []string{"a b", "a", "a b c d", ""})
	if want := (stats.Lengths{Mean: 6.0 / 4, ReferenceMean: 7.0 / 4, Longer: 1.0 / 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got = stats.CompareLengths(nil, nil); !math.IsNaN(got.Mean) || !math.IsNaN(got.ReferenceMean) || !math.IsNaN(got.Longer) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestDiverseByHand(t *testing.T) {
	for _, c := range []struct {
		outputs []string
		want    stats.Diversity
	}{
		// Words a b a | b c: a, b, c of five; bigrams ab, ba | bc, all different.
		{[]string{"a b a", "b c"}, stats.Diversity{Distinct1: 3.0 / 5, Distinct2: 1, Unique: 1, Mode: 0.5, ModeText: "a b a"}},
		// The same twice: half of everything is new.
		{[]string{"a b", "a b"}, stats.Diversity{Distinct1: 0.5, Distinct2: 0.5, Unique: 0.5, Mode: 1, ModeText: "a b"}},
		// Bigrams do not cross outputs, and white space does not make words different.
		{[]string{"x y", "y  x", "x y"}, stats.Diversity{Distinct1: 2.0 / 6, Distinct2: 2.0 / 3, Unique: 2.0 / 3, Mode: 2.0 / 3, ModeText: "x y"}},
		// The first among equals.
		{[]string{"b b", "a a"}, stats.Diversity{Distinct1: 0.5, Distinct2: 1, Unique: 1, Mode: 0.5, ModeText: "b b"}},
	} {
		if got := stats.Diverse(c.outputs); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.outputs, got, c.want)
		}
	}
}

func TestDiverseOfNothing(t *testing.T) {
	d := stats.Diverse(nil)
	if !math.IsNaN(d.Unique) || !math.IsNaN(d.Mode) || !math.IsNaN(d.Distinct1) || !math.IsNaN(d.Distinct2) || d.ModeText != "" {
		t.Errorf("no outputs: %+v", d)
	}
	d = stats.Diverse([]string{"", "", "word"}) // no bigrams
	if d.Mode != 2.0/3 || d.ModeText != "" || d.Distinct1 != 1 || !math.IsNaN(d.Distinct2) {
		t.Errorf("two empty outputs and a word: %+v", d)
	}
}

func TestDiverseSeesCollapse(t *testing.T) {
	canned := slices.Repeat([]string{"I am sorry, I cannot help with that."}, 491)
	for i := range 9 {
		canned = append(canned, strings.Repeat("word ", i+1))
	}
	d := stats.Diverse(canned)
	if d.Mode != 491.0/500 || d.Unique != 10.0/500 || d.Distinct1 > 0.01 || d.Distinct2 > 0.01 {
		t.Errorf("%+v", d)
	}
}

func TestDiverseProperties(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("ab ")), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		outputs := rapid.SliceOfN(text, 1, 20).Draw(t, "outputs")
		d := stats.Diverse(outputs)
		n := float64(len(outputs))
		for _, share := range []float64{d.Distinct1, d.Distinct2} {
			if !math.IsNaN(share) && (share <= 0 || share > 1) {
				t.Fatalf("%+v", d)
			}
		}
		if d.Mode < 1/n || d.Unique < 1/n || d.Unique > 1 || d.Unique > 1-d.Mode+1/n+1e-12 || !slices.Contains(outputs, d.ModeText) {
			t.Fatalf("%+v", d)
		}
		doubled := stats.Diverse(slices.Concat(outputs, outputs)) // nothing new: half the share, the same mode
		if !near(doubled.Unique, d.Unique/2, 1e-12) || !near(doubled.Mode, d.Mode, 1e-12) || doubled.ModeText != d.ModeText {
			t.Fatalf("%+v, doubled %+v", d, doubled)
		}
		if !math.IsNaN(d.Distinct1) && !near(doubled.Distinct1, d.Distinct1/2, 1e-12) {
			t.Fatalf("distinct-1 %v, doubled %v", d.Distinct1, doubled.Distinct1)
		}
	})
}
