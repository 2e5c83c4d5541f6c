package bpo

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Losses of a pair that depend on the other pairs of its step.
func init() {
	RegisterLoss(Loss{
		Name:    "aot",
		Doc:     "DPO's loss on quantiles: the i-th smallest log π_θ(y_w) - log π_θ(y_l) of the step against the i-th smallest of the reference: AOT for pairs (arXiv 2406.05882), ε = label_smoothing",
		Length:  "sum",
		Coupled: true,
		Smooths: true,
		Fn:      aot,
		Identity: func(LossConfig) float64 {
			return math.Ln2
		},
	})
	RegisterLoss(Loss{
		Name:     "kto",
		Doc:      "½[1 - σ(β(r_w - z_l)) + 1 - σ(β(z_w - r_l))], r = log π_θ - log π_ref, z = max(0, mean of r over the step), no gradient: KTO on pairs (arXiv 2402.01306 eq. 8; TRL's former kto_pair)",
		Length:   "sum",
		Coupled:  true,
		Fn:       kto,
		Identity: func(LossConfig) float64 { return 0.5 },
	})
}

func aot(l Logps, c LossConfig) *Node {
	policy, ref := Sub(l.Chosen, l.Rejected), Sub(l.RefChosen, l.RefRejected) // [batch]
	real := l.real()
	// match[i, j]: the reference's j-th margin has the rank of the policy's i-th.
	match := Equal(InsertAxes(ranks(policy, real), 1), InsertAxes(ranks(ref, real), 0)) // [batch, batch]
	matched := ReduceSum(Mul(ConvertDType(match, ref.DType()), InsertAxes(ref, 0)), 1)  // [batch]
	bh := Mul(Sub(policy, matched), l.Beta)
	return Add(MulScalar(softplus(Neg(bh)), 1-c.LabelSmoothing), MulScalar(softplus(bh), c.LabelSmoothing))
}

// ranks of x [batch] among its real entries, from 0; equal ones in their order, padding last. int32, no gradient.
func ranks(x, real *Node) *Node {
	x = StopGradient(Where(real, x, BroadcastToShape(Infinity(x.Graph(), x.DType(), 1), x.Shape())))
	g, n := x.Graph(), x.Shape().Dimensions[0]
	row, column := InsertAxes(x, 1), InsertAxes(x, 0) // [batch, 1], [1, batch]
	at := func(axis int) *Node { return Iota(g, shapes.Make(dtypes.Int32, n, n), axis) }
	before := LogicalOr(LessThan(column, row), LogicalAnd(Equal(column, row), LessThan(at(1), at(0)))) // j stands before i
	return ReduceSum(ConvertDType(before, dtypes.Int32), 1)
}

func kto(l Logps, _ LossConfig) *Node {
	chosen, rejected := l.Ratios()
	real := ConvertDType(l.real(), chosen.DType())
	drift := func(r *Node) *Node { // [], an estimate of KL(π_θ ‖ π_ref)
		return StopGradient(MaxScalar(Div(ReduceAllSum(Mul(r, real)), ReduceAllSum(real)), 0))
	}
	up := Sigmoid(Neg(Mul(Sub(chosen, drift(rejected)), l.Beta)))
	down := Sigmoid(Neg(Mul(Sub(drift(chosen), rejected), l.Beta)))
	return MulScalar(Add(up, down), 0.5)
}
