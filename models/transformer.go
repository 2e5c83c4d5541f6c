package models

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
)

// Activations are feature-major, [features, tokens]: with weights [out, in] a linear layer is then the plain product W·x,
// which XLA's CPU matmul does up to eight times faster for a few tokens than x·Wᵀ, and no slower for many.

// Attend is one layer's attention over what the caller can see (the same sequence, a cache):
// q [heads, dim, B, S], k and v [kvHeads, dim, B, S], rotated, to [heads·dim, B·S].
type Attend func(layer int, q, k, v *op.Node) *op.Node

// Hidden runs the blocks and the final norm: tokens [B, S] int32 at positions [B, S] int32, to [hidden, B·S] in the
// base weights' dtype. Norms, rotary angles and softmax are float32 whatever that dtype is.
func (c *Config) Hidden(p *Params, tokens, positions *op.Node, attend Attend) *op.Node {
	batch, seq := tokens.Shape().Dim(0), tokens.Shape().Dim(1)
	x := op.Transpose(op.Gather(p.weight(embedName), op.Reshape(tokens, batch*seq, 1)), 0, 1) // [hidden, B·S]
	cos, sin := c.rotary(positions)                                                           // [dim/2, B·S]
	heads := func(y *op.Node, n int) *op.Node { return op.Reshape(y, n, c.HeadDim, batch*seq) }
	split := func(y *op.Node) *op.Node { return op.Reshape(y, y.Shape().Dim(0), c.HeadDim, batch, seq) }
	for layer := range c.NumLayers {
		if p.Checkpointing {
			x = x.Checkpoint()
		}
		weight := func(part string) string { return layerName(layer, part) }
		linear := func(part string) Linear { return Linear{Name: weight(part)} }
		h := c.norm(p, weight("input_layernorm"), x)
		q := rotate(heads(p.linear(linear("self_attn.q_proj"), h), c.NumHeads), cos, sin)
		k := rotate(heads(p.linear(linear("self_attn.k_proj"), h), c.NumKVHeads), cos, sin)
		v := heads(p.linear(linear("self_attn.v_proj"), h), c.NumKVHeads)
		x = op.Add(x, p.linear(linear("self_attn.o_proj"), attend(layer, split(q), split(k), split(v))))

		h = c.norm(p, weight("post_attention_layernorm"), x)
		gate := p.linear(linear("mlp.gate_proj"), h)
		h = op.Mul(op.Mul(gate, op.Sigmoid(gate)), p.linear(linear("mlp.up_proj"), h))
		x = op.Add(x, p.linear(linear("mlp.down_proj"), h))
	}
	if p.Checkpointing {
		x = x.StopCheckpoint()
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

// Logits is the vocabulary matrix times hidden [hidden, N]: [vocab, N] float32.
func (c *Config) Logits(p *Params, hidden *op.Node) *op.Node {
	return op.ConvertDType(matmul(c.head(p), hidden), dtypes.Float32)
}

// norm is RMSNorm over the features of x [features, N], in float32, back in x's dtype before the weight is applied (as
// Hugging Face).
func (c *Config) norm(p *Params, name string, x *op.Node) *op.Node {
	f := op.ConvertDType(x, dtypes.Float32)
	f = op.Div(f, op.Sqrt(op.AddScalar(op.ReduceAndKeep(op.Square(f), op.ReduceMean, 0), c.RMSNormEps)))
	return op.Mul(op.ConvertDType(f, x.DType()), op.InsertAxes(op.ConvertDType(p.weight(name), x.DType()), -1))
}

// rotary gives cos and sin [dim/2, B·S] of position·theta^(-2i/dim), float32.
func (c *Config) rotary(positions *op.Node) (cos, sin *op.Node) {
	half := c.HeadDim / 2
	freq := make([]float32, half)
	for i := range freq {
		freq[i] = float32(1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim)))
	}
	angle := op.Mul(op.Reshape(op.ConvertDType(positions, dtypes.Float32), 1, positions.Shape().Size()),
		op.Reshape(op.Const(positions.Graph(), freq), half, 1))
	return op.Cos(angle), op.Sin(angle)
}

// rotate turns the pairs (i, i+dim/2) of x [heads, dim, N] by their angles [dim/2, N].
func rotate(x, cos, sin *op.Node) *op.Node {
	half := x.Shape().Dim(1) / 2
	f := op.ConvertDType(x, dtypes.Float32)
	a, b := op.SliceAxis(f, 1, op.AxisRange(0, half)), op.SliceAxis(f, 1, op.AxisRange(half))
	cos, sin = op.InsertAxes(cos, 0), op.InsertAxes(sin, 0)
	return op.ConvertDType(op.Concatenate([]*op.Node{op.Sub(op.Mul(a, cos), op.Mul(b, sin)), op.Add(op.Mul(b, cos), op.Mul(a, sin))}, 1), x.DType())
}

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

// Attention is softmax(q·k/√dim)·v over all spans together, one softmax: q [heads, dim, B, S] to [heads·dim, B·S].
// Grouped queries are folded into rows, so keys and values are never repeated. A query that may look at nothing gets a
// finite mean of values.
func Attention(q *op.Node, spans ...Span) *op.Node {
	heads, dim, batch, seq := q.Shape().Dim(0), q.Shape().Dim(1), q.Shape().Dim(2), q.Shape().Dim(3)
	kvHeads := spans[0].K.Shape().Dim(1)
	group := heads / kvHeads
	q = op.MulScalar(q, 1/math.Sqrt(float64(dim)))
	rows := op.TransposeAllAxes(op.Reshape(q, kvHeads, group, dim, batch, seq), 3, 0, 4, 1, 2) // [B, kvHeads, S, group, dim]

	scores := make([]*op.Node, len(spans)) // [B, kvHeads, n, S/n·group, T], float32
	for i, s := range spans {
		n, t := s.K.Shape().Dim(2), s.K.Shape().Dim(4)
		score := op.Dot(op.Reshape(rows, batch, kvHeads, n, seq/n*group, dim), s.K).General([]int{4}, []int{0, 1, 2}, []int{3}, []int{0, 1, 2})
		score = op.ConvertDType(score, dtypes.Float32)
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
		e := op.Exp(op.Sub(s, op.Reshape(highest, batch, kvHeads, s.Shape().Dim(2), s.Shape().Dim(3), 1)))
		sum = plus(op.Add, sum, perRow(op.ReduceAndKeep(e, op.ReduceSum, -1)))
		mixed := op.Dot(op.ConvertDType(e, q.DType()), spans[i].V).General([]int{4}, []int{0, 1, 2}, []int{3}, []int{0, 1, 2})
		out = plus(op.Add, out, perRow(op.ConvertDType(mixed, dtypes.Float32)))
	}
	out = op.Reshape(op.ConvertDType(op.Div(out, sum), q.DType()), batch, kvHeads, seq, group, dim)
	return op.Reshape(op.TransposeAllAxes(out, 1, 3, 4, 0, 2), heads*dim, batch*seq)
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

// Causal is [1, n, n]: query i sees keys j ≤ i.
func Causal(g *op.Graph, n int) *op.Node {
	s := shapes.Make(dtypes.Int32, 1, n, n)
	return op.GreaterOrEqual(op.Iota(g, s, 1), op.Iota(g, s, 2))
}
