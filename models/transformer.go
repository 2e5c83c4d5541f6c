package models

import (
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
)

// Activations are feature-major, [features, tokens]: with weights [out, in] a linear layer is then the plain product W·x,
// which XLA's CPU matmul does up to eight times faster for a few tokens than x·Wᵀ, and no slower for many.
//
// They are float32 whatever the weights' dtype is, which are converted where they are used: activations in bfloat16 put
// SmolLM2's log-probs 0.55 nats off float32's, bfloat16 weights alone 0.04; XLA's CPU matmuls are float32 inside anyway.

// Attend is one layer's attention over what the caller can see (the same sequence, a cache):
// q [heads, dim, B, S], k and v [kvHeads, dim, B, S], rotated, to [heads·dim, B·S].
type Attend func(layer int, q, k, v *op.Node) *op.Node

// Hidden runs the blocks and the final norm: tokens [B, S] int32 at positions [B, S] int32, to [hidden, B·S] float32.
func (c *Config) Hidden(p *Params, tokens, positions *op.Node, attend Attend) *op.Node {
	f, dims, n := c.family(), tokens.Shape().Dimensions, tokens.Shape().Size()
	tokens, positions = widen(op.Reshape(tokens, n)), widen(op.Reshape(positions, n)) // [N], N ≥ B·S
	rows := func(table string, at *op.Node) *op.Node {                                // [hidden, B·S]
		return op.Transpose(op.Gather(p.weight(table), op.Reshape(at, at.Shape().Size(), 1)), 0, 1)
	}
	x := rows(f.embedName(), tokens)
	if f.scaled {
		x = op.MulScalar(x, math.Sqrt(float64(c.HiddenSize))) // in the weights' dtype, as the models were trained
	}
	x = float32s(x)
	var turn func(x *op.Node) *op.Node
	if f.positions != "" {
		x = op.Add(x, float32s(rows(f.positionsName(), positions)))
	} else {
		cos, sin := c.rotary(positions) // [rotary/2, B·S]
		turn = func(x *op.Node) *op.Node { return rotate(x, cos, sin) }
	}
	for layer := range c.NumLayers {
		if p.Checkpointing {
			x = x.Checkpoint()
		}
		x = c.block(p, layer, x, turn, func(q, k, v *op.Node) *op.Node {
			split := func(y *op.Node) *op.Node {
				return op.Reshape(narrow(y, n), append(y.Shape().Dimensions[:2:2], dims...)...)
			}
			return widen(attend(layer, split(q), split(k), split(v)))
		})
	}
	if p.Checkpointing {
		x = x.StopCheckpoint()
	}
	return narrow(c.norm(p, f.finalName(), x), n)
}

// widen appends zeros to a last axis of 2 to 127 columns, to a multiple of 16: XLA's CPU plugin multiplies by 16
// columns in two thirds of the time that it takes for 8, and by 32 in half the time that it takes for 24.
func widen(x *op.Node) *op.Node {
	dims := slices.Clone(x.Shape().Dimensions)
	n := dims[len(dims)-1]
	if n == 1 || n >= 128 || n%16 == 0 {
		return x
	}
	dims[len(dims)-1] = 16 - n%16
	return op.Concatenate([]*op.Node{x, op.Zeros(x.Graph(), shapes.Make(x.DType(), dims...))}, -1)
}

// narrow takes back what widen appended.
func narrow(x *op.Node, n int) *op.Node {
	if x.Shape().Dim(-1) == n {
		return x
	}
	return op.SliceAxis(x, -1, op.AxisRange(0, n))
}

// block is one layer: x [hidden, N] to [hidden, N]. turn rotates queries and keys [heads, dim, N]; nil: it does not.
func (c *Config) block(p *Params, layer int, x *op.Node, turn func(x *op.Node) *op.Node, attend func(q, k, v *op.Node) *op.Node) *op.Node {
	f := c.family()
	norm := func(part string, x *op.Node) *op.Node {
		if part == "" {
			return x
		}
		return c.norm(p, f.weight(layer, part), x)
	}
	linear := func(part string, x *op.Node) *op.Node {
		return p.linear(Linear{Name: f.weight(layer, part), Transposed: f.transposed}, x)
	}
	h := norm(f.attnNorm, x)
	q, k, v := c.project(func(part string) *op.Node { return linear(part, h) })
	q, k = norm(f.qNorm, q), norm(f.kNorm, k)
	if turn != nil {
		q, k = turn(q), turn(k)
	}
	attended := norm(f.attnPost, linear(f.out, attend(q, k, v)))
	if !c.ParallelResidual {
		x = op.Add(x, attended)
	}
	h = norm(f.mlpNorm, x)
	up := make([]*op.Node, len(f.up))
	for i, part := range f.up {
		up[i] = linear(part, h)
	}
	if f.gated && len(up) == 1 {
		up = cut(up[0], c.IntermediateSize, c.IntermediateSize)
	}
	h = activations[c.Activation](up[0])
	if f.gated {
		h = op.Mul(h, up[1])
	}
	x = op.Add(x, norm(f.mlpPost, linear(f.down, h)))
	if c.ParallelResidual {
		x = op.Add(x, attended)
	}
	return x
}

// project makes queries, keys and values [heads, dim, N], whether their projections are three or fused.
func (c *Config) project(linear func(part string) *op.Node) (q, k, v *op.Node) {
	f := c.family()
	heads := func(y *op.Node, n int) *op.Node { return op.Reshape(y, n, c.HeadDim, y.Shape().Dim(-1)) }
	var parts []*op.Node
	switch {
	case f.byHead: // [heads, q k v of dim, N]
		y := linear(f.qkv[0])
		y = op.Reshape(y, c.NumHeads, 3, c.HeadDim, y.Shape().Dim(-1))
		for i := range 3 {
			parts = append(parts, op.Squeeze(op.SliceAxis(y, 1, op.AxisElem(i)), 1))
		}
		return parts[0], parts[1], parts[2]
	case len(f.qkv) == 1:
		kv := c.NumKVHeads * c.HeadDim
		parts = cut(linear(f.qkv[0]), c.NumHeads*c.HeadDim, kv, kv)
	default:
		for _, part := range f.qkv {
			parts = append(parts, linear(part))
		}
	}
	return heads(parts[0], c.NumHeads), heads(parts[1], c.NumKVHeads), heads(parts[2], c.NumKVHeads)
}

// cut takes x [Σsizes, N] apart.
func cut(x *op.Node, sizes ...int) []*op.Node {
	parts, at := make([]*op.Node, len(sizes)), 0
	for i, n := range sizes {
		parts[i] = op.SliceAxis(x, 0, op.AxisRange(at, at+n))
		at += n
	}
	return parts
}

// activations are the MLP's, by their names in config.json.
var activations = map[string]func(x *op.Node) *op.Node{
	"":                  silu,
	"silu":              silu,
	"gelu":              gelu,
	"gelu_new":          geluTanh,
	"gelu_fast":         geluTanh,
	"gelu_pytorch_tanh": geluTanh,
	"relu":              func(x *op.Node) *op.Node { return op.MaxScalar(x, 0) },
}

func silu(x *op.Node) *op.Node { return op.Mul(x, op.Sigmoid(x)) }

// gelu is x·Φ(x) (Hendrycks and Gimpel 2016).
func gelu(x *op.Node) *op.Node {
	return op.Mul(op.MulScalar(x, 0.5), op.OnePlus(op.Erf(op.MulScalar(x, math.Sqrt2/2))))
}

// geluTanh is its approximation x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
func geluTanh(x *op.Node) *op.Node {
	inner := op.MulScalar(op.Mul(x, op.OnePlus(op.MulScalar(op.Square(x), 0.044715))), math.Sqrt(2/math.Pi))
	return op.Mul(op.MulScalar(x, 0.5), op.OnePlus(op.Tanh(inner)))
}

func float32s(x *op.Node) *op.Node { return op.ConvertDType(x, dtypes.Float32) }

// head is the vocabulary matrix [vocab, hidden].
func (c *Config) head(p *Params) *op.Node {
	f := c.family()
	if c.TieEmbeddings {
		return p.weight(f.embedName())
	}
	return p.weight(f.headName())
}

// Logits is the vocabulary matrix times hidden [hidden, N]: [vocab, N] float32, capped if the configuration says so.
func (c *Config) Logits(p *Params, hidden *op.Node) *op.Node {
	return softCap(narrow(matmul(c.head(p), widen(hidden)), hidden.Shape().Dim(-1)), c.LogitCap)
}

// norm is the family's norm over the features of x [features, N] or [heads, features, N].
func (c *Config) norm(p *Params, name string, x *op.Node) *op.Node {
	column := func(name string) *op.Node { // [features, 1], or [1, features, 1]
		w := op.InsertAxes(float32s(p.weight(name)), -1)
		if x.Rank() > 2 {
			w = op.InsertAxes(w, 0)
		}
		return w
	}
	axis, kind := x.Rank()-2, c.family().norm
	if kind == layerNorm {
		x = op.Sub(x, op.ReduceAndKeep(x, op.ReduceMean, axis))
	}
	x = op.Div(x, op.Sqrt(op.AddScalar(op.ReduceAndKeep(op.Square(x), op.ReduceMean, axis), c.RMSNormEps)))
	switch kind {
	case rmsNormPlusOne:
		return op.Mul(x, op.OnePlus(column(name)))
	case layerNorm:
		return op.Add(op.Mul(x, column(name)), column(biasName(name)))
	}
	return op.Mul(x, column(name))
}

// rotary gives cos and sin [rotary/2, B·S] of position·frequency, float32.
func (c *Config) rotary(positions *op.Node) (cos, sin *op.Node) {
	freq, attention := c.frequencies()
	angle := op.Mul(op.Reshape(op.ConvertDType(positions, dtypes.Float32), 1, positions.Shape().Size()),
		op.Reshape(op.Const(positions.Graph(), freq), len(freq), 1))
	cos, sin = op.Cos(angle), op.Sin(angle)
	if attention != 1 {
		cos, sin = op.MulScalar(cos, attention), op.MulScalar(sin, attention)
	}
	return cos, sin
}

// rotate turns the pairs (i, i+r) of x [heads, dim, N] by their angles [r, N]; features from 2r on stay.
func rotate(x, cos, sin *op.Node) *op.Node {
	half := cos.Shape().Dim(0)
	a, b := op.SliceAxis(x, 1, op.AxisRange(0, half)), op.SliceAxis(x, 1, op.AxisRange(half, 2*half))
	cos, sin = op.InsertAxes(cos, 0), op.InsertAxes(sin, 0)
	turned := []*op.Node{op.Sub(op.Mul(a, cos), op.Mul(b, sin)), op.Add(op.Mul(b, cos), op.Mul(a, sin))}
	if rest := 2 * half; rest < x.Shape().Dim(1) {
		turned = append(turned, op.SliceAxis(x, 1, op.AxisRange(rest)))
	}
	return op.Concatenate(turned, 1)
}
