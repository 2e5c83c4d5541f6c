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
// A row's sequence is the prompt without its last token, then per completion that last token and all but the last of
// the completion: the states behind the prompt are exactly the predicting ones, and only they meet the vocabulary.
// Completions see the prompt and themselves, never each other; their positions all start behind the prompt.
// Every prompt needs at least one token. The result is differentiable with respect to base and adapter nodes.
func (c *Config) CompletionLogProbs(p Params, prompt, promptMask, completions, completionMask *op.Node) *op.Node {
	batch, width := prompt.Shape().Dim(0), prompt.Shape().Dim(1)
	k, r := completions.Shape().Dim(1), completions.Shape().Dim(2)
	if want := []int{batch, k, r}; completionMask.Shape().CheckDims(want...) != nil || completions.Shape().CheckDims(want...) != nil {
		exceptions.Panicf("models: completions %s and mask %s do not fit prompts %s", completions.Shape(), completionMask.Shape(), prompt.Shape())
	}
	g, prefix := prompt.Graph(), width-1
	last := op.BroadcastToDims(op.InsertAxes(op.SliceAxis(prompt, 1, op.AxisRange(prefix)), 1), batch, k, 1)
	inputs := op.Concatenate([]*op.Node{last, op.SliceAxis(completions, 2, op.AxisRange(0, r-1))}, 2) // [B, K, R]
	tokens := op.Reshape(inputs, batch, k*r)
	length := op.ReduceAndKeep(op.ConvertDType(promptMask, dtypes.Int32), op.ReduceSum, -1) // [B, 1]
	at := op.Iota(g, shapes.Make(dtypes.Int32, 1, k, r), 2)
	positions := op.Add(op.Reshape(op.BroadcastToDims(at, batch, k, r), batch, k*r), op.MinusOne(length))
	var prefixMask, prefixSees, completionSees *op.Node
	if prefix > 0 {
		tokens = op.Concatenate([]*op.Node{op.SliceAxis(prompt, 1, op.AxisRange(0, prefix)), tokens}, 1) // [B, P-1+K·R]
		slot := op.Iota(g, shapes.Make(dtypes.Int32, batch, prefix), 1)
		positions = op.Concatenate([]*op.Node{op.MaxScalar(op.Add(op.SubScalar(slot, width), length), 0), positions}, 1)
		prefixMask = op.SliceAxis(promptMask, 1, op.AxisRange(0, prefix))
		prefixSees = op.LogicalAnd(op.InsertAxes(prefixMask, 1), Causal(g, prefix))           // [B, P-1, P-1]
		completionSees = op.BroadcastToDims(op.InsertAxes(prefixMask, 1), batch, k*r, prefix) // [B, K·R, P-1]
	}
	ownSees := op.BroadcastToDims(op.InsertAxes(Causal(g, r), 1), batch, k, r, r)
	ownSees = op.Reshape(ownSees, batch, k*r, r)

	attend := func(_ int, q, key, value *op.Node) *op.Node {
		prompts := func(x *op.Node) *op.Node { return op.SliceAxis(x, 1, op.AxisRange(0, prefix)) }
		forks := func(x *op.Node) *op.Node { return op.SliceAxis(x, 1, op.AxisRange(prefix)) }
		own := Span{Stretches(forks(key), k), Stretches(forks(value), k), ownSees}
		if prefix == 0 {
			return Attention(q, own)
		}
		shared := Span{K: Stretches(prompts(key), 1), V: Stretches(prompts(value), 1)}
		before := Attention(prompts(q), Span{shared.K, shared.V, prefixSees})
		after := Attention(forks(q), Span{shared.K, shared.V, completionSees}, own)
		return op.Concatenate([]*op.Node{before, after}, 1)
	}
	hidden := c.Hidden(&p, tokens, positions, attend) // [B·(P-1+K·R), hidden]
	hidden = op.SliceAxis(op.Reshape(hidden, batch, prefix+k*r, c.HiddenSize), 1, op.AxisRange(prefix))
	hidden = op.Reshape(hidden, batch*k*r, c.HiddenSize)
	logp := c.tokenLogProbs(&p, hidden, op.Reshape(completions, batch*k*r))
	return op.Where(completionMask, op.Reshape(logp, batch, k, r), op.Scalar(g, dtypes.Float32, 0))
}

// tokenLogProbs is log p(target) for hidden [N, hidden] and targets [N] int32: [N] float32. The target's logit is the
// state times the target's own vocabulary row, so the [N, vocab] logits feed only one reduction and the backward pass
// scatters nothing into them.
func (c *Config) tokenLogProbs(p *Params, hidden, targets *op.Node) *op.Node {
	logits := c.Logits(p, hidden)                            // [N, vocab]
	rows := op.Gather(c.head(p), op.InsertAxes(targets, -1)) // [N, hidden]
	f32 := func(x *op.Node) *op.Node { return op.ConvertDType(x, dtypes.Float32) }
	return op.Sub(op.ReduceSum(op.Mul(f32(hidden), f32(rows)), -1), LogSumExp(logits))
}

// LogSumExp over the last axis of x [N, V]: [N].
func LogSumExp(x *op.Node) *op.Node {
	highest := op.StopGradient(op.ReduceAndKeep(x, op.ReduceMax, -1))
	return op.Add(op.Squeeze(highest, -1), op.Log(op.ReduceSum(op.Exp(op.Sub(x, highest)), -1)))
}
