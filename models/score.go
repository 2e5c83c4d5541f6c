package models

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// CompletionLogProbs scores K completions of one prompt in one row, the prompt computed once:
//
//	prompt [B, P] int32 left-padded, promptMask [B, P] bool,
//	completions [B, K, R] int32 right-padded, completionMask [B, K, R] bool
//	→ [B, K, R] float32, log p(token | prompt, earlier tokens of its completion), 0 where masked.
//
// A row's sequence is the prompt, then per completion the prompt's last token and all but the last of the completion:
// the states behind the prompt are exactly the predicting ones, and only they meet the vocabulary. (Nothing looks at the
// last token's place within the prompt; it only keeps the widths round.) Completions see the prompt and themselves,
// never each other; their positions all start behind the prompt. Every prompt needs at least one token. The result is
// differentiable with respect to base and adapter nodes.
func (c *Config) CompletionLogProbs(p Params, prompt, promptMask, completions, completionMask *op.Node) *op.Node {
	logp, _ := c.completionLogProbs(p, prompt, promptMask, completions, completionMask, false)
	return logp
}

// CompletionLikelihoods is CompletionLogProbs and, at the same places, log Σ_v p(v | prompt, earlier tokens)²: how likely two
// draws from the policy agree. [B, K, R] float32 each, 0 where masked; the second takes no gradient.
func (c *Config) CompletionLikelihoods(p Params, prompt, promptMask, completions, completionMask *op.Node) (logp, agreement *op.Node) {
	return c.completionLogProbs(p, prompt, promptMask, completions, completionMask, true)
}

func (c *Config) completionLogProbs(p Params, prompt, promptMask, completions, completionMask *op.Node, agreements bool) (logp, agreement *op.Node) {
	hidden := c.completionStates(&p, prompt, promptMask, completions, completionMask)
	logp, agreement = c.tokenLogProbs(&p, hidden, op.Reshape(completions, completions.Shape().Size()), agreements)
	masked := func(x *op.Node) *op.Node {
		if x == nil {
			return nil
		}
		return op.Where(completionMask, op.Reshape(x, completions.Shape().Dimensions...), op.Scalar(prompt.Graph(), dtypes.Float32, 0))
	}
	return masked(logp), masked(agreement)
}

// completionStates are the states that predict the tokens of the completions: [hidden, B·K·R] float32.
func (c *Config) completionStates(p *Params, prompt, promptMask, completions, completionMask *op.Node) *op.Node {
	batch, width := prompt.Shape().Dim(0), prompt.Shape().Dim(1)
	k, r := completions.Shape().Dim(1), completions.Shape().Dim(2)
	if want := []int{batch, k, r}; completionMask.Shape().CheckDims(want...) != nil || completions.Shape().CheckDims(want...) != nil {
		exceptions.Panicf("models: completions %s and mask %s do not fit prompts %s", completions.Shape(), completionMask.Shape(), prompt.Shape())
	}
	g := prompt.Graph()
	last := op.BroadcastToDims(op.InsertAxes(op.SliceAxis(prompt, 1, op.AxisRange(width-1)), 1), batch, k, 1)
	inputs := op.Concatenate([]*op.Node{last, op.SliceAxis(completions, 2, op.AxisRange(0, r-1))}, 2) // [B, K, R]
	tokens := op.Concatenate([]*op.Node{prompt, op.Reshape(inputs, batch, k*r)}, 1)                   // [B, P+K·R]
	before, seen := PrefixPositions(promptMask)
	at := op.Reshape(op.BroadcastToDims(op.Iota(g, shapes.Make(dtypes.Int32, 1, k, r), 2), batch, k, r), batch, k*r)
	after := op.Add(at, op.MinusOne(promptLength(promptMask))) // [B, K·R]
	positions := op.Concatenate([]*op.Node{before, after}, 1)

	masks := c.LayerMasks(width+r, func(window int) []*op.Node {
		own := op.BroadcastToDims(op.InsertAxes(Causal(g, r, window), 1), batch, k, r, r)
		return []*op.Node{
			op.LogicalAnd(op.InsertAxes(seen, 1), Causal(g, width, window)),                            // [B, P, P]
			Near(op.BroadcastToDims(op.InsertAxes(seen, 1), batch, k*r, width), after, before, window), // [B, K·R, P]
			op.Reshape(own, batch, k*r, r)}
	})
	attend := func(layer int, q, key, value *op.Node) *op.Node {
		sees := masks(layer)
		prompts := func(x *op.Node) *op.Node { return op.SliceAxis(x, 3, op.AxisRange(0, width)) }
		forks := func(x *op.Node) *op.Node { return op.SliceAxis(x, 3, op.AxisRange(width)) }
		shared := Span{K: Keys(prompts(key), 1), V: Values(prompts(value), 1)}
		own := Span{Keys(forks(key), k), Values(forks(value), k), sees[2]}
		joined := op.Concatenate([]*op.Node{
			op.Reshape(c.Attention(prompts(q), Span{shared.K, shared.V, sees[0]}), c.NumHeads*c.HeadDim, batch, width),
			op.Reshape(c.Attention(forks(q), Span{shared.K, shared.V, sees[1]}, own), c.NumHeads*c.HeadDim, batch, k*r)}, 2)
		return op.Reshape(joined, c.NumHeads*c.HeadDim, batch*(width+k*r))
	}
	hidden := c.Hidden(p, tokens, positions, attend) // [hidden, B·(P+K·R)]
	hidden = op.SliceAxis(op.Reshape(hidden, c.HiddenSize, batch, width+k*r), 2, op.AxisRange(width))
	return op.Reshape(hidden, c.HiddenSize, batch*k*r)
}

// promptLength counts a left-padded mask [B, P]: [B, 1] int32.
func promptLength(mask *op.Node) *op.Node {
	return op.ReduceAndKeep(op.ConvertDType(mask, dtypes.Int32), op.ReduceSum, -1)
}

// PrefixPositions gives, for left-padded prompts with mask [B, P], the position of every place [B, P] int32 (0 in the
// padding), and which places later tokens look at [B, P] bool: all of the prompt but its last token, which starts every
// completion as its first input.
func PrefixPositions(mask *op.Node) (positions, seen *op.Node) {
	width := mask.Shape().Dim(1)
	place := op.Iota(mask.Graph(), shapes.Make(dtypes.Int32, mask.Shape().Dimensions...), 1)
	positions = op.MaxScalar(op.Add(op.SubScalar(place, width), promptLength(mask)), 0)
	last := op.Scalar(mask.Graph(), dtypes.Int32, width-1)
	return positions, op.LogicalAnd(mask, op.LessThan(place, last))
}

// tokenLogProbs is log p(target) for hidden [hidden, N] and targets [N] int32: [N] float32. The target's logit is the
// state times the target's own vocabulary row, so the [vocab, N] logits feed only one reduction and the backward pass
// scatters nothing into them. agreement is log Σ_v p(v)², without a gradient; nil if it is not asked for.
func (c *Config) tokenLogProbs(p *Params, hidden, targets *op.Node, agreements bool) (logp, agreement *op.Node) {
	f32 := func(x *op.Node) *op.Node { return op.ConvertDType(x, dtypes.Float32) }
	logits := c.Logits(p, hidden)                                                // [vocab, N]
	rows := op.Transpose(op.Gather(c.head(p), op.InsertAxes(targets, -1)), 0, 1) // [hidden, N]
	highest := op.StopGradient(op.ReduceAndKeep(logits, op.ReduceMax, 0))
	logSum := op.Add(op.Squeeze(highest, 0), op.Log(op.ReduceSum(op.Exp(op.Sub(logits, highest)), 0)))
	logp = op.Sub(softCap(op.ReduceSum(op.Mul(f32(hidden), f32(rows)), 0), c.LogitCap), logSum)
	if !agreements {
		return logp, nil
	}
	shifted := op.StopGradient(op.Sub(logits, highest))
	squares := op.Log(op.ReduceSum(op.Exp(op.MulScalar(shifted, 2)), 0))
	rest := op.StopGradient(op.Sub(logSum, op.Squeeze(highest, 0))) // log Σ_v exp(shifted)
	return logp, op.Sub(squares, op.MulScalar(rest, 2))
}
