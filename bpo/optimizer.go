package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

// rate is the learning rate of a step in 0..steps-1: linear warmup, then constant, or decay to 0 at step = steps.
func (o *OptimizerConfig) rate(step, steps int) float64 {
	if step < o.Warmup {
		return o.LR * float64(step+1) / float64(o.Warmup)
	}
	done := float64(step-o.Warmup) / float64(max(steps-o.Warmup, 1)) // share of the decay, in [0, 1)
	switch o.Schedule {
	case "linear":
		return o.LR * (1 - done)
	case "cosine":
		return o.LR * (1 + math.Cos(math.Pi*done)) / 2
	}
	return o.LR
}

// adamW is one AdamW update (arXiv 1711.05101, in torch's order) with global-norm clipping, on flat vectors [n] float32.
//
// lr, c1 = 1−β₁ᵗ and c2 = 1−β₂ᵗ are float32 scalars; decay is 1 where weight decay applies and 0 elsewhere, nil without
// any. Where the gradient norm isn't finite nothing is changed: the caller sees the norm and stops with the state
// intact. It returns the new vectors and the norm before clipping.
func adamW(o OptimizerConfig, grad, w, m, v, decay, lr, c1, c2 *Node) (w1, m1, v1, norm *Node) {
	norm = Sqrt(ReduceAllSum(Square(grad)))
	finite := IsFinite(norm)
	if o.MaxGradNorm > 0 {
		scale := MinScalar(Div(Const(grad.Graph(), float32(o.MaxGradNorm)), AddScalar(norm, 1e-6)), 1)
		grad = Mul(grad, scale)
	}
	m1 = Add(MulScalar(m, o.Beta1), MulScalar(grad, 1-o.Beta1))
	v1 = Add(MulScalar(v, o.Beta2), MulScalar(Square(grad), 1-o.Beta2))
	w1 = w
	if decay != nil {
		w1 = Mul(w, OneMinus(Mul(MulScalar(lr, o.WeightDecay), decay)))
	}
	w1 = Sub(w1, Mul(Div(lr, c1), Div(m1, AddScalar(Div(Sqrt(v1), Sqrt(c2)), o.Eps))))
	return Where(finite, w1, w), Where(finite, m1, m), Where(finite, v1, v), norm
}
