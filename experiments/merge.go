package experiments

import (
	"fmt"
	"slices"

	"gobpo/models"
)

// MergeOp is a way to make one model of several.
type MergeOp struct {
	Name, Doc string
	adapters  bool // works on adapters over one base, and gives one
	inputs    int  // exactly so many; 0: one or more
	ties      bool
	weights   func(o MergeOptions) []float64 // of the inputs; nil: MergeOptions.Weights, or equal ones
}

// MergeOps lists them.
var MergeOps = []MergeOp{
	{Name: "mean_delta", Doc: "the exact weighted mean of adapters over one base: ranks add up", adapters: true},
	{Name: "peft_linear", Doc: "what PEFT's add_weighted_adapter makes of adapters (combination_type=linear), cross terms included", adapters: true},
	{Name: "average", Doc: "Σ wᵢθᵢ of all weights, equal weights by default"},
	{Name: "ema", Doc: "(1-α)·θ₁ + α·θ₂ of two models, in this order", inputs: 2,
		weights: func(o MergeOptions) []float64 { return []float64{1 - o.Alpha, o.Alpha} }},
	{Name: "extrapolate", Doc: "θ₂ + α·(θ₂ - θ₁) of two models, the start first: ExPO (arXiv 2404.16792)", inputs: 2,
		weights: func(o MergeOptions) []float64 { return []float64{-o.Alpha, 1 + o.Alpha} }},
	{Name: "ties", Doc: "base + scale · (deltas trimmed to the share density, signs elected, disjoint mean): TIES (arXiv 2306.01708); needs --base", ties: true},
}

// MergeOptions are a merge's numbers.
type MergeOptions struct {
	Op             string
	Weights        []float64 // of the inputs; nil: 1/n each, ties: 1 each
	Alpha          float64   // of ema and extrapolate
	Density, Scale float64   // of ties
}

// Merge gives the merged model, which reads its inputs as it is read: keep them open. base is for ties.
func Merge(inputs []*Artifact, base *Artifact, o MergeOptions) (*Artifact, error) {
	at := slices.IndexFunc(MergeOps, func(op MergeOp) bool { return op.Name == o.Op })
	if at < 0 {
		return nil, fmt.Errorf("--op: %q is not one of %s", o.Op, opNames())
	}
	op, n := MergeOps[at], len(inputs)
	switch {
	case op.inputs > 0 && n != op.inputs:
		return nil, fmt.Errorf("%s takes %d models, got %d", op.Name, op.inputs, n)
	case o.Weights != nil && op.weights != nil:
		return nil, fmt.Errorf("--weights: %s has its own, from --alpha", op.Name)
	case o.Weights != nil && len(o.Weights) != n:
		return nil, fmt.Errorf("--weights: %d weights for %d models", len(o.Weights), n)
	case op.ties && base == nil:
		return nil, fmt.Errorf("ties: name the model that the others come from with --base")
	case op.ties && !(o.Density > 0 && o.Density <= 1):
		return nil, fmt.Errorf("--density: must be in (0, 1], got %g", o.Density)
	}
	out := &Artifact{Path: op.Name, Base: inputs[0].Base}
	readers := make([]models.Reader, n)
	for i, in := range inputs {
		if err := inputs[0].fits(in); err != nil {
			return nil, err
		}
		readers[i], out.merged = in.Weights, append(out.merged, in.Path)
	}
	weights := o.Weights
	if op.weights != nil {
		weights = op.weights(o)
	} else if weights == nil {
		weights = slices.Repeat([]float64{1 / float64(n)}, n)
		if op.ties {
			weights = slices.Repeat([]float64{1}, n)
		}
	}
	switch {
	case op.adapters:
		adapters := make([]*models.Adapter, n)
		for i, in := range inputs {
			if in.Adapter == nil {
				return nil, fmt.Errorf("%s: %s has no adapter; average merges whole models", op.Name, in.Path)
			}
			if in.Base.Source != inputs[0].Base.Source {
				return nil, fmt.Errorf("%s: %s lies over %s, %s over %s; average merges models of different bases", op.Name, inputs[0].Path, inputs[0].Base.Source, in.Path, in.Base.Source)
			}
			adapters[i] = in.Adapter
		}
		var err error
		if out.Adapter, err = models.Merge(op.Name, adapters, weights); err != nil {
			return nil, err
		}
		out.Weights = out.Adapter.Over(out.Base.Read)
	case op.ties:
		if err := base.fits(inputs[0]); err != nil {
			return nil, err
		}
		out.Weights = models.TIES{Density: o.Density, Weights: weights, Scale: o.Scale}.Merge(base.Weights, readers)
	default:
		out.Weights = models.Average(readers, weights)
	}
	return out, nil
}

func opNames() (names []string) {
	for _, op := range MergeOps {
		names = append(names, op.Name)
	}
	return names
}
