package models

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
)

// Span is a stretch of keys [B, kvHeads, n, dim, T] and values [B, kvHeads, n, T, dim] under a mask of booleans
// [B, S, T]: the S queries of a batch entry are n equal runs, and run i looks at stretch i. n = 1 is the usual case;
// n = S, a cache of its own for each of S samples of one prompt.
type Span struct{ K, V, Mask *op.Node }

// Keys and Values lay out k or v [kvHeads, dim, B, n·T] as a span has them.
func Keys(k *op.Node, n int) *op.Node   { return op.TransposeAllAxes(stretches(k, n), 2, 0, 3, 1, 4) }
func Values(v *op.Node, n int) *op.Node { return op.TransposeAllAxes(stretches(v, n), 2, 0, 3, 4, 1) }

func stretches(x *op.Node, n int) *op.Node {
	s := x.Shape()
	return op.Reshape(x, s.Dim(0), s.Dim(1), s.Dim(2), n, s.Dim(3)/n)
}

// Attention is softmax(q·k/√dim)·v over all spans together, one softmax: q [heads, dim, B, S] to [heads·dim, B·S]. Scores
// are scaled and capped as the configuration says.
// Grouped queries are folded into rows, so keys and values are never repeated. A query that may look at nothing gets a
// finite mean of values.
func (c *Config) Attention(q *op.Node, spans ...Span) *op.Node {
	heads, dim, batch, seq := q.Shape().Dim(0), q.Shape().Dim(1), q.Shape().Dim(2), q.Shape().Dim(3)
	kvHeads := spans[0].K.Shape().Dim(1)
	group := heads / kvHeads
	q = op.MulScalar(q, 1/math.Sqrt(orDefault(c.QueryPreAttnScalar, float64(dim))))
	rows := op.TransposeAllAxes(op.Reshape(q, kvHeads, group, dim, batch, seq), 3, 0, 4, 1, 2) // [B, kvHeads, S, group, dim]

	scores := make([]*op.Node, len(spans)) // [B, kvHeads, n, S/n·group, T], float32
	for i, s := range spans {
		n, t := s.K.Shape().Dim(2), s.K.Shape().Dim(4)
		score := product(op.Reshape(rows, batch, kvHeads, n, seq/n*group, dim), s.K)
		score = softCap(score, c.AttentionCap)
		mask := op.BroadcastToDims(op.InsertAxes(s.Mask, 1, 2), batch, kvHeads, seq, group, t)
		scores[i] = op.Where(op.Reshape(mask, score.Shape().Dimensions...), score, op.Scalar(q.Graph(), q.DType(), masked))
	}
	perRow := func(x *op.Node) *op.Node { return op.Reshape(x, batch, kvHeads, seq*group, x.Shape().Dim(-1)) }
	var highest, sum, out *op.Node
	for _, s := range scores {
		highest = plus(op.Max, highest, perRow(op.ReduceAndKeep(s, op.ReduceMax, -1)))
	}
	highest = op.StopGradient(highest)
	for i, s := range scores {
		e := op.Exp(op.Sub(s, op.Reshape(highest, batch, kvHeads, s.Shape().Dim(2), s.Shape().Dim(3), 1)))
		sum = plus(op.Add, sum, perRow(op.ReduceAndKeep(e, op.ReduceSum, -1)))
		out = plus(op.Add, out, perRow(product(e, spans[i].V)))
	}
	out = op.Reshape(op.Div(out, sum), batch, kvHeads, seq, group, dim)
	return op.Reshape(op.TransposeAllAxes(out, 1, 3, 4, 0, 2), heads*dim, batch*seq)
}

// product is the matrix product of x [.., M, K] and y [.., K, N]. The few rows of a decoding step are taken one by one:
// XLA's CPU plugin makes one loop of a batch of vectors times matrices, and a call for each matrix of anything larger,
// which takes six times as long for three rows.
func product(x, y *op.Node) *op.Node {
	dot := func(x *op.Node) *op.Node {
		return op.Dot(x, y).General([]int{4}, []int{0, 1, 2}, []int{3}, []int{0, 1, 2})
	}
	rows := x.Shape().Dim(3)
	switch {
	case x.Shape().Dim(4) == 1: // [.., M, 1]·[.., 1, N]
		return op.Mul(x, y)
	case y.Shape().Dim(4) == 1: // one key
		return op.ReduceAndKeep(op.Mul(x, op.TransposeAllAxes(y, 0, 1, 2, 4, 3)), op.ReduceSum, -1)
	case rows > 1 && rows <= 4:
		each := make([]*op.Node, rows)
		for i := range each {
			each[i] = dot(op.SliceAxis(x, 3, op.AxisElem(i)))
		}
		return op.Concatenate(each, 3)
	}
	return dot(x)
}

// masked is the score of a key that must not be seen: finite, so that a row of nothing else has no NaN.
const masked = -1e30

// softCap is cap·tanh(x/cap), or x without a cap.
func softCap(x *op.Node, cap float64) *op.Node {
	if cap == 0 {
		return x
	}
	return op.MulScalar(op.Tanh(op.DivScalar(x, cap)), cap)
}

// plus folds x into acc, which starts as nil.
func plus(op func(a, b *op.Node) *op.Node, acc, x *op.Node) *op.Node {
	if acc == nil {
		return x
	}
	return op(acc, x)
}

// Causal is [1, n, n]: query i sees keys j ≤ i, less than window before it unless window is 0. Places stand for
// positions, from which they differ by a constant where there is no padding in between.
func Causal(g *op.Graph, n, window int) *op.Node {
	s := shapes.Make(dtypes.Int32, 1, n, n)
	i, j := op.Iota(g, s, 1), op.Iota(g, s, 2)
	mask := op.GreaterOrEqual(i, j)
	if window > 0 {
		mask = op.LogicalAnd(mask, op.LessThan(op.Sub(i, j), op.Scalar(g, dtypes.Int32, window)))
	}
	return mask
}
