package data

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func jsonBytes(t interface{ Fatal(...any) }, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The leaks of the real data, counted independently (exact prompt and label).
func TestCheckRealLeaks(t *testing.T) {
	train, sampling := shared(t, "hh/train.jsonl"), shared(t, "hh/sampling.jsonl")
	dev, test := shared(t, "hh/dev.jsonl"), shared(t, "hh/test.jsonl")
	rep := Check(CheckOptions{}, test, dev, sampling, train)
	exact := map[[2]string]int{}
	for _, l := range rep.Leaks {
		exact[[2]string{filepath.Base(l.A), filepath.Base(l.B)}] = l.AinB.Rows
	}
	for k, want := range map[[2]string]int{
		{"test.jsonl", "train.jsonl"}: 217, {"test.jsonl", "sampling.jsonl"}: 240, {"test.jsonl", "dev.jsonl"}: 15,
		{"dev.jsonl", "train.jsonl"}: 244, {"sampling.jsonl", "train.jsonl"}: 4631,
	} {
		if exact[k] != want {
			t.Errorf("%s in %s: %d rows, want %d", k[0], k[1], exact[k], want)
		}
	}
	if rep.Files[3].Duplicates != 2507 || rep.Files[2].Duplicates != 2498 || rep.Files[3].Prompts != 7465 || rep.Files[2].Prompts != 7480 {
		t.Errorf("train %+v\nsampling %+v", rep.Files[3], rep.Files[2])
	}
	if len(rep.Errors) != 6 {
		t.Errorf("%d errors, want 6 leaking pairs: %v", len(rep.Errors), rep.Errors)
	}
	if c := Check(CheckOptions{AllowLeakage: true}, test, train); len(c.Errors) != 0 || len(c.Leaks) != 1 {
		t.Errorf("allowed leakage: %+v", c.Errors)
	}
	if c := Check(CheckOptions{}, shared(t, "tldr/dev.jsonl"), shared(t, "tldr/test.jsonl"), shared(t, "harm/dev.jsonl"), shared(t, "harm/test.jsonl")); len(c.Leaks) != 0 {
		t.Errorf("tldr and harm do not overlap, but %v", c.Errors)
	}
	a, err := LoadPrompts(test)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadPrompts(train)
	if err != nil {
		t.Fatal(err)
	}
	if o := Leakage(a, b); o.Rows != 217 || o.Prompts != 218 || o.Of != 500 || o.Example == "" {
		t.Errorf("Leakage: %+v", o)
	}
}

func TestCheckFlaws(t *testing.T) {
	prompts := file(t, "prompts.jsonl", `{"prompt":"a b","label":"x"}
{"prompt":"a b","label":"x"}
{"prompt":"a b","label":"y"}
{"prompt":"c","label":" "}
{"prompt":"","label":"z"}`)
	pairs := file(t, "pairs.jsonl", `{"prompt":"c","chosen":"A","rejected":"A"}
{"prompt":"d","chosen":"A","rejected":"B"}`)
	broken := file(t, "broken.jsonl", "{")
	empty := file(t, "empty.jsonl", "")
	rep := Check(CheckOptions{Tokens: func(s string) int { return 10 * len(s) }}, prompts, pairs, broken, empty)
	f := rep.Files[0]
	if f.Rows != 5 || f.Prompts != 3 || f.Duplicates != 1 || f.SamePrompt != 1 || f.Schema != "prompts/v1" {
		t.Errorf("prompts: %+v", f)
	}
	if q := f.Lengths["prompt tokens"]; q.N != 5 || q.Max != 30 || q.Mean != 20 {
		t.Errorf("prompt tokens %+v", q)
	}
	if q := f.Lengths["reference words"]; q.N != 4 {
		t.Errorf("reference words %+v, want the 4 that are not empty", q)
	}
	var out strings.Builder
	if err := rep.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 of 5 rows: the reference (label) is empty", "1 of 5 rows: the prompt is empty", "1 of 2 rows: " + SkipIdentical,
		"1 of 5 rows: equal to an earlier row", "error: leakage: 1 of 5 rows", "broken.jsonl: line 1: not a JSON object", "empty.jsonl: no rows",
		"4 files, 3 errors",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(rep.Leaks[0].String(), "exactly") {
		t.Errorf("prompts and pairs cannot be compared exactly: %s", rep.Leaks[0])
	}
}

func TestQuantiles(t *testing.T) {
	var v []int32
	for i := range 100 {
		v = append(v, int32(100-i))
	}
	if q := quantilesOf(v); q != (Quantiles{N: 100, Min: 1, P50: 50, P90: 90, P99: 99, Max: 100, Mean: 50.5}) {
		t.Errorf("%+v", q)
	}
	if q := quantilesOf([]int32{7}); q != (Quantiles{N: 1, Min: 7, P50: 7, P90: 7, P99: 7, Max: 7, Mean: 7}) {
		t.Errorf("%+v", q)
	}
	if q := quantilesOf(nil); q != (Quantiles{}) {
		t.Errorf("%+v", q)
	}
}

func TestParseSplits(t *testing.T) {
	s, err := ParseSplits("train=0.9, dev=0.05,test=0.05")
	if err != nil || !slices.Equal(s, Splits{{"train", 0.9}, {"dev", 0.05}, {"test", 0.05}}) {
		t.Errorf("%v, %v", s, err)
	}
	for _, bad := range []string{"", "train", "train=0.5", "a=0.5,a=0.5", "a=1.5,b=-0.5", "a=NaN,b=1", "../x=1", "=1", "a=0.9,b=0.2", "a=0,b=1"} {
		if s, err := ParseSplits(bad); err == nil || !strings.Contains(err.Error(), "split") {
			t.Errorf("%q: %v, %v; want an error", bad, s, err)
		}
	}
}

// IDs are in files and run directories: they must not change. (The value is
// Python's hashlib over the same bytes.)
func TestID(t *testing.T) {
	if got, want := ID("a", "bc"), "9a8acca1b6c6c0be"; got != want {
		t.Errorf("ID = %s, was %s", got, want)
	}
	if ID("ab", "c") == ID("a", "bc") || ID("a") == ID("a", "") {
		t.Error("texts run into each other")
	}
}

// A prompt's split depends on nothing but the prompt, the seed and the shares.
func TestSplitStable(t *testing.T) {
	s := Splits{{"train", 0.8}, {"test", 0.2}}
	count := map[string]int{}
	moved := 0
	for i := range 20_000 {
		p := ID(string(rune(i)))
		count[s.Of(p, 1)]++
		if s.Of(p, 1) != s.Of(p, 2) {
			moved++
		}
	}
	if n := count["test"]; n < 3800 || n > 4200 { // 4000 ± 3.5 standard deviations
		t.Errorf("%d of 20000 in test, want about 4000", n)
	}
	if moved < 5800 || moved > 7000 { // 2·0.8·0.2 of them
		t.Errorf("another seed moves %d of 20000, want about 6400", moved)
	}
	for prompt, want := range map[string]string{"a": "train", "b": "train", "Hi": "test", "": "train"} { // pinned: old splits must stay
		if got := s.Of(prompt, 0); got != want {
			t.Errorf("%q is now in %s, was in %s", prompt, got, want)
		}
	}
	if Splits(nil).Of("x", 0) != "" {
		t.Error("no splits: want no name")
	}
}

func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, seed, epoch := rapid.IntRange(0, 300).Draw(t, "n"), rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 1000).Draw(t, "epoch")
		a := Order(n, seed, epoch)
		if !slices.Equal(a, Order(n, seed, epoch)) {
			t.Fatal("not a function of its arguments")
		}
		sorted := slices.Sorted(slices.Values(a))
		for i, v := range sorted {
			if i != v {
				t.Fatalf("not a permutation: %v", a)
			}
		}
		if n > 20 && (slices.Equal(a, Order(n, seed+1, epoch)) || slices.Equal(a, Order(n, seed, epoch+1))) {
			t.Fatal("another seed or epoch gives the same order")
		}
	})
	if got, want := Order(10, 42, 0), []int{7, 8, 5, 6, 2, 4, 3, 0, 9, 1}; !slices.Equal(got, want) {
		t.Errorf("Order(10, 42, 0) = %v, was %v: resumed runs would change", got, want)
	}
}

// Every element is in every place equally often, over neighbouring seeds and
// epochs.
func TestOrderUniform(t *testing.T) {
	const n, draws = 8, 8000
	var at [n][n]int
	for i := range draws {
		for place, v := range Order(n, uint64(i%80), i/80) {
			at[place][v]++
		}
	}
	chi2 := 0.0
	for _, row := range at {
		for _, c := range row {
			d := float64(c) - draws/n
			chi2 += d * d / (draws / n)
		}
	}
	if chi2 > 100 { // 49 degrees of freedom: P(χ² > 100) < 2e-5
		t.Errorf("χ² = %.1f over 49 degrees of freedom: %v", chi2, at)
	}
}
