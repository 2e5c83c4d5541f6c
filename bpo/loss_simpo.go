package bpo

import . "github.com/gomlx/gomlx/core/graph"

func init() {
	RegisterLoss(Loss{
		Name:          "simpo",
		Doc:           "-ln σ(β·(l̄_w - l̄_l) - γ), l̄ the policy's per-token mean: SimPO (arXiv 2405.14734 eq. 6), no reference",
		Length:        "mean",
		Params:        []Param{{Name: "gamma", Default: 1, Doc: "target reward margin γ"}},
		ReferenceFree: true,
		Fn:            simpo,
	})
}

func simpo(l Logps, c LossConfig) *Node {
	margin := Mul(Sub(l.Chosen, l.Rejected), l.Beta) // [batch]
	return softplus(Neg(AddScalar(margin, -c.Param("gamma"))))
}
