package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

func init() {
	RegisterLoss(Loss{
		Name:     "discopop",
		Doc:      "-(1-m)·ln σ(βh) + m·exp(-βh), m = σ(βh/τ): DiscoPOP, log-ratio modulated (arXiv 2406.08414 eq. 5)",
		Length:   "sum",
		Params:   []Param{{Name: "tau", Default: 0.05, Doc: "temperature τ of the blend", Between: [2]float64{0, 1}}},
		Fn:       discopop,
		Identity: func(LossConfig) float64 { return (math.Ln2 + 1) / 2 },
	})
}

func discopop(l Logps, c LossConfig) *Node {
	bh := Mul(l.Margin(), l.Beta)
	gate := DivScalar(bh, c.Param("tau"))
	logistic := Mul(softplus(Neg(bh)), Sigmoid(Neg(gate)))
	exponential := Exp(Neg(Add(bh, softplus(Neg(gate))))) // m·exp(−βh) in one exponent, which is finite for βh → −∞
	return Add(logistic, exponential)
}
