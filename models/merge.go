package models

import (
	"fmt"
	"maps"
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Merge makes one adapter of several over the same layers (the ensemble of BPO). With D = scale·BA the delta of each:
//
//	mean_delta   the exact mean of the deltas, by concatenating ranks (rank Σrᵢ): n copies of an adapter merge to it
//	peft_linear  what PEFT's add_weighted_adapter(combination_type="linear", weights 1/n) makes: A = Σ√(sᵢ/n)·Aᵢ,
//	             B likewise, scale 1. Its delta is (s/n)·Σᵢⱼ BᵢAⱼ: n times the mean for n copies, and cross terms
//	             between different ones. The authors' code merges this way. Ranks must be equal.
//
// Runs on the host; the result shares nothing with its inputs.
func Merge(how string, adapters []*Adapter) (*Adapter, error) {
	if len(adapters) == 0 {
		return nil, fmt.Errorf("merge: no adapters")
	}
	var join func(name string, parts [][]float32) ([]float32, []int)
	first, n := adapters[0], float64(len(adapters))
	out := &Adapter{LoRA: first.LoRA, Weights: Weights{}}
	rank := 0
	for i, a := range adapters {
		if len(a.Weights) != len(first.Weights) {
			return nil, fmt.Errorf("merge: adapter %d has %d tensors, adapter 0 has %d", i, len(a.Weights), len(first.Weights))
		}
		if how == "peft_linear" && a.LoRA.Rank != first.LoRA.Rank {
			return nil, fmt.Errorf("merge: peft_linear needs equal ranks, adapter %d has %d, adapter 0 has %d", i, a.LoRA.Rank, first.LoRA.Rank)
		}
		rank += a.LoRA.Rank
	}
	switch how {
	case "mean_delta":
		out.LoRA.Rank, out.LoRA.Alpha = rank, float64(rank) // scale 1: each adapter's scale and weight go into its B
		join = func(name string, parts [][]float32) ([]float32, []int) {
			if isLoRAA(name) {
				in := len(parts[0]) / first.LoRA.Rank
				var rows []float32
				for _, p := range parts {
					rows = append(rows, p...)
				}
				return rows, []int{rank, in}
			}
			rows := len(parts[0]) / first.LoRA.Rank
			flat := make([]float32, 0, rows*rank)
			for row := range rows {
				for i, p := range parts {
					r, scale := adapters[i].LoRA.Rank, adapters[i].LoRA.Scale()/n
					for _, v := range p[row*r : (row+1)*r] {
						flat = append(flat, float32(float64(v)*scale))
					}
				}
			}
			return flat, []int{rows, rank}
		}
	case "peft_linear":
		out.LoRA.Alpha = float64(first.LoRA.Rank)
		join = func(name string, parts [][]float32) ([]float32, []int) {
			flat := make([]float32, len(parts[0]))
			for j := range flat {
				sum := 0.0
				for i, p := range parts {
					sum += math.Sqrt(adapters[i].LoRA.Scale()/n) * float64(p[j])
				}
				flat[j] = float32(sum)
			}
			return flat, first.Weights[name].Shape().Dimensions
		}
	default:
		return nil, fmt.Errorf("merge: %q is not one of mean_delta, peft_linear", how)
	}
	for _, name := range first.Weights.Names() {
		parts := make([][]float32, len(adapters))
		for i, a := range adapters {
			t, ok := a.Weights[name]
			if !ok {
				return nil, fmt.Errorf("merge: adapter %d has no %s", i, name)
			}
			var err error
			if parts[i], err = tensors.CopyFlatData[float32](t); err != nil {
				return nil, fmt.Errorf("merge: %s: %w", name, err)
			}
			if len(parts[i])*first.LoRA.Rank != len(parts[0])*a.LoRA.Rank {
				return nil, fmt.Errorf("merge: %s is %v in adapter %d, %v in adapter 0", name, t.Shape().Dimensions, i, first.Weights[name].Shape().Dimensions)
			}
		}
		flat, dims := join(name, parts)
		out.Weights[name] = tensors.FromFlatDataAndDimensions(flat, dims...)
	}
	for _, a := range adapters {
		a.Weights.dropHostCopies()
	}
	return out, nil
}

func isLoRAA(name string) bool { return len(name) > 14 && name[len(name)-14:] == ".lora_A.weight" }

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
	scale := tensors.FromScalar(float32(p.LoRA().Scale()))
	defer finalize([]*tensors.Tensor{scale})
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
		sets, _, err := fold(storedTransposed(name)).Call([]Arg{{Set: Weights{"w": w, "a": adapter[nameA], "b": adapter[nameB]}}}, scale)
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
		if base0[name] == base1[name] {
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
