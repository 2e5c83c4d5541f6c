package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

func init() {
	RegisterLoss(Loss{
		Name:   "dpo",
		Doc:    "-(1-ε)·ln σ(βh) - ε·ln σ(-βh): DPO (arXiv 2305.18290 eq. 7), ε = label_smoothing gives cDPO",
		Length: "sum", Smooths: true,
		Fn: dpo,
		Identity: func(LossConfig) float64 {
			return math.Ln2
		},
		Odd: func(h float64, c LossConfig) float64 { return -c.Beta * h * (1 - 2*c.LabelSmoothing) },
	})
}

func dpo(l Logps, c LossConfig) *Node {
	return bradleyTerry(Mul(l.Margin(), l.Beta), c.LabelSmoothing) // of βh [batch]
}

// bradleyTerry is −(1−ε)·ln σ(x) − ε·ln σ(−x).
func bradleyTerry(x *Node, eps float64) *Node {
	loss := softplus(Neg(x))
	if eps != 0 {
		loss = Add(MulScalar(loss, 1-eps), MulScalar(softplus(x), eps))
	}
	return loss
}
