package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

func init() {
	RegisterLoss(Loss{
		Name:     "robust",
		Doc:      "[-(1-ε)·ln σ(βh) + ε·ln σ(-βh)] / (1-2ε): robust DPO (arXiv 2403.00409), unbiased when a share ε = label_smoothing of the labels is flipped",
		Length:   "sum",
		Smooths:  true,
		Fn:       robust,
		Identity: func(LossConfig) float64 { return math.Ln2 },
		Odd: func(h float64, c LossConfig) float64 {
			return -c.Beta * h / (1 - 2*c.LabelSmoothing)
		},
	})
}

func robust(l Logps, c LossConfig) *Node {
	bh, eps := Mul(l.Margin(), l.Beta), c.LabelSmoothing
	loss := Sub(MulScalar(softplus(Neg(bh)), 1-eps), MulScalar(softplus(bh), eps))
	return DivScalar(loss, 1-2*eps)
}
