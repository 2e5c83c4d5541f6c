package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
)

// f-DPO (arXiv 2309.16240) bounds another divergence than DPO's reverse KL: −ln σ(β[g(r_w) − g(r_l)]) with g(r) = f′(eʳ), where
// r = log π_θ − log π_ref. DPO is g(r) = r.
func init() {
	register := func(name, doc string, params []Param, g func(r *Node, c LossConfig) *Node) {
		RegisterLoss(Loss{
			Name: name, Doc: "-ln σ(β[g(r_w) - g(r_l)]), " + doc + " (f-DPO, arXiv 2309.16240), r = log π_θ - log π_ref", Length: "sum", Params: params,
			Fn: func(l Logps, c LossConfig) *Node {
				chosen, rejected := l.Ratios()
				return softplus(Neg(Mul(Sub(g(chosen, c), g(rejected, c)), l.Beta)))
			},
			Identity: func(LossConfig) float64 { return math.Ln2 },
		})
	}
	register("dpo_forward_kl", "g(r) = 1 - exp(-r): forward KL", nil, func(r *Node, _ LossConfig) *Node {
		return OneMinus(boundedExp(Neg(r)))
	})
	register("dpo_js", "g(r) = ln 2 + ln σ(r): Jensen-Shannon", nil, func(r *Node, _ LossConfig) *Node {
		return AddScalar(Neg(softplus(Neg(r))), math.Ln2)
	})
	alpha := []Param{{Name: "alpha", Default: 0.5, Doc: "α of the divergence: near 1 is reverse KL, near 0 forward KL", Between: [2]float64{0, 1}}}
	register("dpo_alpha", "g(r) = (exp((α-1)r) - 1)/(α-1): α-divergence", alpha, func(r *Node, c LossConfig) *Node {
		a := c.Param("alpha") - 1
		return DivScalar(AddScalar(boundedExp(MulScalar(r, a)), -1), a)
	})
}

// boundedExp is exp(x), constant from x = 80 on, near the end of float32 (as TRL bounds it).
func boundedExp(x *Node) *Node { return Exp(MinScalar(x, 80)) }
