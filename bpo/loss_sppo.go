package bpo

import . "github.com/gomlx/gomlx/core/graph"

func init() {
	RegisterLoss(Loss{
		Name:     "sppo",
		Doc:      "(r_w - 1/(2β))² + (r_l + 1/(2β))², r = log π_θ - log π_ref: SPPO with hard labels (arXiv 2405.00675 eq. 4.7, η = 1/β)",
		Length:   "sum",
		Fn:       sppo,
		Identity: func(c LossConfig) float64 { return 1 / (2 * c.Beta * c.Beta) },
	})
}

func sppo(l Logps, _ LossConfig) *Node {
	chosen, rejected := l.Ratios()
	half := DivScalar(Inverse(l.Beta), 2)
	return Add(Square(Sub(chosen, half)), Square(Add(rejected, half)))
}
