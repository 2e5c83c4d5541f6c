package models

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	op "github.com/gomlx/gomlx/core/graph"
)

// RewardHead is the weight of a reward model's scalar head, [1, hidden], as transformers' sequence classifiers name it.
// An adapter has it among its own weights where it was trained beside the adapter (PEFT's modules_to_save).
const RewardHead = "score.weight"

// Rewards reads a reward model: the scalar head's value at the last token of each text, [B, K] float32. The inputs are
// CompletionLogProbs's, but that every completion ends with one token more, which is not looked at: the state that would
// predict it is the one that has seen all of the text.
func (c *Config) Rewards(p Params, prompt, promptMask, completions, completionMask *op.Node) *op.Node {
	batch, k, r := completions.Shape().Dim(0), completions.Shape().Dim(1), completions.Shape().Dim(2)
	hidden := c.completionStates(&p, prompt, promptMask, completions, completionMask) // [hidden, B·K·R]
	head, ok := p.Adapter[RewardHead]
	if !ok {
		head = p.weight(RewardHead)
	}
	values := op.Reshape(matmul(head, hidden), batch, k, r)
	last := op.Sub(op.ReduceAndKeep(op.ConvertDType(completionMask, dtypes.Int32), op.ReduceSum, -1), op.Scalar(prompt.Graph(), dtypes.Int32, 1))
	at := op.Equal(op.Iota(prompt.Graph(), completions.Shape(), 2), last) // [B, K, R]
	return op.ReduceSum(op.Where(at, values, op.ZerosLike(values)), -1)
}

// RewardBase is a set of all weights for a reward model to be trained from this one: without the vocabulary's head, and
// with a scalar one, N(0, 0.02²), unless it is there.
func (m *Model) RewardBase(seed uint64) Weights {
	base := Weights{}
	for name := range m.Config.Shapes() {
		base[name] = m.Base[name]
	}
	if base[RewardHead] == nil {
		rng := rngFor(seed, RewardHead)
		base[RewardHead] = fillWeights([]int{1, m.Config.HiddenSize}, func() float32 { return float32(rng.NormFloat64() * initStd) })
	}
	return base
}

// RewardAdapter is NewAdapter for a reward model to be trained from this one: the scalar head that it has goes on.
func (m *Model) RewardAdapter(l LoRA, seed uint64) (*Adapter, error) {
	a := NewAdapter(m.Config, l, seed)
	head := m.Base[RewardHead]
	if head == nil {
		return a, nil
	}
	defer Weights{RewardHead: head}.dropHostCopies()
	var read error
	err := a.Weights[RewardHead].MutableFlatData(func(own any) {
		read = head.ConstFlatData(func(all any) {
			switch all := all.(type) {
			case []float32:
				copy(own.([]float32), all)
			case []bfloat16.BFloat16:
				for i, v := range all {
					own.([]float32)[i] = v.Float32()
				}
			}
		})
	})
	if err = errors.Join(err, read); err != nil {
		return nil, fmt.Errorf("%s of the base: %w", RewardHead, err)
	}
	return a, nil
}

// RewardRow adds to every completion the token that Rewards does not look at.
func RewardRow(row Row) Row {
	out := Row{Prompt: row.Prompt}
	for _, y := range row.Completions {
		out.Completions = append(out.Completions, append(slices.Clone(y), 0))
	}
	return out
}

// Rewards gives a reward model's value of each text, prompt and completion, as [row][completion]. A text is judged as it
// stands: whoever wants an end of text in it puts one there. Batches are LogProbs's.
func (s *Scorer) Rewards(ctx context.Context, p Policy, rows []Row, batch int) ([][]float64, error) {
	longer := make([]Row, len(rows))
	for i, row := range rows {
		longer[i] = RewardRow(row)
	}
	out := make([][]float64, len(rows))
	exec := s.exec("reward "+p.LoRA().Key(), func(sets []NodeSet, in []*op.Node) *op.Node {
		return s.config.Rewards(Params{Base: sets[0], Adapter: sets[1], LoRA: p.LoRA()}, in[0], in[1], in[2], in[3])
	})
	err := s.batches(ctx, p, exec, longer, batch, func(row int, values []float32, _ int) {
		for _, v := range values {
			out[row] = append(out[row], float64(v))
		}
	})
	return out, err
}
