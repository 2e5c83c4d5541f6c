package experiments

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/experiments/stats"
)

// outputsOf are texts of prompts whose references are five words.
func outputsOf(name string, texts ...string) Outputs {
	o := Outputs{Name: name}
	for i, text := range texts {
		o.Rows = append(o.Rows, data.Completion{Prompt: string(rune('a' + i)), Reference: "one two three four five", Text: text})
	}
	return o
}

// By words up to three: x wins twice against y, ties once, loses once.
func TestJudgeHeadToHead(t *testing.T) {
	x := outputsOf("x", "one two three", "one two three", "one", "one two three four five six")
	y := outputsOf("y", "one two three four five", "one two three four five", "two", "one")
	c := EvalConfig{Annotator: annotate.Config{Name: "length", Params: map[string]any{"max": 3}}, Bootstrap: 200}
	s := new(Session)
	j, err := s.Judge(t.Context(), []Outputs{x, y}, c)
	if err != nil {
		t.Fatal(err)
	}
	h := j.HeadToHead[0]
	if h.A != "x" || h.B != "y" || h.Rate != 0.625 || h.Ties != 0.25 || h.P != 1 || h.Holm != 1 || h.Interval.Low > 0.625 || h.Interval.High < 0.625 {
		t.Errorf("%+v", h)
	}
	if got := j.Against[0].Metrics["eval/win_rate"]; got != 0.75 { // against five words: won thrice, lost to by six
		t.Errorf("x against the references %v", got)
	}
	var out bytes.Buffer
	if err := PrintJudgments(&out, []Outputs{x, y}, j); err != nil || !strings.Contains(out.String(), "x over y") || !strings.Contains(out.String(), "x and y are not told apart; about") {
		t.Errorf("%s%v", out.String(), err)
	}
	y.Rows[2].Prompt = "other"
	if _, err := s.Judge(t.Context(), []Outputs{x, y}, c); err == nil || !strings.Contains(err.Error(), "output 3 of x and of y are of different prompts") {
		t.Errorf("error %v", err)
	}
	y.Rows = y.Rows[:3]
	if _, err := s.Judge(t.Context(), []Outputs{x, y}, c); err == nil || !strings.Contains(err.Error(), "x has 4 outputs and y 3") {
		t.Errorf("error %v", err)
	}
}

// Three outputs, of which the shorter text wins. x over y 8 : 1, p = 2·(1 + 9)/2⁹; x over z 9 : 0, 2/2⁹; y over z 8 : 0, 2/2⁸.
// Holm's are thrice the smallest, twice the next, and the largest as it is.
func TestHeadToHeadHolm(t *testing.T) {
	texts := []string{1: "one", 2: "one two", 3: "one two three"}
	var x, y, z []string
	for n, times := range map[[3]int]int{{1, 2, 3}: 6, {1, 2, 2}: 2, {1, 1, 2}: 1, {2, 1, 2}: 1} {
		for range times {
			x, y, z = append(x, texts[n[0]]), append(y, texts[n[1]]), append(z, texts[n[2]])
		}
	}
	c := EvalConfig{Annotator: annotate.Config{Name: "length", Params: map[string]any{"max": 1}}, Bootstrap: 50}
	j, err := new(Session).Judge(t.Context(), []Outputs{outputsOf("x", x...), outputsOf("y", y...), outputsOf("z", z...)}, c)
	if err != nil {
		t.Fatal(err)
	}
	want := []HeadToHead{
		{A: "x", B: "y", Rate: 0.85, Ties: 0.1, P: 0.0390625, Holm: 0.0390625},
		{A: "x", B: "z", Rate: 0.95, Ties: 0.1, P: 0.00390625, Holm: 0.01171875},
		{A: "y", B: "z", Rate: 0.9, Ties: 0.2, P: 0.0078125, Holm: 0.015625},
	}
	if len(j.HeadToHead) != len(want) {
		t.Fatalf("%+v", j.HeadToHead)
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }
	for i, w := range want {
		if h := j.HeadToHead[i]; h.A != w.A || h.B != w.B || !near(h.Rate, w.Rate) || !near(h.Ties, w.Ties) || !near(h.P, w.P) || !near(h.Holm, w.Holm) {
			t.Errorf("got %+v, want %+v", h, w)
		}
	}
}

// Three prompts on which one side always wins: the interval is a point, and the exact test, p = 2/2³, tells nothing apart. Of
// six, 2/2⁶ does.
func TestFewPromptsTellNothingApart(t *testing.T) {
	c := EvalConfig{Annotator: annotate.Config{Name: "length", Params: map[string]any{"max": 1}}, Bootstrap: 50}
	for n, apart := range map[int]bool{3: false, 6: true} {
		all := []Outputs{outputsOf("x", slices.Repeat([]string{"one two"}, n)...), outputsOf("y", slices.Repeat([]string{"one"}, n)...)}
		j, err := new(Session).Judge(t.Context(), all, c)
		if err != nil {
			t.Fatal(err)
		}
		if h := j.HeadToHead[0]; h.Rate != 0 || h.Interval != (stats.Interval{}) || math.Abs(h.P-math.Pow(2, float64(1-n))) > 1e-12 {
			t.Errorf("%+v", h)
		}
		var out, one strings.Builder
		if err := PrintJudgments(&out, all, j); err != nil {
			t.Fatal(err)
		}
		j.Against[0].PrintHints(&one)
		few := fmt.Sprintf("n is %d: of fewer than 30 prompts, intervals and length-controlled rates are not to be relied on\n", n)
		if strings.Contains(out.String(), "\nx and y are not told apart\n") == apart || strings.Contains(out.String(), "\ny and the references are not told apart\n") == apart || !strings.HasSuffix(out.String(), "\n"+few) {
			t.Errorf("of %d prompts:\n%s", n, &out)
		}
		if want := few; apart && one.String() != want || !apart && one.String() != "the outputs and the references are not told apart\n"+want {
			t.Errorf("of %d prompts: %s", n, &one)
		}
	}
}

// What judges runs where nothing is said is what they agree on; gold is a reward where all are of one task.
func TestDefaultEvaluator(t *testing.T) {
	run := func(name, task, evaluator string) Outputs {
		c := DefaultConfig()
		c.Task.Name, c.Eval.Annotator.Name = task, evaluator
		o := outputsOf(name, "one", "two")
		o.run = &c
		return o
	}
	seeded := run("d", "picnic", "gold")
	seeded.run.Task.Seed = 7
	texts := outputsOf("t", "one", "two")
	for name, c := range map[string]struct {
		all       []Outputs
		want, why string
		gold      bool
	}{
		"agree":      {[]Outputs{run("a", "picnic", "gold"), run("b", "picnic", "gold")}, "gold", "", true},
		"of files":   {[]Outputs{run("a", "", "length"), run("b", "", "length")}, "length", "", false},
		"evaluators": {[]Outputs{run("a", "picnic", "gold"), run("b", "picnic", "length")}, "rouge_l", "a and b have different evaluators (eval.annotator)", true},
		"tasks":      {[]Outputs{run("a", "picnic", "gold"), run("b", "", "gold")}, "rouge_l", "a and b are of different tasks", false},
		"seeds":      {[]Outputs{run("a", "picnic", "gold"), seeded}, "rouge_l", "a and d are of different tasks", true},
		"mixed":      {[]Outputs{run("a", "picnic", "gold"), texts}, "rouge_l", "", false},
		"texts":      {[]Outputs{texts, texts}, "rouge_l", "", false},
	} {
		got, why := DefaultEvaluator(c.all)
		if got.Name != c.want || why != c.why || (goldOf(c.all) != nil) != c.gold {
			t.Errorf("%s: %s, %q, gold %v", name, got.Name, why, goldOf(c.all) != nil)
		}
	}
}

func TestJudgePairs(t *testing.T) {
	pairs := []data.Preference{{Prompt: "a", Chosen: "one", Rejected: "one two three"}, {Prompt: "b", Chosen: "one two three", Rejected: "one"}, {Prompt: "c", Chosen: "two", Rejected: "one"}}
	short := annotate.Config{Name: "length", Params: map[string]any{"max": 1}}
	long := annotate.Config{Name: "length", Params: map[string]any{"min": 3, "max": 9}}
	all, err := new(Session).JudgePairs(t.Context(), pairs, []annotate.Config{short, long}, 100)
	if err != nil {
		t.Fatal(err)
	}
	if all[0].Rate != 0.5 || all[1].Rate != 0.5 { // each right once, wrong once, tied once
		t.Errorf("%+v", all)
	}
	a := PairAgreements(all, 100)
	if len(a) != 1 || math.Abs(a[0].Raw-1.0/3) > 1e-12 || a[0].Table != [3][3]int{{0, 0, 1}, {0, 1, 0}, {1, 0, 0}} {
		t.Errorf("%+v", a)
	}
}

// A judge's counts are those of one comparison each, of every third answer no verdict can be read, and both are told.
func TestJudgeUsageByComparison(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer := "Preferred: A"
		if n++; n%3 == 0 {
			answer = "hm"
		}
		_, _ = fmt.Fprintf(w, `{"choices": [{"message": {"content": %q}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}`, answer)
	}))
	defer server.Close()
	judge := annotate.Config{Name: "judge", Params: map[string]any{
		"endpoint": server.URL, "model": "m", "cache": "none", "concurrency": 1, "max_unparsed": 0.5, "price_in": 0.1}}
	x, y := outputsOf("x", "one", "two", "three"), outputsOf("y", "un", "deux", "trois")
	j, err := new(Session).Judge(t.Context(), []Outputs{x, y}, EvalConfig{Annotator: judge, Bootstrap: 50})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"judge/requests": 6, "judge/unparsed": 2, "judge/prompt_tokens": 42, "judge/completion_tokens": 12, "judge/cost": 4.2e-6}
	for name, n := range want { // three pairs, each in both orders
		for _, e := range j.Against {
			if e.Metrics["eval/"+name] != n {
				t.Errorf("eval/%s %v, want %v", name, e.Metrics["eval/"+name], n)
			}
		}
	}
	if !maps.Equal(j.HeadToHead[0].Usage, want) {
		t.Errorf("head to head %v, want %v", j.HeadToHead[0].Usage, want)
	}
	var out bytes.Buffer
	const told = ": judge/completion_tokens 12, judge/cost 0.0000042, judge/prompt_tokens 42, judge/requests 6, judge/unparsed 2\n"
	if err := PrintJudgments(&out, []Outputs{x, y}, j); err != nil || strings.Count(out.String(), told) != 3 || !strings.Contains(out.String(), "x and y"+told) {
		t.Errorf("%s%v", out.String(), err)
	}
	pairs := []data.Preference{{Prompt: "a", Chosen: "one", Rejected: "two"}, {Prompt: "b", Chosen: "two", Rejected: "one"}, {Prompt: "c", Chosen: "two", Rejected: "three"}}
	all, err := new(Session).JudgePairs(t.Context(), pairs, []annotate.Config{{Name: "rouge_l"}, judge}, 50)
	if err != nil {
		t.Fatal(err)
	}
	if all[0].Usage != nil || !maps.Equal(all[1].Usage, want) {
		t.Errorf("on pairs %v and %v, want %v", all[0].Usage, all[1].Usage, want)
	}
	out.Reset()
	if err := PrintAccuracies(&out, all, len(pairs)); err != nil || !strings.HasSuffix(out.String(), "\n"+all[1].Evaluator+told) {
		t.Errorf("%s%v", out.String(), err)
	}
}

// A rate of 0.55 ± 0.1 needs 817 prompts, and one whose interval excludes one half none.
func TestPromptsNeeded(t *testing.T) {
	if n := promptsNeeded(100, 0.55, stats.Interval{Low: 0.45, High: 0.65}); n < 815 || n > 820 { // 100·(2.8016/1.95996·2)² = 817.3
		t.Errorf("%d", n)
	}
	for _, i := range []stats.Interval{{Low: 0.51, High: 0.6}, {Low: math.NaN(), High: math.NaN()}} {
		if n := promptsNeeded(100, 0.55, i); n != 0 {
			t.Errorf("%+v: %d", i, n)
		}
	}
	if n := promptsNeeded(100, 0.5, stats.Interval{Low: 0.4, High: 0.6}); n != 0 {
		t.Errorf("one half: %d", n)
	}
}
