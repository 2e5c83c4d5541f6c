package experiments

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/gonum/floats"

	"gobpo/models"
)

// MergeOp is a way to make one model of several.
type MergeOp struct {
	Name, Doc string
	Reads     []string // of weights, alpha, density and scale
	adapters  bool     // works on adapters over one base, and gives one
	inputs    int      // exactly so many; 0: one or more
	ties      bool
	weights   func(o MergeOptions) []float64 // of the inputs; nil: MergeOptions.Weights, or equal ones
}

// MergeOps lists them.
var MergeOps = []MergeOp{
	{Name: "mean_delta", Reads: []string{"weights"}, Doc: "the exact weighted mean of adapters over one base: ranks add up", adapters: true},
	{Name: "peft_linear", Reads: []string{"weights"}, Doc: "what PEFT's add_weighted_adapter makes of adapters (combination_type=linear), cross terms included", adapters: true},
	{Name: "average", Reads: []string{"weights"}, Doc: "Σ wᵢθᵢ of all weights, equal weights by default"},
	{Name: "ema", Reads: []string{"alpha"}, Doc: "(1-α)·θ₁ + α·θ₂ of two models, in this order", inputs: 2,
		weights: func(o MergeOptions) []float64 { return []float64{1 - o.Alpha, o.Alpha} }},
	{Name: "extrapolate", Reads: []string{"alpha"}, Doc: "θ₂ + α·(θ₂ - θ₁) of two models, the start first: ExPO (arXiv 2404.16792)", inputs: 2,
		weights: func(o MergeOptions) []float64 { return []float64{-o.Alpha, 1 + o.Alpha} }},
	{Name: "ties", Reads: []string{"weights", "density", "scale"}, Doc: "base + scale · (deltas trimmed to the share density, signs elected, disjoint mean): TIES (arXiv 2306.01708); needs --base", ties: true},
}

// MergeOptions are a merge's numbers.
type MergeOptions struct {
	Op             string
	Weights        []float64 // of the inputs; nil: 1/n each, ties: 1 each
	Alpha          float64   // of ema and extrapolate
	Density, Scale float64   // of ties
}

// MergeOpOf is the operation of a name.
func MergeOpOf(name string) (MergeOp, error) {
	at := slices.IndexFunc(MergeOps, func(op MergeOp) bool { return op.Name == name })
	if at < 0 {
		return MergeOp{}, fmt.Errorf("--op: %q is not one of %s", name, opNames(func(MergeOp) bool { return true }))
	}
	return MergeOps[at], nil
}

// OpsThatRead names the operations that read an option.
func OpsThatRead(option string) string {
	return strings.Join(opNames(func(op MergeOp) bool { return slices.Contains(op.Reads, option) }), ", ")
}

// checkWeights refuses weights that would scale a mean, or of which there is none.
func (op MergeOp) checkWeights(w []float64) error {
	if slices.ContainsFunc(w, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
		return fmt.Errorf("--weights: %v are not numbers", w)
	}
	negative := slices.ContainsFunc(w, func(v float64) bool { return v < 0 })
	sum := floats.Sum(w)
	switch {
	case negative && (op.Name == "average" || op.ties):
		return fmt.Errorf("--weights: %v, of %s none may be negative", w, op.Name)
	case op.ties && sum == 0:
		return fmt.Errorf("--weights: all are 0")
	case (op.Name == "average" || op.Name == "mean_delta") && math.Abs(sum-1) > 1e-6:
		return fmt.Errorf("--weights: %v sum to %.6g; of %s they must sum to 1", w, sum, op.Name)
	}
	return nil
}

// Merge gives the merged model, which reads its inputs as it is read: keep them open. base is for ties.
func Merge(inputs []*Artifact, base *Artifact, o MergeOptions) (*Artifact, error) {
	op, err := MergeOpOf(o.Op)
	if err != nil {
		return nil, err
	}
	n := len(inputs)
	switch {
	case op.inputs > 0 && n != op.inputs:
		return nil, fmt.Errorf("%s takes %d models, got %d", op.Name, op.inputs, n)
	case o.Weights != nil && op.weights != nil:
		return nil, fmt.Errorf("--weights: only with %s", OpsThatRead("weights"))
	case o.Weights != nil && len(o.Weights) != n:
		return nil, fmt.Errorf("--weights: %d weights for %d models", len(o.Weights), n)
	case op.ties && base == nil:
		return nil, fmt.Errorf("ties: name the model that the others come from with --base")
	case math.IsNaN(o.Alpha) || math.IsInf(o.Alpha, 0) || op.Name == "ema" && (o.Alpha < 0 || o.Alpha > 1):
		return nil, fmt.Errorf("--alpha: %g, of ema in [0, 1], of extrapolate any number", o.Alpha)
	case op.ties && (math.IsNaN(o.Scale) || math.IsInf(o.Scale, 0)):
		return nil, fmt.Errorf("--scale: %g is not a number", o.Scale)
	case op.ties && !(o.Density > 0 && o.Density <= 1):
		return nil, fmt.Errorf("--density: must be in (0, 1], got %g", o.Density)
	}
	if err := op.checkWeights(o.Weights); o.Weights != nil && err != nil {
		return nil, err
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

func opNames(which func(MergeOp) bool) (names []string) {
	for _, op := range MergeOps {
		if which(op) {
			names = append(names, op.Name)
		}
	}
	return names
}
