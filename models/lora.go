package models

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// LoRA describes a low-rank adapter (Hu et al. 2021): y = xWᵀ + (alpha/rank)·drop(x)AᵀBᵀ on each target layer.
type LoRA struct {
	Rank    int      `mapstructure:"rank" yaml:"rank" json:"rank"`
	Alpha   float64  `mapstructure:"alpha" yaml:"alpha" json:"alpha"`
	Dropout float64  `mapstructure:"dropout" yaml:"dropout" json:"dropout"`
	Targets []string `mapstructure:"targets" yaml:"targets" json:"targets"` // q_proj, …, down_proj, a layer's path, or all-linear
}

// AllLinear is the target that stands for every linear layer inside the blocks.
const AllLinear = "all-linear"

// Scale is alpha/rank, the factor of the delta BA.
func (l LoRA) Scale() float64 { return l.Alpha / float64(l.Rank) }

// Validate reports the first impossible setting as "key: message".
func (l LoRA) Validate() error {
	switch {
	case l.Rank < 1:
		return fmt.Errorf("rank: %d, must be at least 1", l.Rank)
	case l.Alpha <= 0:
		return fmt.Errorf("alpha: %g, must be positive", l.Alpha)
	case l.Dropout < 0 || l.Dropout >= 1:
		return fmt.Errorf("dropout: %g, must be in [0, 1)", l.Dropout)
	case len(l.Targets) == 0:
		return fmt.Errorf("targets: empty, name layers or %s", AllLinear)
	}
	known := moduleNames()
	for _, t := range l.Targets {
		if t != AllLinear && !slices.Contains(known, t[strings.LastIndexByte(t, '.')+1:]) {
			return fmt.Errorf("targets: %q is not one of %s, %s", t, strings.Join(known, ", "), AllLinear)
		}
	}
	return nil
}

// on says whether the adapter sits on a linear layer. As in PEFT, a target is a module's name or the end of its path.
func (l LoRA) on(lin Linear) bool {
	path := "." + strings.TrimSuffix(lin.Name, ".weight")
	return slices.ContainsFunc(l.Targets, func(t string) bool { return t == AllLinear || strings.HasSuffix(path, "."+t) })
}

// Adapter is one set of LoRA weights, float32, under PEFT's names without its prefix:
// "model.layers.0.self_attn.q_proj.lora_A.weight" [rank, in] and "….lora_B.weight" [out, rank].
type Adapter struct {
	LoRA    LoRA
	Weights Weights
}

func loraNames(linear string) (a, b string) {
	base := strings.TrimSuffix(linear, ".weight")
	return base + ".lora_A.weight", base + ".lora_B.weight"
}

// NewAdapter starts an adapter as PEFT does: A kaiming-uniform (|a| < 1/√in), B zero, so the policy equals its base.
func NewAdapter(c Config, l LoRA, seed uint64) *Adapter {
	a := &Adapter{LoRA: l, Weights: Weights{}}
	for _, lin := range c.Linears() {
		if !l.on(lin) {
			continue
		}
		nameA, nameB := loraNames(lin.Name)
		rng, bound := rngFor(seed, nameA), 1/math.Sqrt(float64(lin.In))
		a.Weights[nameA] = fillWeights([]int{l.Rank, lin.In}, func() float32 { return float32((2*rng.Float64() - 1) * bound) })
		a.Weights[nameB] = fillWeights([]int{lin.Out, l.Rank}, func() float32 { return 0 })
	}
	return a
}

// Clone copies the adapter's tensors.
func (a *Adapter) Clone() *Adapter { return &Adapter{LoRA: a.LoRA, Weights: a.Weights.Clone()} }

// Check compares the adapter with the model's layers and lists what is missing, unknown or of another shape.
func (a *Adapter) Check(c Config) error {
	if err := a.LoRA.Validate(); err != nil {
		return fmt.Errorf("lora.%w", err)
	}
	unknown := maps.Clone(a.Weights)
	for _, lin := range c.Linears() {
		nameA, nameB := loraNames(lin.Name)
		for _, want := range []struct {
			name string
			dims []int
		}{{nameA, []int{a.LoRA.Rank, lin.In}}, {nameB, []int{lin.Out, a.LoRA.Rank}}} {
			t, ok := a.Weights[want.name]
			if ok != a.LoRA.on(lin) {
				return fmt.Errorf("adapter tensor %s: present %v, but targets are %v", want.name, ok, a.LoRA.Targets)
			}
			if ok && !slices.Equal(t.Shape().Dimensions, want.dims) {
				return fmt.Errorf("adapter tensor %s is %v, must be %v", want.name, t.Shape().Dimensions, want.dims)
			}
			delete(unknown, want.name)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("adapter tensors not used by this architecture: %s", abbreviate(unknown.Names()))
	}
	return nil
}

// NodeSet is a weight set inside a graph.
type NodeSet map[string]*op.Node

// Params is what a graph needs of a policy.
type Params struct {
	Base    NodeSet // every base weight, overrides already applied
	Adapter NodeSet // empty: no adapter
	LoRA    LoRA
	RNG     *op.Node // state for LoRA dropout (graph.RNGStateShape); nil: no dropout. Give each step a fresh one.

	// Checkpointing makes a gradient keep only each layer's input and compute the layer again when it needs the rest.
	Checkpointing bool
}

func (p *Params) weight(name string) *op.Node {
	w, ok := p.Base[name]
	if !ok {
		exceptions.Panicf("models: weight %q is not in the base set", name)
	}
	return w
}

// linear is x [in, N] through a linear layer, its bias and its adapter, where it has them: [out, N] in x's dtype.
func (p *Params) linear(lin Linear, x *op.Node) *op.Node {
	y := lin.apply(p.weight(lin.Name), x)
	if b, ok := p.Base[biasName(lin.Name)]; ok {
		y = op.Add(y, op.InsertAxes(op.ConvertDType(b, y.DType()), -1))
	}
	nameA, nameB := loraNames(lin.Name)
	a, ok := p.Adapter[nameA]
	if !ok {
		return y
	}
	in := op.ConvertDType(x, a.DType())
	if p.RNG != nil && p.LoRA.Dropout > 0 {
		var u *op.Node
		keep := 1 - p.LoRA.Dropout
		p.RNG, u = op.RandomUniform(p.RNG, in.Shape())
		in = op.Where(op.LessThan(u, op.Scalar(u.Graph(), u.DType(), keep)), op.DivScalar(in, keep), op.ZerosLike(in))
	}
	delta := op.MulScalar(matmul(p.Adapter[nameB], matmul(a, in)), p.LoRA.Scale())
	return op.ConvertDType(op.Add(op.ConvertDType(y, delta.DType()), delta), x.DType())
}

// matmul is w [out, in] · x [in, N] in x's dtype: [out, N].
func matmul(w, x *op.Node) *op.Node {
	return op.Dot(op.ConvertDType(w, x.DType()), x).General([]int{1}, nil, []int{0}, nil)
}
