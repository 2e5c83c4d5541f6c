package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

func init() {
	RegisterLoss(Loss{
		Name:   "exo",
		Doc:    "KL(q ‖ p), q = [σ(βh), σ(-βh)], p = [1-ε, ε]: EXO for pairs (arXiv 2402.00856 eq. 16)",
		Length: "sum",
		Params: []Param{{Name: "epsilon", Default: 1e-3, Doc: "the annotator's share ε of rejected answers that are better", Between: [2]float64{0, 0.5}}},
		Fn:     exo,
		Identity: func(c LossConfig) float64 {
			eps := c.Param("epsilon")
			return -math.Ln2 - (math.Log(1-eps)+math.Log(eps))/2
		},
		Odd: func(h float64, c LossConfig) float64 { // (q_w − q_l)·ln(ε/(1−ε)); the entropies are equal
			eps := c.Param("epsilon")
			return math.Tanh(c.Beta*h/2) * (math.Log(eps) - math.Log1p(-eps))
		},
	})
}

func exo(l Logps, c LossConfig) *Node {
	bh, eps := Mul(l.Margin(), l.Beta), c.Param("epsilon")
	part := func(x *Node, p float64) *Node { return Mul(Sigmoid(x), AddScalar(Neg(softplus(Neg(x))), -math.Log(p))) } // q·ln(q/p)
	return Add(part(bh, 1-eps), part(Neg(bh), eps))
}
