package annotate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/bpo/annotate/annotatetest"
)

func TestPair(t *testing.T) {
	for _, c := range []struct {
		name             string
		j                annotate.Judgment
		chosen, rejected int
		tie              bool
	}{
		{"none", annotate.Judgment{}, -1, -1, true},
		{"one", annotate.Judgment{Scores: []float64{3}}, 0, 0, true},
		{"second better", annotate.Judgment{Scores: []float64{1, 2}}, 1, 0, false},
		{"tied scores", annotate.Judgment{Scores: []float64{2, 2}}, 0, 1, true},
		{"first of the equals", annotate.Judgment{Scores: []float64{0, 5, 5, -1, -1}}, 1, 3, false},
		{"all tied", annotate.Judgment{Scores: []float64{1, 1, 1}}, 0, 2, true},
		{"ranks only", annotate.Judgment{Ranks: []int{2, 0, 1}}, 1, 0, false},
		{"tied ranks", annotate.Judgment{Ranks: []int{0, 0}}, 0, 1, true},
		{"ranks are the label", annotate.Judgment{Scores: []float64{1, 2}, Ranks: []int{0, 1}}, 0, 1, false},
		{"ranks can tie scores", annotate.Judgment{Scores: []float64{1, 2}, Ranks: []int{0, 0}}, 0, 1, true},
		{"negative scores", annotate.Judgment{Scores: []float64{-2, -1}}, 1, 0, false},
	} {
		if chosen, rejected, tie := c.j.Pair(); chosen != c.chosen || rejected != c.rejected || tie != c.tie {
			t.Errorf("%s: got %d, %d, %v, want %d, %d, %v", c.name, chosen, rejected, tie, c.chosen, c.rejected, c.tie)
		}
	}
}

func TestCompareIsAntisymmetric(t *testing.T) {
	for _, j := range []annotate.Judgment{{Scores: []float64{1, 2, 2}}, {Ranks: []int{1, 0, 1}}} {
		for a := range 3 {
			for b := range 3 {
				if j.Compare(a, b) != -j.Compare(b, a) {
					t.Errorf("%+v: Compare(%d, %d) = %d but (%d, %d) = %d", j, a, b, j.Compare(a, b), b, a, j.Compare(b, a))
				}
			}
		}
	}
}

// judge compares and gives no scores, as an LLM judge would: longer is better, equal lengths tie.
type judge struct{}

func (judge) Name() string { return "longer" }

func (judge) Annotate(ctx context.Context, reqs []annotate.Request, _ uint64) ([]annotate.Judgment, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("longer: %w", err)
	}
	out := make([]annotate.Judgment, len(reqs))
	for i, r := range reqs {
		out[i].Ranks = make([]int, len(r.Completions))
		for a, x := range r.Completions {
			for _, y := range r.Completions {
				if len(y) > len(x) {
					out[i].Ranks[a]++
				}
			}
		}
	}
	return out, nil
}

func TestConformance(t *testing.T) {
	gold := annotate.Gold(func(prompt, completion string) float64 { return float64(len(prompt + completion)) })
	length := annotate.Config{Name: "length", Params: map[string]any{"min": 2, "max": 6}}
	configs := map[string]annotate.Config{
		"rouge_l":   {Name: "rouge_l"},
		"length":    length,
		"sentiment": {Name: "sentiment"},
		"gold":      {Name: "gold"},
		"sum":       {Name: "sum", Of: []annotate.Config{{Name: "sentiment", Weight: new(-0.5)}, length}},
		"noisy":     {Name: "gold", Noise: 0.2},
		"bradley":   {Name: "sentiment", Temperature: 0.5},
		"both":      {Name: "sentiment", Temperature: 0.5, Noise: 0.1},
	}
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			annotatetest.Run(t, func() annotate.Annotator {
				a, err := annotate.New(c, gold)
				if err != nil {
					t.Fatal(err)
				}
				return a
			})
		})
	}
	t.Run("ranks only", func(t *testing.T) {
		annotatetest.Run(t, func() annotate.Annotator { return judge{} })
	})
	t.Run("noisy ranks", func(t *testing.T) {
		annotatetest.Run(t, func() annotate.Annotator { return annotate.WithNoise(judge{}, 0.4) })
	})
}

func TestScoreErrorsNameTheCompletion(t *testing.T) {
	broken := errors.New("no such word")
	for want, score := range map[string]annotate.Score{
		"annotate with s: request 1, completion 2: no such word": func(_ annotate.Request, c string) (float64, error) {
			if c == "bad" {
				return 0, broken
			}
			return 1, nil
		},
		"annotate with s: request 1, completion 2: score is NaN": func(_ annotate.Request, c string) (float64, error) {
			if c == "bad" {
				return math.NaN(), nil
			}
			return 1, nil
		},
	} {
		reqs := []annotate.Request{{Completions: []string{"x"}}, {Completions: []string{"x", "y", "bad"}}}
		js, err := annotate.FromScore("s", score).Annotate(context.Background(), reqs, 0)
		if js != nil || err == nil || err.Error() != want {
			t.Errorf("got %v, %v, want error %q", js, err, want)
		}
		if strings.Contains(want, "word") && !errors.Is(err, broken) {
			t.Errorf("%v does not wrap its cause", err)
		}
	}
}

// annotateOne is the judgment of one pair under a seed.
func annotateOne(t *testing.T, a annotate.Annotator, prompt string, seed uint64, completions ...string) annotate.Judgment {
	t.Helper()
	js, err := a.Annotate(context.Background(), []annotate.Request{{Prompt: prompt, Completions: completions}}, seed)
	if err != nil {
		t.Fatal(err)
	}
	return js[0]
}

func byLength(scale float64) annotate.Annotator {
	return annotate.FromScore("len", func(_ annotate.Request, c string) (float64, error) {
		return scale * float64(len(c)), nil
	})
}

func TestNoiseKeepsScoresAndReversesWholeRanking(t *testing.T) {
	noisy := annotate.WithNoise(byLength(1), 0.5)
	flipped, n := 0, 400
	for seed := range uint64(n) {
		j := annotateOne(t, noisy, "p", seed, "a", "aaa", "aa", "aa")
		if fmt.Sprint(j.Scores) != "[1 3 2 2]" {
			t.Fatalf("scores changed: %v", j.Scores)
		}
		switch fmt.Sprint(j.Ranks) {
		case "[]":
		case "[0 3 1 1]":
			flipped++
		default:
			t.Fatalf("ranks %v are neither absent nor the reversed order", j.Ranks)
		}
	}
	if rate := float64(flipped) / float64(n); math.Abs(rate-0.5) > 0.125 { // five standard errors
		t.Errorf("reversed %.3f, want 0.5", rate)
	}
}

func TestNoiseDrawsDifferByPromptSeedAndTexts(t *testing.T) {
	noisy := annotate.WithNoise(byLength(1), 0.5)
	draws := func(vary func(i int) annotate.Judgment) (flips int) {
		for i := range 100 {
			if vary(i).Ranks != nil {
				flips++
			}
		}
		return flips
	}
	for name, n := range map[string]int{
		"prompt": draws(func(i int) annotate.Judgment { return annotateOne(t, noisy, fmt.Sprint(i), 0, "a", "bb") }),
		"seed":   draws(func(i int) annotate.Judgment { return annotateOne(t, noisy, "p", uint64(i), "a", "bb") }),
		"texts":  draws(func(i int) annotate.Judgment { return annotateOne(t, noisy, "p", 0, "", fmt.Sprint(i)) }),
	} {
		if n < 25 || n > 75 {
			t.Errorf("%d of 100 flips when the %s varies; want about 50", n, name)
		}
	}
	// Where one text ends and the next begins is part of the identity.
	same := 0
	for seed := range uint64(64) {
		a, b := annotateOne(t, noisy, "p", seed, "ab", "c"), annotateOne(t, noisy, "p", seed, "a", "bc")
		if (a.Ranks == nil) == (b.Ranks == nil) {
			same++
		}
	}
	if same == 64 {
		t.Error(`"ab", "c" and "a", "bc" share their draws`)
	}
}

func TestBradleyTerryRates(t *testing.T) {
	for _, c := range []struct{ difference, temperature float64 }{{0, 1}, {1, 1}, {2, 1}, {1, 0.25}, {1, 4}} {
		a := annotate.WithTemperature(byLength(c.difference), c.temperature)
		const n = 3000
		wins := 0
		for seed := range uint64(n) {
			if annotateOne(t, a, "p", seed, "xx", "y").Compare(0, 1) > 0 {
				wins++
			}
		}
		want := 1 / (1 + math.Exp(-c.difference/c.temperature))
		if rate, se := float64(wins)/n, math.Sqrt(want*(1-want)/n); math.Abs(rate-want) > 5*se {
			t.Errorf("difference %v at temperature %v: preferred %.3f, want %.3f ± %.3f", c.difference, c.temperature, rate, want, 5*se)
		}
	}
}

func TestTemperatureNeedsScores(t *testing.T) {
	_, err := annotate.WithTemperature(judge{}, 1).Annotate(context.Background(), []annotate.Request{{Completions: []string{"a"}}}, 0)
	if err == nil || !strings.Contains(err.Error(), "temperature needs scores, and longer only compares") {
		t.Errorf("got %v", err)
	}
}

// The draws are part of the format: a resumed run must repeat its labels under a later version of the program.
// The literal was computed in Python from the documented hash (SHA-256 of seed, lengths and texts, little endian).
func TestDrawsAreFrozen(t *testing.T) {
	noisy := annotate.WithNoise(byLength(1), 0.5)
	var got strings.Builder
	for seed := range uint64(24) {
		if annotateOne(t, noisy, "prompt", seed, "a", "bb").Compare(1, 0) > 0 {
			got.WriteByte('+')
		} else {
			got.WriteByte('-')
		}
	}
	if want := "++--+-++-+-+++++++++-++-"; got.String() != want {
		t.Errorf("labels %s, want %s", &got, want)
	}
}
