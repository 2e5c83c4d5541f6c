package bpo

import . "github.com/gomlx/gomlx/core/graph"

func init() {
	RegisterLoss(Loss{
		Name:     "ipo",
		Doc:      "(h̄ - 1/(2β))²: IPO (arXiv 2310.12036 eq. 17), h̄ of per-token means; length: sum uses h itself",
		Length:   "mean",
		Fn:       ipo,
		Identity: func(c LossConfig) float64 { return 1 / (4 * c.Beta * c.Beta) },
		Odd:      func(h float64, c LossConfig) float64 { return -2 * h / c.Beta },
	})
}

func ipo(l Logps, _ LossConfig) *Node {
	return Square(Sub(l.Margin(), DivScalar(Inverse(l.Beta), 2)))
}
