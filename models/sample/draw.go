package sample

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
)

// draw picks a token per column of logits [vocab, N] float32 with the uniforms u [N]: token ids [N] int32, and per token
// its log-prob under the sampling distribution and under the untempered policy, [N] float32 each.
//
// The sampling distribution is softmax(logits/temperature), cut to the top k, then to the nucleus of mass top p of what
// is left (the order of Hugging Face). Greedy picks the maximum, whose sampling log-prob is 0.
func (o Options) draw(logits, u *op.Node) (token, sampled, policy *op.Node) {
	vocab, rows := logits.Shape().Dim(0), logits.Shape().Dim(1)
	highest := op.ReduceAndKeep(logits, op.ReduceMax, 0) // [1, N]
	// Not before the subtraction: XLA would fold the transposition into the product that made the logits, which turns
	// it into the slow x·Wᵀ.
	shifted := op.Transpose(op.Sub(logits, highest), 0, 1) // [N, vocab]
	logSum := op.Log(op.ReduceSum(op.Exp(shifted), -1))    // [N]
	at := func(x, token *op.Node) *op.Node {               // x [N, vocab] at token [N]
		index := op.Concatenate([]*op.Node{op.Iota(x.Graph(), shapes.Make(dtypes.Int32, rows, 1), 0), op.InsertAxes(token, -1)}, 1)
		return op.Gather(x, index)
	}
	if o.Greedy {
		token = op.ArgMax(shifted, -1, dtypes.Int32)
		policy = op.Sub(at(shifted, token), logSum)
		return token, op.ZerosLike(policy), policy
	}
	tempered := shifted
	if o.Temperature != 1 {
		tempered = op.MulScalar(shifted, 1/o.Temperature)
	}
	p := op.Exp(tempered) // [N, vocab] in [0, 1], the most likely token has 1
	zero := op.ZerosLike(p)
	if o.TopK > 0 && o.TopK < vocab {
		count := func(kept *op.Node) *op.Node { return op.ReduceSum(op.ConvertDType(kept, dtypes.Float32), -1) }
		k := op.BroadcastToDims(op.Scalar(p.Graph(), dtypes.Float32, o.TopK), rows)
		p = op.Where(op.GreaterOrEqual(p, threshold(p, k, count)), p, zero)
	}
	if o.TopP < 1 {
		mass := func(kept *op.Node) *op.Node { return op.ReduceSum(op.Where(kept, p, zero), -1) }
		p = op.Where(op.GreaterOrEqual(p, threshold(p, op.MulScalar(op.ReduceSum(p, -1), o.TopP), mass)), p, zero)
	}
	token, total := invert(p, u)
	policy = op.Sub(at(shifted, token), logSum)
	if o.exact() {
		return token, policy, policy
	}
	return token, op.Sub(at(tempered, token), op.Log(total)), policy
}

// exact says that the sampling distribution is the policy itself.
func (o Options) exact() bool { return o.Temperature == 1 && o.TopK == 0 && o.TopP == 1 }

// threshold is the largest τ [N, 1] for which measure(p ≥ τ) reaches want [N]: bisection over the bit patterns of the
// floats in [0, 1], which are ordered like the floats, so the set p ≥ τ is exact (with all of a tie at its edge) and
// no sort of the vocabulary is needed.
func threshold(p, want *op.Node, measure func(kept *op.Node) *op.Node) *op.Node {
	rows := p.Shape().Dim(0)
	float := func(bits *op.Node) *op.Node { return op.InsertAxes(op.Bitcast(bits, dtypes.Float32), -1) }
	low := op.Zeros(p.Graph(), shapes.Make(dtypes.Int32, rows)) // p ≥ 0 always reaches it
	step := int32(1) << 29
	for range 30 { // 1.0 has pattern 0x3F800000 < 2³⁰
		middle := op.AddScalar(low, float64(step))
		reached := op.GreaterOrEqual(measure(op.GreaterOrEqual(p, float(middle))), want)
		low = op.Where(reached, middle, low)
		step >>= 1
	}
	return float(low)
}

// block is the width of invert's lower level.
const block = 128

// invert is the inverse of the distribution function of p [N, V] (not normalized) at u [N]: the first token whose
// cumulated mass exceeds u·total, never one of mass 0; and the total mass [N]. Two levels, blocks and then inside the
// block hit, so that no scan is longer than a block or than the number of blocks.
func invert(p, u *op.Node) (token, total *op.Node) {
	g, rows, vocab := p.Graph(), p.Shape().Dim(0), p.Shape().Dim(1)
	if pad := (block - vocab%block) % block; pad > 0 {
		p = op.Concatenate([]*op.Node{p, op.Zeros(g, shapes.Make(p.DType(), rows, pad))}, 1)
	}
	blocks := (vocab + block - 1) / block
	p = op.Reshape(p, rows, blocks, block)
	mass := op.ReduceSum(p, -1) // [N, blocks]
	before, upTo := cumulated(mass)
	total = op.Squeeze(op.SliceAxis(upTo, 1, op.AxisRange(blocks-1, blocks)), 1)
	target := op.Mul(u, total)
	hit := first(mass, upTo, target) // [N]
	pick := op.Concatenate([]*op.Node{op.Iota(g, shapes.Make(dtypes.Int32, rows, 1), 0), op.InsertAxes(hit, -1)}, 1)
	inside := op.Gather(p, pick) // [N, block]
	_, upTo = cumulated(inside)
	token = first(inside, upTo, op.Sub(target, op.Gather(before, pick)))
	return op.Add(op.MulScalar(hit, block), token), total
}

// cumulated sums x [N, n] along its last axis, without and with the entry itself. A product with a triangle is the
// fast way to say it, and keeps float32 throughout.
func cumulated(x *op.Node) (before, upTo *op.Node) {
	n := x.Shape().Dim(1)
	s := shapes.Make(dtypes.Int32, n, n)
	triangle := op.ConvertDType(op.LessOrEqual(op.Iota(x.Graph(), s, 0), op.Iota(x.Graph(), s, 1)), x.DType())
	upTo = op.Dot(x, triangle).General([]int{1}, nil, []int{0}, nil)
	return op.Sub(upTo, x), upTo
}

// first is the first index [N] int32 with mass > 0 whose cumulated value exceeds the target [N], else the last with
// mass > 0 (rounding can leave the target at the very end).
func first(mass, upTo, target *op.Node) *op.Node {
	index := op.Iota(mass.Graph(), shapes.Make(dtypes.Int32, mass.Shape().Dimensions...), 1)
	positive := op.GreaterThan(mass, op.ZerosLike(mass))
	over := op.LogicalAnd(positive, op.GreaterThan(upTo, op.InsertAxes(target, -1)))
	none := op.Scalar(mass.Graph(), dtypes.Int32, math.MaxInt32)
	return op.Min(op.ReduceMin(op.Where(over, index, none), -1), op.ReduceMax(op.Where(positive, index, op.ZerosLike(index)), -1))
}
