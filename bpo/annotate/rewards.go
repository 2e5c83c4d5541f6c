package annotate

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jonreiter/govader"
)

const goldDoc = "The exactly known reward of the procedural task (task.name), in [0, 1]."

func init() {
	Register(Kind{
		Name: "rouge_l",
		Doc:  "ROUGE-L F1 of the completion against the reference text, in [0, 1].",
		Build: func(a Args) (Annotator, error) {
			return FromScore(a.Name, func(r Request, c string) (float64, error) { return RougeL(r.Reference, c), nil }), nil
		},
	})
	Register(Kind{
		Name: "length",
		Doc:  "1 for a length inside [min, max], falling linearly outside to 0 at a distance of decay.",
		Params: []Param{
			{Name: "min", Default: 0.0, Doc: "shortest length with full score"},
			{Name: "max", Default: 0.0, Doc: "longest length with full score (required)"},
			{Name: "decay", Default: 10.0, Doc: "distance from the window at which the score reaches 0"},
			{Name: "unit", Default: "words", Doc: "words (split at white space) or chars (Unicode code points)"},
		},
		Build: buildLength,
	})
	Register(Kind{
		Name:  "sentiment",
		Doc:   "VADER compound sentiment of the completion, in [-1, 1] (Hutto & Gilbert 2014).",
		Build: func(a Args) (Annotator, error) { return FromScore(a.Name, sentiment), nil },
	})
	Register(Kind{
		Name:  "sum",
		Doc:   "Weighted sum of the scores of other annotators (of: [{name: …, weight: …}, …]).",
		Build: buildSum,
	})
	Register(Kind{
		Name: "gold",
		Doc:  goldDoc,
		Build: func(Args) (Annotator, error) {
			return nil, fmt.Errorf("name: gold is the reward of a procedural task, and task.name names none")
		},
	})
}

var notWord = regexp.MustCompile(`[^a-z0-9]+`)

// words tokenises as Google's rouge_score does without its stemmer: lower case, then every run of characters
// other than ASCII letters and digits separates words. Other scripts therefore have no words.
func words(text string) []string {
	return strings.Fields(notWord.ReplaceAllString(strings.ToLower(text), " "))
}

// RougeL is the ROUGE-L F1 (Lin 2004, as in Google's rouge_score): with L the longest common subsequence of words,
// precision L/len(candidate), recall L/len(reference), and 0 where either has no words.
func RougeL(reference, candidate string) float64 {
	ref, cand := words(reference), words(candidate)
	if len(ref) == 0 || len(cand) == 0 {
		return 0
	}
	row := make([]int, len(cand)+1) // row[j] = LCS of the reference words so far and cand[:j]
	for _, w := range ref {
		diagonal := 0
		for j, c := range cand {
			above := row[j+1]
			if w == c {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	// 2PR/(P+R) with P = L/n, R = L/m is 2L/(n+m).
	return 2 * float64(row[len(cand)]) / float64(len(ref)+len(cand))
}

func buildLength(a Args) (Annotator, error) {
	lo, hi, decay, unit := a.Float("min"), a.Float("max"), a.Float("decay"), a.String("unit")
	switch {
	case lo < 0:
		return nil, fmt.Errorf("min: %v is negative", lo)
	case hi <= 0:
		return nil, fmt.Errorf("max: length needs a longest length above 0")
	case hi < lo:
		return nil, fmt.Errorf("max: %v is below min %v", hi, lo)
	case decay <= 0:
		return nil, fmt.Errorf("decay: %v is not above 0", decay)
	case unit != "words" && unit != "chars":
		return nil, fmt.Errorf("unit: %q is neither words nor chars", unit)
	}
	return FromScore(a.Name, func(_ Request, c string) (float64, error) {
		n := float64(len(strings.Fields(c)))
		if unit == "chars" {
			n = float64(utf8.RuneCountInString(c))
		}
		return max(0, 1-max(lo-n, n-hi, 0)/decay), nil
	}), nil
}

// The lexicon takes some milliseconds to build; its analyzer is read-only afterwards.
var vader = sync.OnceValue(govader.NewSentimentIntensityAnalyzer)

func sentiment(_ Request, completion string) (float64, error) {
	return vader().PolarityScores(completion).Compound, nil
}

type sum struct {
	name    string
	of      []Annotator
	weights []float64
}

func buildSum(a Args) (Annotator, error) {
	if len(a.Of) == 0 {
		return nil, fmt.Errorf("of: sum needs at least one term")
	}
	return &sum{a.Name, a.Of, a.Weights}, nil
}

func (s *sum) Name() string { return s.name }

func (s *sum) Annotate(ctx context.Context, reqs []Request, seed uint64) ([]Judgment, error) {
	out := make([]Judgment, len(reqs))
	for i, req := range reqs {
		out[i].Scores = make([]float64, len(req.Completions))
	}
	for t, term := range s.of {
		js, err := term.Annotate(ctx, reqs, seed)
		if err != nil {
			return nil, err
		}
		for i, j := range js {
			if j.Scores == nil && j.Len() > 0 {
				return nil, fmt.Errorf("annotate with %s: %s only compares, so it cannot be summed", s.name, term.Name())
			}
			for k, v := range j.Scores {
				out[i].Scores[k] += s.weights[t] * v
			}
		}
	}
	return out, nil
}
