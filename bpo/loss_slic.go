package bpo

import . "github.com/gomlx/gomlx/core/graph"

func init() {
	RegisterLoss(Loss{
		Name:     "slic",
		Doc:      "max(0, 1 - βh): SLiC as a hinge on the margin to the reference (arXiv 2309.06657, RSO's hinge)",
		Length:   "sum",
		Fn:       slic,
		Identity: func(LossConfig) float64 { return 1 },
	})
}

func slic(l Logps, _ LossConfig) *Node {
	return MaxScalar(AddScalar(Neg(Mul(l.Margin(), l.Beta)), 1), 0)
}
