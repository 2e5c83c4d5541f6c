package bpo

import . "github.com/gomlx/gomlx/core/graph"

func init() {
	RegisterLoss(Loss{
		Name:     "apo_zero",
		Doc:      "1 - σ(βr_w) + σ(βr_l), r = log π_θ - log π_ref: APO-zero (arXiv 2408.06266 eq. 7), for chosen answers better than the policy's own",
		Length:   "sum",
		Fn:       apoZero,
		Identity: func(LossConfig) float64 { return 1 },
	})
	RegisterLoss(Loss{
		Name:     "apo_down",
		Doc:      "σ(βr_w) + 1 - σ(βh): APO-down (arXiv 2408.06266 eq. 8), for chosen answers worse than the policy's own",
		Length:   "sum",
		Fn:       apoDown,
		Identity: func(LossConfig) float64 { return 1 },
	})
}

func apoZero(l Logps, _ LossConfig) *Node {
	chosen, rejected := l.Ratios()
	return Add(Sigmoid(Neg(Mul(chosen, l.Beta))), Sigmoid(Mul(rejected, l.Beta)))
}

func apoDown(l Logps, _ LossConfig) *Node {
	chosen, _ := l.Ratios()
	return Add(Sigmoid(Mul(chosen, l.Beta)), Sigmoid(Neg(Mul(l.Margin(), l.Beta))))
}
