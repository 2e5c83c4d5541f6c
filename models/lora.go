package models

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/dlclark/regexp2"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// LoRA describes a low-rank adapter (Hu et al. 2021): y = xWᵀ + scale·drop(x)AᵀBᵀ on each target layer, where scale is
// alpha/rank, or alpha/√rank if rank-stabilised (Kalajdzievski 2023).
type LoRA struct {
	Rank    int      `mapstructure:"rank" yaml:"rank" json:"rank"`
	Alpha   float64  `mapstructure:"alpha" yaml:"alpha" json:"alpha"`
	Dropout float64  `mapstructure:"dropout" yaml:"dropout" json:"dropout"`
	Targets []string `mapstructure:"targets" yaml:"targets" json:"targets"` // q_proj, …, down_proj, a layer's path, or all-linear

	// Ranks and alphas of single layers. As in PEFT a key is a regular expression for a layer's path or the end of one
	// from a dot on; of several that fit, the first in sorted order counts.
	RankPattern  map[string]int     `mapstructure:"rank_pattern" yaml:"rank_pattern,omitempty" json:"rank_pattern,omitempty"`
	AlphaPattern map[string]float64 `mapstructure:"alpha_pattern" yaml:"alpha_pattern,omitempty" json:"alpha_pattern,omitempty"`
	RSLoRA       bool               `mapstructure:"rslora" yaml:"rslora" json:"rslora,omitempty"`
}

// AllLinear is the target that stands for every linear layer inside the blocks.
const AllLinear = "all-linear"

// At gives the rank on the layer of a weight, and the factor of the delta BA.
func (l LoRA) At(weight string) (rank int, scale float64) {
	rank, alpha := l.Rank, l.Alpha
	if key, ok := patternOf(l.RankPattern, weight); ok {
		rank = l.RankPattern[key]
	}
	if key, ok := patternOf(l.AlphaPattern, weight); ok {
		alpha = l.AlphaPattern[key]
	}
	if l.RSLoRA {
		return rank, alpha / math.Sqrt(float64(rank))
	}
	return rank, alpha / float64(rank)
}

// Key tells adapters apart in whose compiled functions other scales or another dropout would be constants.
func (l LoRA) Key() string {
	l.Targets = nil
	return fmt.Sprint(l)
}

// patternOf is the first key that fits the layer of a weight.
func patternOf[V any](patterns map[string]V, weight string) (string, bool) {
	for _, key := range slices.Sorted(maps.Keys(patterns)) {
		if re, err := pattern("(.*\\.)?(" + key + ")"); err == nil && fits(re, moduleOf(weight)) {
			return key, true
		}
	}
	return "", false
}

var patterns sync.Map // compiled, by text

// pattern compiles a regular expression of Python's kind that must fit the whole of a text.
func pattern(text string) (*regexp2.Regexp, error) {
	if re, ok := patterns.Load(text); ok {
		return re.(*regexp2.Regexp), nil
	}
	re, err := regexp2.Compile("^(?:"+text+")$", regexp2.None)
	if err == nil {
		patterns.Store(text, re)
	}
	return re, err
}

func fits(re *regexp2.Regexp, text string) bool {
	ok, err := re.MatchString(text)
	return ok && err == nil // the only error is a timeout, and none is set
}

// moduleOf is the path of the layer that a weight belongs to.
func moduleOf(weight string) string { return strings.TrimSuffix(weight, ".weight") }

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
	for key, rank := range l.RankPattern {
		if _, err := pattern(key); err != nil || rank < 1 {
			return badPattern("rank_pattern", key, rank, err, "at least 1")
		}
	}
	for key, alpha := range l.AlphaPattern {
		if _, err := pattern(key); err != nil || alpha <= 0 {
			return badPattern("alpha_pattern", key, alpha, err, "positive")
		}
	}
	return nil
}

func badPattern(name, key string, value any, err error, want string) error {
	if err != nil {
		return fmt.Errorf("%s: %q is not a regular expression: %w", name, key, err)
	}
	return fmt.Errorf("%s: %q is %v, must be %s", name, key, value, want)
}

// Check reports the first target or pattern that fits no layer of a model, as "key: message".
func (l LoRA) Check(c Config) error {
	if err := l.Validate(); err != nil {
		return err
	}
	var on []Linear
	var modules []string
	for _, lin := range c.Linears() {
		if l.on(lin) {
			on = append(on, lin)
		}
		if !slices.Contains(modules, lin.Module) {
			modules = append(modules, lin.Module)
		}
	}
	for _, t := range l.Targets {
		if one := (LoRA{Targets: []string{t}}); !slices.ContainsFunc(on, one.on) {
			return fmt.Errorf("targets: %q is no layer of this %s model, whose layers are %s", t, c.Architecture, strings.Join(modules, ", "))
		}
	}
	for name, keys := range map[string][]string{
		"rank_pattern": slices.Sorted(maps.Keys(l.RankPattern)), "alpha_pattern": slices.Sorted(maps.Keys(l.AlphaPattern)),
	} {
		for _, key := range keys {
			one := map[string]bool{key: true}
			if !slices.ContainsFunc(on, func(lin Linear) bool { _, ok := patternOf(one, lin.Name); return ok }) {
				return fmt.Errorf("%s: %q fits none of the layers in targets", name, key)
			}
		}
	}
	return nil
}

// on says whether the adapter sits on a linear layer. As in PEFT, a target is a module's name or the end of its path.
func (l LoRA) on(lin Linear) bool {
	path := "." + moduleOf(lin.Name)
	return slices.ContainsFunc(l.Targets, func(t string) bool { return t == AllLinear || strings.HasSuffix(path, "."+t) })
}

// Adapter is one set of LoRA weights, float32, under PEFT's names without its prefix:
// "model.layers.0.self_attn.q_proj.lora_A.weight" [rank, in] and "….lora_B.weight" [out, rank].
type Adapter struct {
	LoRA    LoRA
	Weights Weights
}

func loraNames(linear string) (a, b string) {
	base := moduleOf(linear)
	return base + ".lora_A.weight", base + ".lora_B.weight"
}

// NewAdapter starts an adapter as PEFT does: A kaiming-uniform (|a| < 1/√in), B zero, so the policy equals its base. That
// of a reward model brings the scalar head, N(0, 0.02²).
func NewAdapter(c Config, l LoRA, seed uint64) *Adapter {
	a := &Adapter{LoRA: l, Weights: Weights{}}
	for _, lin := range c.Linears() {
		if !l.on(lin) {
			continue
		}
		nameA, nameB := loraNames(lin.Name)
		rng, bound := rngFor(seed, nameA), 1/math.Sqrt(float64(lin.In))
		rank, _ := l.At(lin.Name)
		a.Weights[nameA] = fillWeights([]int{rank, lin.In}, func() float32 { return float32((2*rng.Float64() - 1) * bound) })
		a.Weights[nameB] = fillWeights([]int{lin.Out, rank}, func() float32 { return 0 })
	}
	if c.Reward {
		rng := rngFor(seed, RewardHead)
		a.Weights[RewardHead] = fillWeights([]int{1, c.HiddenSize}, func() float32 { return float32(rng.NormFloat64() * initStd) })
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
		rank, _ := a.LoRA.At(lin.Name)
		for _, want := range []struct {
			name string
			dims []int
		}{{nameA, []int{rank, lin.In}}, {nameB, []int{lin.Out, rank}}} {
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
	if head := unknown[RewardHead]; c.Reward && head != nil {
		if want := []int{1, c.HiddenSize}; !slices.Equal(head.Shape().Dimensions, want) {
			return fmt.Errorf("adapter tensor %s is %v, must be %v", RewardHead, head.Shape().Dimensions, want)
		}
		delete(unknown, RewardHead)
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
	_, scale := p.LoRA.At(lin.Name)
	delta := op.MulScalar(matmul(p.Adapter[nameB], matmul(a, in)), scale)
	return op.ConvertDType(op.Add(op.ConvertDType(y, delta.DType()), delta), x.DType())
}

// matmul is w [out, in] · x [in, N] in x's dtype: [out, N].
func matmul(w, x *op.Node) *op.Node {
	return op.Dot(op.ConvertDType(w, x.DType()), x).General([]int{1}, nil, []int{0}, nil)
}
