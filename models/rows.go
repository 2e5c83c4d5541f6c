package models

import (
	"github.com/gomlx/gomlx/core/tensors"
)

// Row is one prompt (at least one token) with completions of it.
type Row struct {
	Prompt      []int32
	Completions [][]int32
}

// Bucket is the one length-bucket rule of sampler, scorer and learner: powers of two from 16 to 128, multiples of 128 up
// to 512, of 256 beyond. Few widths, since a graph of a real model takes longer to compile than its padding to compute.
func Bucket(n int) int {
	step := 16
	switch {
	case n > 512:
		step = 256
	case n > 128:
		step = 128
	default:
		for step < n {
			step *= 2
		}
	}
	return max(1, (n+step-1)/step) * step
}

// CoarseBucket is the rule for texts of any lengths in one pass, such as a reward model's pairs: powers of two from 64, few
// of which make a graph each.
func CoarseBucket(n int) int {
	width := 64
	for width < n {
		width *= 2
	}
	return width
}

// PackRows lays rows out as the four inputs of CompletionLogProbs, on the host: prompt [batch, promptWidth] int32
// left-padded, promptMask bool, completions [batch, k, completionWidth] int32 right-padded, completionMask bool.
// Longer prompts keep their end, longer completions their start. Rows missing to batch are dummies (one pad token as
// prompt, nothing to score).
func PackRows(rows []Row, batch, promptWidth, completionWidth, k int, pad int32) []*tensors.Tensor {
	prompt, promptMask := filled(batch*promptWidth, pad), make([]bool, batch*promptWidth)
	completions, completionMask := filled(batch*k*completionWidth, pad), make([]bool, batch*k*completionWidth)
	for i := range batch {
		var row Row
		if i < len(rows) {
			row = rows[i]
		}
		tokens := row.Prompt
		if len(tokens) == 0 {
			tokens = []int32{pad}
		}
		tokens = tokens[max(0, len(tokens)-promptWidth):]
		start := (i+1)*promptWidth - len(tokens)
		copy(prompt[start:], tokens)
		mark(promptMask[start : start+len(tokens)])
		for j, c := range row.Completions[:min(k, len(row.Completions))] {
			start := (i*k + j) * completionWidth
			n := copy(completions[start:start+completionWidth], c)
			mark(completionMask[start : start+n])
		}
	}
	return []*tensors.Tensor{
		tensors.FromFlatDataAndDimensions(prompt, batch, promptWidth),
		tensors.FromFlatDataAndDimensions(promptMask, batch, promptWidth),
		tensors.FromFlatDataAndDimensions(completions, batch, k, completionWidth),
		tensors.FromFlatDataAndDimensions(completionMask, batch, k, completionWidth),
	}
}

func filled(n int, v int32) []int32 {
	s := make([]int32, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func mark(mask []bool) {
	for i := range mask {
		mask[i] = true
	}
}
