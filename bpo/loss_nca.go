package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

func init() {
	RegisterLoss(Loss{
		Name:     "nca",
		Doc:      "-ln σ(βr_w) - ½ ln σ(-βr_w) - ½ ln σ(-βr_l), r = log π_θ - log π_ref: NCA for pairs (arXiv 2402.05369)",
		Length:   "sum",
		Fn:       nca,
		Identity: func(LossConfig) float64 { return 2 * math.Ln2 },
	})
}

func nca(l Logps, _ LossConfig) *Node {
	chosen, rejected := l.Ratios()
	chosen, rejected = Mul(chosen, l.Beta), Mul(rejected, l.Beta)
	return Add(softplus(Neg(chosen)), MulScalar(Add(softplus(chosen), softplus(rejected)), 0.5))
}
