package models

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
)

// Attend is one layer's attention over what the caller can see (the same sequence, a cache):
// q [B, S, heads, dim], k and v [B, S, kvHeads, dim], rotated, to [B, S, heads·dim].
type Attend func(layer int, q, k, v *op.Node) *op.Node

// Hidden runs the blocks and the final norm: tokens [B, S] int32 at positions [B, S] int32, to [B·S, hidden] in the
// base weights' dtype. Norms, rotary angles and softmax are float32 whatever that dtype is.
func (c *Config) Hidden(p *Params, tokens, positions *op.Node, attend Attend) *op.Node {
	batch, seq := tokens.Shape().Dim(0), tokens.Shape().Dim(1)
	x := op.Gather(p.weight(embedName), op.Reshape(tokens, batch*seq, 1)) // [B·S, hidden]
	cos, sin := c.rotary(positions)                                       // [B, S, 1, dim/2]
	heads := func(y *op.Node, n int) *op.Node { return op.Reshape(y, batch, seq, n, c.HeadDim) }
	for layer := range c.NumLayers {
		weight := func(part string) string { return layerName(layer, part) }
		h := c.norm(p, weight("input_layernorm"), x)
		q := rotate(heads(p.linear(weight("self_attn.q_proj"), h), c.NumHeads), cos, sin)
		k := rotate(heads(p.linear(weight("self_attn.k_proj"), h), c.NumKVHeads), cos, sin)
		v := heads(p.linear(weight("self_attn.v_proj"), h), c.NumKVHeads)
		a := op.Reshape(attend(layer, q, k, v), batch*seq, c.NumHeads*c.HeadDim)
		x = op.Add(x, p.linear(weight("self_attn.o_proj"), a))

		h = c.norm(p, weight("post_attention_layernorm"), x)
		gate := p.linear(weight("mlp.gate_proj"), h)
		h = op.Mul(op.Mul(gate, op.Sigmoid(gate)), p.linear(weight("mlp.up_proj"), h))
		x = op.Add(x, p.linear(weight("mlp.down_proj"), h))
	}
	return c.norm(p, normName, x)
}

// head is the vocabulary matrix [vocab, hidden].
func (c *Config) head(p *Params) *op.Node {
	if c.TieEmbeddings {
		return p.weight(embedName)
	}
	return p.weight(headName)
}

// Logits is hidden [N, hidden] through the vocabulary matrix: [N, vocab] float32.
func (c *Config) Logits(p *Params, hidden *op.Node) *op.Node {
	return op.ConvertDType(matmul(hidden, c.head(p)), dtypes.Float32)
}

// norm is RMSNorm in float32, back in x's dtype before the weight is applied (as Hugging Face).
func (c *Config) norm(p *Params, name string, x *op.Node) *op.Node {
	f := op.ConvertDType(x, dtypes.Float32) // [N, hidden]
	f = op.Div(f, op.Sqrt(op.AddScalar(op.ReduceAndKeep(op.Square(f), op.ReduceMean, -1), c.RMSNormEps)))
	return op.Mul(op.ConvertDType(f, x.DType()), op.ExpandLeftToRank(op.ConvertDType(p.weight(name), x.DType()), 2))
}

// rotary gives cos and sin [B, S, 1, dim/2] of position·theta^(-2i/dim), float32.
func (c *Config) rotary(positions *op.Node) (cos, sin *op.Node) {
	half := c.HeadDim / 2
	freq := make([]float32, half)
	for i := range freq {
		freq[i] = float32(1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim)))
	}
	angle := op.Mul(op.ConvertDType(op.InsertAxes(positions, -1, -1), dtypes.Float32), // [B, S, 1, 1]
		op.Reshape(op.Const(positions.Graph(), freq), 1, 1, 1, half))
	return op.Cos(angle), op.Sin(angle)
}

// rotate turns the pairs (i, i+dim/2) of x [B, S, heads, dim] by their angles.
func rotate(x, cos, sin *op.Node) *op.Node {
	half := x.Shape().Dim(-1) / 2
	f := op.ConvertDType(x, dtypes.Float32)
	a, b := op.SliceAxis(f, -1, op.AxisRange(0, half)), op.SliceAxis(f, -1, op.AxisRange(half))
	return op.ConvertDType(op.Concatenate([]*op.Node{op.Sub(op.Mul(a, cos), op.Mul(b, sin)), op.Add(op.Mul(b, cos), op.Mul(a, sin))}, -1), x.DType())
}

// Span is a stretch of keys and values [B, kvHeads, n, T, dim] under a mask of booleans [B, S, T]: the S queries of a
// batch entry are n equal runs, and run i looks at stretch i. n = 1 is the usual case; n = S, a cache of its own for
// each of S samples of one prompt.
type Span struct{ K, V, Mask *op.Node }

// Attention is softmax(q·kᵀ/√dim)·v over all spans together, one softmax: q [B, S, heads, dim] to [B, S, heads·dim].
// Grouped queries are folded into rows, so keys and values are never repeated. A query that may look at nothing gets a
// finite mean of values.
func Attention(q *op.Node, spans ...Span) *op.Node {
	batch, seq, heads, dim := q.Shape().Dim(0), q.Shape().Dim(1), q.Shape().Dim(2), q.Shape().Dim(3)
	kvHeads := spans[0].K.Shape().Dim(1)
	group := heads / kvHeads
	rows := op.Reshape(q, batch, seq, kvHeads, group, dim)
	rows = op.TransposeAllAxes(rows, 0, 2, 1, 3, 4) // [B, kvHeads, S, group, dim]

	scores := make([]*op.Node, len(spans)) // [B, kvHeads, n, S/n·group, T], float32
	for i, s := range spans {
		n, t := s.K.Shape().Dim(2), s.K.Shape().Dim(3)
		score := op.Dot(op.Reshape(rows, batch, kvHeads, n, seq/n*group, dim), s.K).General([]int{4}, []int{0, 1, 2}, []int{4}, []int{0, 1, 2})
		score = op.MulScalar(op.ConvertDType(score, dtypes.Float32), 1/math.Sqrt(float64(dim)))
		mask := op.BroadcastToDims(op.InsertAxes(s.Mask, 1, 2), batch, kvHeads, seq, group, t)
		scores[i] = op.Where(op.Reshape(mask, score.Shape().Dimensions...), score, op.Scalar(q.Graph(), dtypes.Float32, masked))
	}
	perRow := func(x *op.Node) *op.Node { return op.Reshape(x, batch, kvHeads, seq*group, x.Shape().Dim(-1)) }
	var highest, sum, out *op.Node
	for _, s := range scores {
		highest = plus(op.Max, highest, perRow(op.ReduceAndKeep(s, op.ReduceMax, -1)))
	}
	highest = op.StopGradient(highest)
	for i, s := range scores {
		e := op.Exp(op.Sub(s, op.Reshape(highest, s.Shape().Dim(0), s.Shape().Dim(1), s.Shape().Dim(2), s.Shape().Dim(3), 1)))
		sum = plus(op.Add, sum, perRow(op.ReduceAndKeep(e, op.ReduceSum, -1)))
		mixed := op.Dot(op.ConvertDType(e, q.DType()), spans[i].V).General([]int{4}, []int{0, 1, 2}, []int{3}, []int{0, 1, 2})
		out = plus(op.Add, out, perRow(op.ConvertDType(mixed, dtypes.Float32)))
	}
	out = op.Reshape(op.ConvertDType(op.Div(out, sum), q.DType()), batch, kvHeads, seq, group, dim)
	return op.Reshape(op.TransposeAllAxes(out, 0, 2, 1, 3, 4), batch, seq, heads*dim)
}

// masked is the score of a key that must not be seen: finite, so that a row of nothing else has no NaN.
const masked = -1e30

// plus folds x into acc, which starts as nil.
func plus(op func(a, b *op.Node) *op.Node, acc, x *op.Node) *op.Node {
	if acc == nil {
		return x
	}
	return op(acc, x)
}

// Stretches turns keys or values [B, n·T, kvHeads, dim] into a span's layout [B, kvHeads, n, T, dim].
func Stretches(x *op.Node, n int) *op.Node {
	s := x.Shape()
	return op.TransposeAllAxes(op.Reshape(x, s.Dim(0), n, s.Dim(1)/n, s.Dim(2), s.Dim(3)), 0, 3, 1, 2, 4)
}

// Causal is [1, n, n]: query i sees keys j ≤ i.
func Causal(g *op.Graph, n int) *op.Node {
	s := shapes.Make(dtypes.Int32, 1, n, n)
	return op.GreaterOrEqual(op.Iota(g, s, 1), op.Iota(g, s, 2))
}
