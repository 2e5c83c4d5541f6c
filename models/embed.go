package models

import (
	"context"
	"slices"

	"github.com/gomlx/compute/dtypes"
	op "github.com/gomlx/gomlx/core/graph"
)

// Embed gives the mean over its tokens of the final states that predict them, for each completion in its row, as
// [row][completion][hidden]. Batches are LogProbs's.
func (s *Scorer) Embed(ctx context.Context, p Policy, rows []Row, batch int) ([][][]float32, error) {
	c, l := s.config, p.LoRA()
	exec := s.exec("embed "+l.Key(), func(sets []NodeSet, in []*op.Node) *op.Node {
		params := Params{Base: sets[0], Adapter: sets[1], LoRA: l}
		b, k, r := in[2].Shape().Dim(0), in[2].Shape().Dim(1), in[2].Shape().Dim(2)
		states := op.Reshape(c.completionStates(&params, in[0], in[1], in[2], in[3]), c.HiddenSize, b, k, r)
		mask := op.InsertAxes(op.ConvertDType(in[3], dtypes.Float32), 0) // [1, B, K, R]
		n := op.MaxScalar(op.ReduceSum(mask, -1), 1)                     // [1, B, K]
		mean := op.Div(op.ReduceSum(op.Mul(states, mask), -1), n)        // [hidden, B, K]
		return op.TransposeAllAxes(mean, 1, 2, 0)
	})
	out := make([][][]float32, len(rows))
	err := s.batches(ctx, p, exec, rows, batch, func(row int, values []float32, _ int) {
		for k := range rows[row].Completions {
			out[row] = append(out[row], slices.Clone(values[k*c.HiddenSize:(k+1)*c.HiddenSize]))
		}
	})
	return out, err
}
