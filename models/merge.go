package models

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/dlclark/regexp2"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Merge makes one adapter of several over the same layers (the ensemble of BPO). With D = scale·BA the delta of each,
// and weights w that are 1/n where nil is given:
//
//	mean_delta   the exact weighted sum of the deltas, by concatenating ranks (rank Σrᵢ): n copies of an adapter merge
//	             to it
//	peft_linear  what PEFT's add_weighted_adapter(combination_type="linear") makes: A = Σ sign(wᵢ)·√|wᵢsᵢ|·Aᵢ,
//	             B = Σ√|wᵢsᵢ|·Bᵢ, scale 1. For equal weights its delta is (s/n)·Σᵢⱼ BᵢAⱼ: n times the mean for n copies,
//	             and cross terms between different ones. The authors' code merges this way. Ranks must be equal.
//
// The head of reward models is Σwᵢ·headᵢ in both, which PEFT refuses to merge. All adapters have one, or none.
//
// Runs on the host; the result shares nothing with its inputs.
func Merge(how string, adapters []*Adapter, weights []float64) (*Adapter, error) {
	if len(adapters) == 0 {
		return nil, fmt.Errorf("merge: no adapters")
	}
	if weights == nil {
		weights = slices.Repeat([]float64{1 / float64(len(adapters))}, len(adapters))
	}
	if len(weights) != len(adapters) {
		return nil, fmt.Errorf("merge: %d weights for %d adapters", len(weights), len(adapters))
	}
	join := map[string]func([]factors, []float64) (factors, error){"mean_delta": concatenate, "peft_linear": sumFactors}[how]
	if join == nil {
		return nil, fmt.Errorf("merge: %q is not one of mean_delta, peft_linear", how)
	}
	first := adapters[0]
	out, ranks := &Adapter{LoRA: first.LoRA, Weights: Weights{}}, map[string]int{}
	for i, a := range adapters {
		if (a.Weights[RewardHead] == nil) != (first.Weights[RewardHead] == nil) {
			return nil, fmt.Errorf("merge: only one of adapters 0 and %d has %s, the head of a reward model", i, RewardHead)
		}
		if len(a.Weights) != len(first.Weights) {
			return nil, fmt.Errorf("merge: adapter %d has %d tensors, adapter 0 has %d", i, len(a.Weights), len(first.Weights))
		}
		defer a.Weights.dropHostCopies()
	}
	for _, nameA := range first.Weights.Names() {
		layer, ok := strings.CutSuffix(nameA, ".lora_A.weight")
		if !ok {
			continue
		}
		parts := make([]factors, len(adapters))
		for i, a := range adapters {
			var err error
			if parts[i], err = a.factors(layer); err != nil {
				return nil, fmt.Errorf("merge: adapter %d: %w", i, err)
			}
			if p := parts[i]; p.in != parts[0].in || p.out != parts[0].out {
				return nil, fmt.Errorf("merge: %s is %d by %d in adapter %d, %d by %d in adapter 0", layer, p.out, p.in, i, parts[0].out, parts[0].in)
			}
		}
		f, err := join(parts, weights)
		if err != nil {
			return nil, fmt.Errorf("merge: %s of %s: %w", how, layer, err)
		}
		a, b := loraNames(layer + ".weight")
		out.Weights[a] = tensors.FromFlatDataAndDimensions(f.a, f.rank, f.in)
		out.Weights[b] = tensors.FromFlatDataAndDimensions(f.b, f.out, f.rank)
		ranks[layer] = f.rank
	}
	out.LoRA.setRanks(ranks)
	if first.Weights[RewardHead] != nil {
		var err error
		if out.Weights[RewardHead], err = sumHeads(adapters, weights); err != nil {
			return nil, fmt.Errorf("merge: %w", err)
		}
	}
	return out, nil
}

// sumHeads is the weighted sum of reward models' heads.
func sumHeads(adapters []*Adapter, weights []float64) (*tensors.Tensor, error) {
	want := adapters[0].Weights[RewardHead].Shape()
	heads := make([]Reader, len(adapters))
	for i, a := range adapters {
		if got := a.Weights[RewardHead].Shape(); !got.Equal(want) {
			return nil, fmt.Errorf("%s is %s in adapter %d, %s in adapter 0", RewardHead, got, i, want)
		}
		heads[i] = a.Over(nil) // a base is not asked for what the adapter has itself
	}
	flat := make([]float32, want.Size())
	if err := Average(heads, weights)(RewardHead, flat); err != nil {
		return nil, fmt.Errorf("%s: %w", RewardHead, err)
	}
	return tensors.FromFlatDataAndDimensions(flat, want.Dimensions...), nil
}

// setRanks gives every layer its rank and the scale 1.
func (l *LoRA) setRanks(ranks map[string]int) {
	l.Rank, l.RSLoRA, l.RankPattern, l.AlphaPattern = 0, false, nil, nil
	for _, rank := range ranks {
		l.Rank = max(l.Rank, rank)
	}
	l.Alpha = float64(l.Rank)
	for layer, rank := range ranks {
		if rank == l.Rank {
			continue
		}
		if l.RankPattern == nil {
			l.RankPattern, l.AlphaPattern = map[string]int{}, map[string]float64{}
		}
		key := regexp2.Escape(layer)
		l.RankPattern[key], l.AlphaPattern[key] = rank, float64(rank)
	}
}

// factors are an adapter on one layer: a [rank, in], b [out, rank].
type factors struct {
	rank, in, out int
	a, b          []float32
	scale         float64
}

func (a *Adapter) factors(layer string) (f factors, err error) {
	nameA, nameB := loraNames(layer + ".weight")
	for _, part := range []struct {
		name string
		into *[]float32
	}{{nameA, &f.a}, {nameB, &f.b}} {
		t, ok := a.Weights[part.name]
		if !ok {
			return f, fmt.Errorf("has no %s", part.name)
		}
		if *part.into, err = tensors.CopyFlatData[float32](t); err != nil {
			return f, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	f.rank, f.scale = a.LoRA.At(layer)
	f.in, f.out = len(f.a)/f.rank, len(f.b)/f.rank
	return f, nil
}

// concatenate puts the ranks side by side; each scale and weight goes into its B.
func concatenate(parts []factors, weights []float64) (factors, error) {
	sum := factors{in: parts[0].in, out: parts[0].out, scale: 1}
	for _, p := range parts {
		sum.rank += p.rank
		sum.a = append(sum.a, p.a...)
	}
	for row := range sum.out {
		for i, p := range parts {
			for _, v := range p.b[row*p.rank : (row+1)*p.rank] {
				sum.b = append(sum.b, float32(float64(v)*p.scale*weights[i]))
			}
		}
	}
	return sum, nil
}

// sumFactors adds up the A and the B, as PEFT does.
func sumFactors(parts []factors, weights []float64) (factors, error) {
	sum := parts[0]
	add := func(of func(factors) []float32, signed bool) []float32 {
		total := make([]float64, len(of(sum)))
		for i, p := range parts {
			w := math.Sqrt(math.Abs(weights[i] * p.scale))
			if signed {
				w = math.Copysign(w, weights[i]) // on one side only, or signs would cancel
			}
			for j, v := range of(p) {
				total[j] += w * float64(v)
			}
		}
		out := make([]float32, len(total))
		for j, v := range total {
			out[j] = float32(v)
		}
		return out
	}
	for i, p := range parts {
		if p.rank != sum.rank {
			return sum, fmt.Errorf("needs equal ranks, adapter %d has %d, adapter 0 has %d", i, p.rank, sum.rank)
		}
	}
	sum.a = add(func(f factors) []float32 { return f.a }, true)
	sum.b = add(func(f factors) []float32 { return f.b }, false)
	return sum, nil
}

// Fold adds the adapter's delta to the weights it sits on: the same policy with those weights in Override and no
// adapter. The caller finalizes the new Override entries (the old ones stay the input policy's).
func Fold(b compute.Backend, p Policy) (Policy, error) {
	out := Policy{Name: p.Name, Base: p.Base, Override: maps.Clone(p.Override)}
	if p.Adapter == nil {
		return out, nil
	}
	if out.Override == nil {
		out.Override = Weights{}
	}
	base, adapter := p.Sets()
	fold := func(transposed bool) *Exec {
		return Shared(b, "fold", fmt.Sprint("transposed ", transposed), func(sets []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
			w := sets[0]["w"]
			delta := op.Dot(sets[0]["b"], sets[0]["a"]).General([]int{1}, nil, []int{0}, nil) // [out, in]
			if transposed {
				delta = op.Transpose(delta, 0, 1)
			}
			sum := op.Add(op.ConvertDType(w, delta.DType()), op.Mul(delta, in[0]))
			return []NodeSet{{"w": op.ConvertDType(sum, w.DType())}}, nil
		})
	}
	made := Weights{}
	for name, w := range base { // one layer at a time: one executable a shape, and nothing held twice
		nameA, nameB := loraNames(name)
		if adapter[nameA] == nil {
			continue
		}
		_, s := p.LoRA().At(name)
		scale := tensors.FromScalar(float32(s))
		sets, _, err := fold(storedTransposed(name)).Call([]Arg{{Set: Weights{"w": w, "a": adapter[nameA], "b": adapter[nameB]}}}, scale)
		finalize([]*tensors.Tensor{scale})
		if err != nil {
			made.Finalize()
			return Policy{}, fmt.Errorf("fold %s: %w", name, err)
		}
		made[name] = sets[0]["w"]
	}
	maps.Copy(out.Override, made)
	return out, nil
}

// Extrapolate is θ₁ + alpha·(θ₁ − θ₀) in weight space (ExPO, Zheng et al. 2024), as dense overrides of the base both
// policies share. The caller finalizes the result's Override.
func Extrapolate(b compute.Backend, p0, p1 Policy, alpha float64) (Policy, error) {
	return combine(b, "extrapolate", p0, p1, -alpha, 1+alpha, false)
}

// EMA is (1−alpha)·ref + alpha·p in weight space, as dense overrides of the base both policies share. They are float32
// even over a bfloat16 base, where small steps would be rounded away. The caller finalizes the result's Override.
func EMA(b compute.Backend, ref, p Policy, alpha float64) (Policy, error) {
	return combine(b, "ema", ref, p, 1-alpha, alpha, true)
}

// combine is w0·p0 + w1·p1 over every weight that either policy changes, w0 + w1 = 1, in float32 if exact and else in p1's
// dtypes.
func combine(b compute.Backend, what string, p0, p1 Policy, w0, w1 float64, exact bool) (Policy, error) {
	var folded [2]Policy
	for i, p := range []Policy{p0, p1} {
		f, err := Fold(b, p)
		if err != nil {
			return Policy{}, fmt.Errorf("%s: %w", what, err)
		}
		folded[i] = f
		defer func() {
			for name, t := range f.Override {
				if p.Override[name] != t {
					_ = t.FinalizeAll()
				}
			}
		}()
	}
	weights := []*tensors.Tensor{tensors.FromScalar(float32(w0)), tensors.FromScalar(float32(w1))}
	defer finalize(weights)
	e := Shared(b, "combine", fmt.Sprint(exact), func(sets []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
		f32 := func(name string) *op.Node { return op.ConvertDType(sets[0][name], dtypes.Float32) }
		sum := op.Add(op.Mul(f32("0"), in[0]), op.Mul(f32("1"), in[1]))
		if !exact {
			sum = op.ConvertDType(sum, sets[0]["1"].DType())
		}
		return []NodeSet{{"w": sum}}, nil
	})
	base0, _ := folded[0].Sets()
	base1, _ := folded[1].Sets()
	out := Policy{Name: p1.Name, Base: p1.Base, Override: Weights{}}
	for name := range base1 {
		if base0[name] == base1[name] && p1.Override[name] == nil { // the base has it
			continue
		}
		if base0[name] == nil {
			out.Override.Finalize()
			return Policy{}, fmt.Errorf("%s: the policies have different bases: %s is only in one", what, name)
		}
		sets, _, err := e.Call([]Arg{{Set: Weights{"0": base0[name], "1": base1[name]}}}, weights...)
		if err != nil {
			out.Override.Finalize()
			return Policy{}, fmt.Errorf("%s %s: %w", what, name, err)
		}
		out.Override[name] = sets[0]["w"]
	}
	return out, nil
}
