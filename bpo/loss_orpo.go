package bpo

import . "github.com/gomlx/gomlx/core/graph"

func init() {
	RegisterLoss(Loss{
		Name:          "orpo",
		Doc:           "-l̄_w - β·ln σ(ln odds(l̄_w) - ln odds(l̄_l)), odds(l) = eˡ/(1-eˡ), l̄ the policy's per-token mean: ORPO (arXiv 2403.07691 eq. 6), β is its λ; no reference",
		Length:        "mean",
		ReferenceFree: true,
		Fn:            orpo,
	})
}

func orpo(l Logps, _ LossConfig) *Node {
	odds := Sub(logOdds(l.Chosen), logOdds(l.Rejected))
	return Sub(Mul(softplus(Neg(odds)), l.Beta), l.Chosen)
}

// logOdds is ln(p/(1−p)) of x = ln p. A p above 1 − 10⁻⁶, which rounding could make 1, counts as that.
func logOdds(x *Node) *Node {
	x = MinScalar(x, -1e-6)
	// 1 − eˣ = tanh(−x/2)·(1 + eˣ), which keeps its digits near x = 0.
	return Sub(x, Add(Log(Tanh(MulScalar(x, -0.5))), Log1P(Exp(x))))
}
