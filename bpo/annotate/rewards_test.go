package annotate_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"gobpo/bpo/annotate"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

// Values by hand from 2L/(n+m); the same rows give the same numbers in Google's rouge_score 0.1.2 without stemmer.
func TestRougeL(t *testing.T) {
	for _, c := range []struct {
		reference, candidate string
		want                 float64
	}{
		{"the cat sat on the mat", "the cat sat on the mat", 1},
		{"the cat sat on the mat", "the cat lay on a mat", 2 * 4.0 / 12}, // the cat on mat
		{"a b c d", "d c b a", 2 * 1.0 / 8},                              // order counts
		{"a b c d", "a c", 2 * 2.0 / 6},                                  // gaps do not
		{"Don't stop!", "dont stop", 2 * 1.0 / 5},                        // don t stop
		{"x_y-z 3.5", "x y z 3 5", 1},                                    // _ separates as well
		{"Über café", "ber caf", 1},                                      // so does every non-ASCII letter
		{"a a a", "a", 2 * 1.0 / 4},
		{"a", "a a a", 2 * 1.0 / 4},
		{"one", "two", 0},
		{"", "a", 0},
		{"a", "", 0},
		{"", "", 0},
		{"…", "…", 0},
	} {
		if got := annotate.RougeL(c.reference, c.candidate); !near(got, c.want) {
			t.Errorf("RougeL(%q, %q) = %v, want %v", c.reference, c.candidate, got, c.want)
		}
	}
}

func TestRougeLProperties(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("abcAB é.")), 0, 40, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		f := annotate.RougeL(a, b)
		if f < 0 || f > 1 {
			t.Fatalf("%v is outside [0, 1]", f)
		}
		if back := annotate.RougeL(b, a); !near(f, back) {
			t.Fatalf("F1 is symmetric, got %v and %v", f, back)
		}
		if self := annotate.RougeL(a, a); strings.ContainsAny(strings.ToLower(a), "abc") != near(self, 1) {
			t.Fatalf("a text against itself is %v", self)
		}
		if padded := annotate.RougeL(a, b+" zzz zzz"); padded > f || f > 0 && padded == f {
			t.Fatalf("words not in the reference must lower F1: %v to %v", f, padded)
		}
	})
}

// scoreOf scores one completion under a config.
func scoreOf(t *testing.T, c annotate.Config, req annotate.Request, completion string) float64 {
	t.Helper()
	a, err := annotate.New(c)
	if err != nil {
		t.Fatal(err)
	}
	req.Completions = []string{completion}
	js, err := a.Annotate(context.Background(), []annotate.Request{req}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return js[0].Scores[0]
}

func TestRougeLUsesTheReference(t *testing.T) {
	c := annotate.Config{Name: "rouge_l"}
	if got := scoreOf(t, c, annotate.Request{Prompt: "a b", Reference: "c d"}, "c d"); got != 1 {
		t.Errorf("got %v, want 1", got)
	}
	if got := scoreOf(t, c, annotate.Request{Prompt: "a b"}, "a b"); got != 0 {
		t.Errorf("without a reference got %v, want 0", got)
	}
}

func TestLengthWindow(t *testing.T) {
	words := func(n int) string { return strings.TrimSpace(strings.Repeat("w ", n)) }
	window := annotate.Config{Name: "length", Params: map[string]any{"min": 4, "max": 6, "decay": 4}}
	for n, want := range []float64{0, 0.25, 0.5, 0.75, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0} {
		if got := scoreOf(t, window, annotate.Request{}, words(n)); !near(got, want) {
			t.Errorf("%d words: %v, want %v", n, got, want)
		}
	}
	chars := annotate.Config{Name: "length", Params: map[string]any{"max": 2, "decay": 2.0, "unit": "chars"}}
	for text, want := range map[string]float64{"": 1, "éé": 1, "日本語": 0.5, "a b ": 0, "toolong": 0} {
		if got := scoreOf(t, chars, annotate.Request{}, text); !near(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := scoreOf(t, annotate.Config{Name: "length", Params: map[string]any{"max": 1}}, annotate.Request{}, "a\tb\n c"); !near(got, 0.8) {
		t.Errorf("three words at the default decay of 10: %v, want 0.8", got)
	}
}

// Values of the Python vaderSentiment 3.3.2, which rounds to four digits.
func TestSentiment(t *testing.T) {
	for text, want := range map[string]float64{
		"VADER is smart, handsome, and funny.":     0.8316,
		"VADER is not smart, handsome, nor funny.": -0.7424,
		"The book was good.":                       0.4404,
		"At least it isn't a horrible book.":       0.431,
		"Not bad at all":                           0.431,
		"Today SUX!":                               -0.5461,
		"I really love it!!!":                      0.7483,
		"I hate this, but thank you so much :)":    0.7444,
		"the table is brown":                       0,
		"":                                         0,
	} {
		if got := scoreOf(t, annotate.Config{Name: "sentiment"}, annotate.Request{}, text); math.Abs(got-want) > 1e-4 {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestSum(t *testing.T) {
	c := annotate.Config{Name: "sum", Of: []annotate.Config{
		{Name: "rouge_l", Weight: new(2.0)},
		{Name: "length", Weight: new(-0.5), Params: map[string]any{"max": 1, "decay": 2}},
		{Name: "sum", Of: []annotate.Config{{Name: "rouge_l"}}}, // weights default to 1, sums nest
	}}
	// "a b" against "a": ROUGE-L 2/3; length 2 is 1 above the window: 0.5.
	if got, want := scoreOf(t, c, annotate.Request{Reference: "a"}, "a b"), 2*2.0/3-0.25+2.0/3; !near(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	a, err := annotate.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := "sum(2*rouge_l, -0.5*length(max=1, decay=2), 1*sum(1*rouge_l))"; a.Name() != want {
		t.Errorf("name %q, want %q", a.Name(), want)
	}
}

func TestGold(t *testing.T) {
	reward := func(prompt, completion string) float64 { return float64(len(prompt)*10 + len(completion)) }
	c := annotate.Config{Name: "sum", Of: []annotate.Config{{Name: "gold", Weight: new(2.0)}}}
	a, err := annotate.New(c, annotate.Gold(reward))
	if err != nil {
		t.Fatal(err)
	}
	js, err := a.Annotate(context.Background(), []annotate.Request{{Prompt: "pp", Completions: []string{"c", "ccc"}}}, 0)
	if err != nil || fmt.Sprint(js[0].Scores) != "[42 46]" {
		t.Errorf("got %v, %v", js, err)
	}
}

func FuzzRewards(f *testing.F) {
	for _, s := range []string{"", "good", "GOOD!!!", "not :( but", "é\xff", "kind of least at all", "👍👍", "? ? ?", "'s"} {
		f.Add(s, s)
	}
	var all []annotate.Annotator
	for _, c := range []annotate.Config{
		{Name: "rouge_l"}, {Name: "sentiment"}, {Name: "length", Params: map[string]any{"max": 3}},
	} {
		a, err := annotate.New(c)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, a)
	}
	f.Fuzz(func(t *testing.T, reference, completion string) {
		for _, a := range all {
			js, err := a.Annotate(context.Background(), []annotate.Request{{Reference: reference, Completions: []string{completion}}}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if s := js[0].Scores[0]; !(s >= -1 && s <= 1) {
				t.Fatalf("%s(%q, %q) = %v", a.Name(), reference, completion, s)
			}
		}
	})
}

func BenchmarkSentiment(b *testing.B) {
	a, err := annotate.New(annotate.Config{Name: "sentiment"})
	if err != nil {
		b.Fatal(err)
	}
	req := []annotate.Request{{Completions: []string{strings.Repeat("this is not a very good answer, but thank you. ", 6)}}}
	for b.Loop() {
		if _, err := a.Annotate(context.Background(), req, 0); err != nil {
			b.Fatal(err)
		}
	}
}
