package bpo

import (
	"fmt"
	"math"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

// Optimizer is an update rule. Registering one makes it known to configs, sweeps, help, checkpoints and the memory
// estimate. Weights and state are float32 whatever dtype the model computes in.
type Optimizer struct {
	Name   string
	Doc    string // the rule and its source, one line
	Params []OptimizerParam
	// State gives the dimensions of the state's named tensors, which start at 0, for weights in tensors of dims.
	State func(c OptimizerConfig, dims [][]int) map[string][]int
	// Scalars are numbers that Update needs of step t ≥ 1, computed in float64. Nil: none.
	Scalars func(c OptimizerConfig, t int) []float64
	// Update gives the new weights, and the new state under the old names.
	Update func(c OptimizerConfig, s Step) (w *Node, state models.NodeSet)
}

// OptimizerParam is a further number of an optimizer, set under optimizer.params: Min ≤ value < Below, or a Flag, 0 or 1.
type OptimizerParam struct {
	Param
	Min, Below float64
	Flag       bool
}

// Step is what an update rule sees of one block of weights: tensors of dims, matrices first, in one flat vector [n].
type Step struct {
	Weights, Grad *Node // [n] float32; the gradient is already clipped
	State         models.NodeSet
	LR            *Node   // [] float32
	Scalars       []*Node // [] float32 each, as Optimizer.Scalars made them
	block         layout
}

// Tensors cuts a vector [n] into the block's tensors.
func (s Step) Tensors(flat *Node) []*Node { return s.block.cut(flat) }

// Decay is weight_decay [n] on tensors of two axes or more, 0 on norms and biases. Nil without weight decay.
func (s Step) Decay(c OptimizerConfig) *Node {
	if c.WeightDecay == 0 || s.block.matrices == 0 {
		return nil
	}
	g, n := s.Weights.Graph(), s.block.size()
	parts := []*Node{BroadcastToDims(Const(g, float32(c.WeightDecay)), s.block.matrices)}
	if rest := n - s.block.matrices; rest > 0 {
		parts = append(parts, BroadcastToDims(Const(g, float32(0)), rest))
	}
	return Concatenate(parts, 0)
}

// Decayed is w·(1 − lr·weight_decay), decay apart from the gradient (arXiv 1711.05101).
func (s Step) Decayed(c OptimizerConfig) *Node {
	decay := s.Decay(c)
	if decay == nil {
		return s.Weights
	}
	return Mul(s.Weights, OneMinus(Mul(s.LR, decay)))
}

var optimizers = map[string]Optimizer{}

// RegisterOptimizer adds an optimizer; call it from init. A second one of the same name is a programming error and panics.
func RegisterOptimizer(o Optimizer) {
	if _, dup := optimizers[o.Name]; dup {
		panic(fmt.Sprintf("bpo: optimizer %q is registered twice", o.Name))
	}
	optimizers[o.Name] = o
}

// Optimizers lists the registered optimizers by name.
func Optimizers() []Optimizer { return byName(optimizers) }

// OptimizerConfig chooses a registered optimizer, its parameters, a learning-rate schedule over T and clipping by the
// global gradient norm.
type OptimizerConfig struct {
	Name        string  `mapstructure:"name" yaml:"name"`
	LR          float64 `mapstructure:"lr" yaml:"lr"`
	WeightDecay float64 `mapstructure:"weight_decay" yaml:"weight_decay"` // not of norms and biases
	Schedule    string  `mapstructure:"schedule" yaml:"schedule"`         // constant | linear | cosine
	Warmup      int     `mapstructure:"warmup" yaml:"warmup"`             // steps
	MaxGradNorm float64 `mapstructure:"max_grad_norm" yaml:"max_grad_norm"`
	// Params are further named parameters of the optimizer, such as AdamW's beta2.
	Params map[string]float64 `mapstructure:"params" yaml:"params,omitempty"`
}

// DefaultOptimizer is the optimizer of the paper's code: AdamW, linear decay to 0, clipping at 1.
func DefaultOptimizer() OptimizerConfig {
	return OptimizerConfig{Name: "adamw", LR: 5e-5, Schedule: "linear", MaxGradNorm: 1}
}

// Param is the value of a named parameter: the configured one, else the optimizer's default.
// It panics if the optimizer has no such parameter.
func (c OptimizerConfig) Param(name string) float64 {
	if v, ok := c.Params[name]; ok {
		return v
	}
	for _, p := range optimizers[c.Name].Params {
		if p.Name == name {
			return p.Default
		}
	}
	panic(fmt.Sprintf("bpo: optimizer %q has no parameter %q", c.Name, name))
}

func (c *OptimizerConfig) validate(key string, steps int) error {
	o, ok := optimizers[c.Name]
	switch {
	case !ok:
		return fmt.Errorf("%s.name: no optimizer %q%s", key, c.Name, nearest(c.Name, names(Optimizers(), func(o Optimizer) string { return o.Name })))
	case c.LR <= 0:
		return fmt.Errorf("%s.lr: must be positive, got %g", key, c.LR)
	case c.WeightDecay < 0:
		return fmt.Errorf("%s.weight_decay: must not be negative, got %g", key, c.WeightDecay)
	case c.Schedule != "constant" && c.Schedule != "linear" && c.Schedule != "cosine":
		return fmt.Errorf("%s.schedule: %q is not one of constant, linear, cosine", key, c.Schedule)
	case c.Warmup < 0 || c.Warmup >= max(steps, 1):
		return fmt.Errorf("%s.warmup: must be in 0..%d, got %d", key, steps-1, c.Warmup)
	case c.MaxGradNorm < 0:
		return fmt.Errorf("%s.max_grad_norm: must not be negative (0 = no clipping), got %g", key, c.MaxGradNorm)
	}
	for name, v := range c.Params {
		at := slices.IndexFunc(o.Params, func(p OptimizerParam) bool { return p.Name == name })
		if at < 0 {
			return fmt.Errorf("%s.params.%s: optimizer %q has no such parameter%s", key, name, c.Name, nearest(name, names(o.Params, func(p OptimizerParam) string { return p.Name })))
		}
		switch p := o.Params[at]; {
		case p.Flag && v != 0 && v != 1:
			return fmt.Errorf("%s.params.%s: must be 0 or 1, got %g", key, name, v)
		case !p.Flag && !(v >= p.Min && v < p.Below):
			return fmt.Errorf("%s.params.%s: must be in [%g, %g), got %g", key, name, p.Min, p.Below, v)
		}
	}
	return nil
}

// rate is the learning rate of a step in 0..steps-1: linear warmup, then constant, or decay to 0 at step = steps.
func (c *OptimizerConfig) rate(step, steps int) float64 {
	if step < c.Warmup {
		return c.LR * float64(step+1) / float64(c.Warmup)
	}
	done := float64(step-c.Warmup) / float64(max(steps-c.Warmup, 1)) // share of the decay, in [0, 1)
	switch c.Schedule {
	case "linear":
		return c.LR * (1 - done)
	case "cosine":
		return c.LR * (1 + math.Cos(math.Pi*done)) / 2
	}
	return c.LR
}

// clip is the factor that brings a gradient of this norm to at most MaxGradNorm, as torch's clip_grad_norm_.
func (c *OptimizerConfig) clip(norm float64) float64 {
	if c.MaxGradNorm == 0 {
		return 1
	}
	return min(1, c.MaxGradNorm/(norm+1e-6))
}
