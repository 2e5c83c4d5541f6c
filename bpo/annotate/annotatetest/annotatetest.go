// Package annotatetest checks that an annotator keeps the promises of [annotate.Annotator].
package annotatetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"gobpo/bpo/annotate"
)

// Run is the conformance suite. open returns a fresh annotator, equal each time; it is asked for a few dozen
// judgments per check, of 0, 1, 2 and 5 completions with empty, repeated and non-ASCII texts among them.
func Run(t *testing.T, open func() annotate.Annotator) {
	t.Helper()
	for _, check := range []struct {
		name string
		fn   func(t *testing.T, open func() annotate.Annotator)
	}{
		{"WellFormed", wellFormed},
		{"BatchEqualsSingle", batchEqualsSingle},
		{"PermutationEquivariant", permutationEquivariant},
		{"EqualTextsTie", equalTextsTie},
		{"Deterministic", deterministic},
		{"Concurrent", concurrent},
		{"Cancelled", cancelled},
		{"NoiseRate", noiseRate},
	} {
		t.Run(check.name, func(t *testing.T) { check.fn(t, open) })
	}
}

// texts cover what models emit: nothing, white space, punctuation alone, repeats, other scripts, broken UTF-8.
var texts = []string{
	"", " ", "\n\n", "!?", "A good, short answer.", "a bad answer", "This is great, thank you so much!",
	"No. I hate it; it is horrible.", "pack tea, cake and a rug.", "tea tea tea tea tea tea", "Ἡ ἀρχὴ ἥμισυ παντός",
	"これは良い答えです。", "😀 fine", "e\u0301té", "\xff\xfe broken", "one two three four five six seven eight nine ten",
}

// Requests returns n varied requests with k completions each, the same for the same arguments.
func Requests(n, k int) []annotate.Request {
	rng := rand.New(rand.NewPCG(uint64(k), 7))
	reqs := make([]annotate.Request, n)
	for i := range reqs {
		reqs[i].Prompt = fmt.Sprintf("Question %d: what shall we take? ", i)
		if i%3 != 0 {
			reqs[i].Reference = texts[rng.IntN(len(texts))]
		}
		for range k {
			text := texts[rng.IntN(len(texts))]
			if rng.IntN(2) == 0 {
				text += fmt.Sprintf(" plus %d", rng.IntN(1000))
			}
			reqs[i].Completions = append(reqs[i].Completions, text)
		}
	}
	return reqs
}

// mixed has requests of 0, 1, 2 and 5 completions side by side.
func mixed() []annotate.Request {
	return slices.Concat(Requests(1, 0), Requests(4, 1), Requests(12, 2), Requests(8, 5))
}

func judge(t *testing.T, a annotate.Annotator, reqs []annotate.Request, seed uint64) []annotate.Judgment {
	t.Helper()
	js, err := a.Annotate(context.Background(), reqs, seed)
	if err != nil {
		t.Fatalf("%s: %v", a.Name(), err)
	}
	if len(js) != len(reqs) {
		t.Fatalf("%s: %d judgments for %d requests", a.Name(), len(js), len(reqs))
	}
	return js
}

func wellFormed(t *testing.T, open func() annotate.Annotator) {
	a := open()
	if a.Name() == "" {
		t.Error("the name is empty")
	}
	judge(t, a, nil, 1)
	reqs := mixed()
	for i, j := range judge(t, a, reqs, 1) {
		k := len(reqs[i].Completions)
		if j.Len() != k {
			t.Fatalf("request %d has %d completions, its judgment %d", i, k, j.Len())
		}
		if j.Scores != nil && len(j.Scores) != k || j.Ranks != nil && len(j.Ranks) != k {
			t.Fatalf("request %d: %d scores and %d ranks for %d completions", i, len(j.Scores), len(j.Ranks), k)
		}
		for c, v := range j.Scores {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("request %d, completion %d: score %v", i, c, v)
			}
		}
		for c := range j.Ranks {
			preferred := 0 // the definition of a rank, which also excludes cycles
			for o := range j.Ranks {
				if j.Ranks[o] < j.Ranks[c] {
					preferred++
				}
			}
			if preferred != j.Ranks[c] {
				t.Errorf("request %d: ranks %v: %d completions precede number %d", i, j.Ranks, preferred, c)
			}
		}
		chosen, rejected, tie := j.Pair()
		if k > 1 && (chosen == rejected || tie != (j.Compare(chosen, rejected) == 0)) {
			t.Errorf("request %d: pair %d, %d, tie %v", i, chosen, rejected, tie)
		}
	}
}

func batchEqualsSingle(t *testing.T, open func() annotate.Annotator) {
	reqs := mixed()
	all := judge(t, open(), reqs, 3)
	a := open()
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(reqs)) { // another order too
		if one := judge(t, a, reqs[i:i+1], 3)[0]; !equal(one, all[i]) {
			t.Errorf("request %d: alone %+v, in the batch %+v", i, one, all[i])
		}
	}
}

func permutationEquivariant(t *testing.T, open func() annotate.Annotator) {
	a, rng := open(), rand.New(rand.NewPCG(5, 6))
	for _, k := range []int{1, 2, 5} {
		reqs := Requests(12, k)
		permuted, perms := slices.Clone(reqs), make([][]int, len(reqs))
		for i := range reqs {
			perms[i] = rng.Perm(k)
			permuted[i].Completions = pick(reqs[i].Completions, perms[i])
		}
		before, after := judge(t, a, reqs, 9), judge(t, a, permuted, 9)
		for i := range reqs {
			for x := range k {
				for y := range k {
					if after[i].Compare(x, y) != before[i].Compare(perms[i][x], perms[i][y]) {
						t.Fatalf("k=%d, request %d: %q judged %+v, permuted by %v %+v",
							k, i, reqs[i].Completions, before[i], perms[i], after[i])
					}
				}
			}
			if s := before[i].Scores; s != nil && !slices.Equal(after[i].Scores, pick(s, perms[i])) {
				t.Fatalf("k=%d, request %d: scores %v, permuted by %v %v", k, i, s, perms[i], after[i].Scores)
			}
		}
	}
}

func equalTextsTie(t *testing.T, open func() annotate.Annotator) {
	a := open()
	for _, text := range texts {
		req := annotate.Request{Prompt: "p", Reference: "a good reference", Completions: []string{text, "something else", text}}
		for seed := range uint64(4) {
			if j := judge(t, a, []annotate.Request{req}, seed)[0]; j.Compare(0, 2) != 0 {
				t.Fatalf("the same text %q twice is not tied: %+v", text, j)
			}
		}
	}
}

func deterministic(t *testing.T, open func() annotate.Annotator) {
	reqs := mixed()
	a := open()
	first := judge(t, a, reqs, 11)
	judge(t, a, reqs, 12) // another seed in between leaves no trace
	for _, again := range [][]annotate.Judgment{judge(t, a, reqs, 11), judge(t, open(), reqs, 11)} {
		if !slices.EqualFunc(first, again, equal) {
			t.Fatal("the same requests and seed were judged differently")
		}
	}
}

func concurrent(t *testing.T, open func() annotate.Annotator) {
	a, reqs := open(), mixed()
	want := judge(t, open(), reqs, 2)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			js, err := a.Annotate(context.Background(), reqs, 2)
			if err != nil || !slices.EqualFunc(js, want, equal) {
				t.Errorf("concurrent calls disagree (error %v)", err)
			}
		})
	}
	wg.Wait()
}

func cancelled(t *testing.T, open func() annotate.Annotator) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	js, err := open().Annotate(ctx, mixed(), 1)
	if !errors.Is(err, context.Canceled) || js != nil {
		t.Errorf("cancelled: %d judgments, error %v; want none, and one that wraps context.Canceled", len(js), err)
	}
}

// noiseRate flips with probability 0.3 and counts over many seeds; ties stay ties.
func noiseRate(t *testing.T, open func() annotate.Annotator) {
	const p, seeds = 0.3, 60
	a := open()
	noisy, reqs := annotate.WithNoise(a, p), Requests(24, 2)
	flips, n := 0, 0
	for seed := range uint64(seeds) {
		clean, labels := judge(t, a, reqs, seed), judge(t, noisy, reqs, seed)
		for i := range reqs {
			switch want, got := clean[i].Compare(0, 1), labels[i].Compare(0, 1); {
			case want == 0 && got != 0:
				t.Fatalf("noise broke the tie of request %d", i)
			case want != 0:
				n++
				if got == -want {
					flips++
				}
			}
		}
	}
	if n == 0 {
		t.Skip("every request is a tie for this annotator")
	}
	// Prompts differ, so draws are independent; five standard errors.
	if rate, se := float64(flips)/float64(n), math.Sqrt(p*(1-p)/float64(n)); math.Abs(rate-p) > 5*se {
		t.Errorf("flipped %.3f of %d preferences, want %v ± %.3f", rate, n, p, 5*se)
	}
}

func equal(a, b annotate.Judgment) bool {
	return slices.Equal(a.Scores, b.Scores) && slices.Equal(a.Ranks, b.Ranks) && (a.Ranks == nil) == (b.Ranks == nil)
}

func pick[T any](values []T, perm []int) []T {
	out := make([]T, len(perm))
	for i, p := range perm {
		out[i] = values[p]
	}
	return out
}
