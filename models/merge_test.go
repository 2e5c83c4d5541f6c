package models

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/tensors"
	"pgregory.net/rapid"

	"gobpo/models/backend/backendtest"
)

// delta is scale·BA [out, in] of one layer, in float64.
func delta(a *Adapter, linear Linear) []float64 {
	nameA, nameB := loraNames(linear.Name)
	fa, fb := tensors.MustCopyFlatData[float32](a.Weights[nameA]), tensors.MustCopyFlatData[float32](a.Weights[nameB])
	out := make([]float64, linear.Out*linear.In)
	rank, scale := a.LoRA.At(linear.Name)
	for o := range linear.Out {
		for r := range rank {
			for i := range linear.In {
				out[o*linear.In+i] += scale * float64(fb[o*rank+r]) * float64(fa[r*linear.In+i])
			}
		}
	}
	return out
}

func wantDelta(t interface{ Fatalf(string, ...any) }, what string, got, want []float64) {
	for i := range want {
		if d := math.Abs(got[i] - want[i]); !(d <= 1e-5*(1+math.Abs(want[i]))) {
			t.Fatalf("%s: entry %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}

// mean_delta is the mean of the deltas for any adapters, also of different ranks and scales; peft_linear has its cross
// terms, and n times the delta for n copies.
func TestMergeDeltas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "n")
		adapters, same := make([]*Adapter, n), make([]*Adapter, n)
		for i := range adapters {
			l := LoRA{Rank: rapid.IntRange(1, 4).Draw(t, "rank"), Alpha: rapid.Float64Range(0.5, 20).Draw(t, "alpha"), Targets: []string{"q_proj", "down_proj"}}
			adapters[i] = livelyAdapter(tiny, l, uint64(i))
			same[i] = adapters[0]
		}
		mean, err := Merge("mean_delta", adapters, nil)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if err := mean.Check(tiny); err != nil {
			t.Fatalf("%v", err)
		}
		copies, err := Merge("mean_delta", same, nil)
		if err != nil {
			t.Fatalf("%v", err)
		}
		linear, err := Merge("peft_linear", same, nil)
		if err != nil {
			t.Fatalf("%v", err)
		}
		for _, lin := range tiny.Linears() {
			if !adapters[0].LoRA.on(lin) {
				continue
			}
			want, first := make([]float64, lin.Out*lin.In), delta(adapters[0], lin)
			for _, a := range adapters {
				for i, d := range delta(a, lin) {
					want[i] += d / float64(n)
				}
			}
			wantDelta(t, "mean_delta", delta(mean, lin), want)
			wantDelta(t, "mean_delta of copies", delta(copies, lin), first)
			for i := range first {
				first[i] *= float64(n)
			}
			wantDelta(t, "peft_linear of copies", delta(linear, lin), first)
		}
	})
}

// The cross terms by hand: rank 1, one entry each, A = (2), (3), B = (5), (7), scale 2, n = 2.
func TestPEFTLinearCrossTerms(t *testing.T) {
	one := func(a, b float32) *Adapter {
		return &Adapter{LoRA: LoRA{Rank: 1, Alpha: 2, Targets: []string{"q_proj"}}, Weights: Weights{
			"x.lora_A.weight": tensors.FromFlatDataAndDimensions([]float32{a}, 1, 1), "x.lora_B.weight": tensors.FromFlatDataAndDimensions([]float32{b}, 1, 1)}}
	}
	m, err := Merge("peft_linear", []*Adapter{one(2, 5), one(3, 7)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// √(2/2) = 1: A = 5, B = 12, delta 60 = (10 + 21) + cross terms (2·7 + 3·5)
	if d := delta(m, Linear{Name: "x.weight", Out: 1, In: 1}); math.Abs(d[0]-60) > 1e-4 {
		t.Errorf("delta is %g, want 60", d[0])
	}
	m, err = Merge("mean_delta", []*Adapter{one(2, 5), one(3, 7)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := delta(m, Linear{Name: "x.weight", Out: 1, In: 1}); math.Abs(d[0]-31) > 1e-4 {
		t.Errorf("mean delta is %g, want 31", d[0])
	}
}

// Both merges take the weighted sum of reward models' heads: over one body that is the weighted sum of the rewards.
func TestMergeHeads(t *testing.T) {
	c := rewardConfig(tiny)
	s := NewScorer(backendtest.Go(t), c, Bucket)
	defer s.Finalize()
	base := lively(c, 1)
	rows := randomRows(rand.New(rand.NewPCG(1, 2)), 3, 2, c.VocabSize)
	rewards := func(a *Adapter) [][]float64 {
		t.Helper()
		if err := a.Check(c); err != nil {
			t.Fatal(err)
		}
		v, err := s.Rewards(t.Context(), Policy{Base: base, Adapter: a}, rows, 3)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	one, two := NewAdapter(c, tinyLoRA, 2), NewAdapter(c, tinyLoRA, 3) // no deltas yet: they differ by their heads
	first, second := rewards(one), rewards(two)
	for _, how := range []string{"mean_delta", "peft_linear"} {
		for _, w := range [][]float64{nil, {0.25, 0.75}, {-0.5, 1.5}} {
			merged, err := Merge(how, []*Adapter{one, two}, w)
			if err != nil {
				t.Fatal(err)
			}
			if w == nil {
				w = []float64{0.5, 0.5}
			}
			for i, row := range rewards(merged) {
				for k, v := range row {
					if want := w[0]*first[i][k] + w[1]*second[i][k]; math.Abs(v-want) > 1e-4 {
						t.Errorf("%s, weights %v, row %d: reward %g, want %g", how, w, i, v, want)
					}
				}
			}
		}
	}
	if math.Abs(first[0][0]-second[0][0]) < 1e-2 {
		t.Errorf("the heads hardly differ: %g and %g", first[0][0], second[0][0])
	}
	// With deltas, copies still merge to what they are.
	a := livelyAdapter(c, tinyLoRA, 4)
	copies, err := Merge("mean_delta", []*Adapter{a, a, a}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range rewards(copies) {
		for k, v := range row {
			if want := rewards(a)[i][k]; math.Abs(v-want) > 1e-4*max(1, math.Abs(want)) {
				t.Errorf("copies, row %d: reward %g, want %g", i, v, want)
			}
		}
	}
	headless := NewAdapter(tiny, tinyLoRA, 2)
	for _, pair := range [][]*Adapter{{one, headless}, {headless, one}} {
		if _, err := Merge("mean_delta", pair, nil); err == nil || err.Error() != "merge: only one of adapters 0 and 1 has score.weight, the head of a reward model" {
			t.Errorf("error %v", err)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	a := NewAdapter(tiny, tinyLoRA, 1)
	b := NewAdapter(tiny, LoRA{Rank: 5, Alpha: 6, Targets: []string{AllLinear}}, 1)
	c := NewAdapter(tiny, LoRA{Rank: 3, Alpha: 6, Targets: []string{"q_proj"}}, 1)
	for name, f := range map[string]func() (*Adapter, error){
		"none":    func() (*Adapter, error) { return Merge("mean_delta", nil, nil) },
		"op":      func() (*Adapter, error) { return Merge("median", []*Adapter{a}, nil) },
		"ranks":   func() (*Adapter, error) { return Merge("peft_linear", []*Adapter{a, b}, nil) },
		"targets": func() (*Adapter, error) { return Merge("mean_delta", []*Adapter{a, c}, nil) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Folding an adapter, extrapolating by nothing and averaging with weight one leave the policy as it is; extrapolation
// and EMA are what their formulas say.
func TestWeightSpace(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		base := lively(tiny, 1)
		p := Policy{Base: base, Adapter: livelyAdapter(tiny, tinyLoRA, 2)}
		tokens := []int32{3, 1, 4, 1, 5, 9, 2, 6}
		want := lastLogits(t, b, tiny, p, tokens)
		same := func(what string, q Policy, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if q.Adapter != nil || len(q.Override) != len(tiny.Linears()) {
				t.Errorf("%s: adapter %v, %d overrides", what, q.Adapter, len(q.Override))
			}
			wantClose(t, what, lastLogits(t, b, tiny, q, tokens), want, 1e-5*50) // logits are of size 50 here
			q.Override.Finalize()
		}
		q, err := Fold(b, p)
		same("fold", q, err)
		q, err = Extrapolate(b, Policy{Base: base}, p, 0)
		same("extrapolate by 0", q, err)
		q, err = EMA(b, Policy{Base: base}, p, 1)
		same("ema with 1", q, err)

		const name = "model.layers.1.mlp.up_proj.weight"
		at := func(p Policy) []float32 {
			f, err := Fold(b, p)
			if err != nil {
				t.Fatal(err)
			}
			w, _ := f.Sets()
			return tensors.MustCopyFlatData[float32](w[name])
		}
		w0, w1 := at(Policy{Base: base}), at(p)
		ex, err := Extrapolate(b, Policy{Base: base}, p, 0.5)
		if err != nil {
			t.Fatal(err)
		}
		ema, err := EMA(b, Policy{Base: base}, p, 0.25)
		if err != nil {
			t.Fatal(err)
		}
		wantEx, wantEMA := make([]float32, len(w0)), make([]float32, len(w0))
		for i := range w0 {
			wantEx[i], wantEMA[i] = w1[i]+0.5*(w1[i]-w0[i]), 0.75*w0[i]+0.25*w1[i]
		}
		wantClose(t, "extrapolate", at(ex), wantEx, 1e-5)
		wantClose(t, "ema", at(ema), wantEMA, 1e-5)
		// An adapter over overrides that both policies share: they stay, those that the adapter leaves alone too.
		over := Weights{"model.norm.weight": tensors.FromFlatDataAndDimensions(slices.Repeat([]float32{3}, tiny.HiddenSize), tiny.HiddenSize)}
		start, now := Policy{Base: base, Override: over}, Policy{Base: base, Override: over, Adapter: p.Adapter}
		want = lastLogits(t, b, tiny, now, tokens)
		for name, made := range map[string]func() (Policy, error){
			"extrapolate": func() (Policy, error) { return Extrapolate(b, start, now, 0) },
			"ema":         func() (Policy, error) { return EMA(b, start, now, 1) },
		} {
			q, err := made()
			if err != nil {
				t.Fatal(err)
			}
			wantClose(t, name+" over shared overrides", lastLogits(t, b, tiny, q, tokens), want, 1e-5*150)
			if q.Override.Finalize(); !over["model.norm.weight"].Ok() {
				t.Errorf("%s: the result has not its own tensors", name)
			}
		}
		if q, err := Extrapolate(b, Policy{Base: base}, Policy{Base: base}, 1); err != nil || len(q.Override) != 0 {
			t.Errorf("the same policy twice: %d overrides, %v", len(q.Override), err)
		}
	})
}
