package models

import "github.com/gomlx/compute/dtypes"

// NumParams counts the model's numbers.
func (c Config) NumParams() int64 {
	n := int64(0)
	for _, dims := range c.Shapes() {
		n += volume(dims)
	}
	return n
}

// Shapes lists the dimensions of an adapter's tensors; none without a rank.
func (l LoRA) Shapes(c Config) (dims [][]int) {
	for _, lin := range c.Linears() {
		if l.Rank > 0 && l.on(lin) {
			rank, _ := l.At(lin.Name)
			dims = append(dims, []int{rank, lin.In}, []int{lin.Out, rank})
		}
	}
	return dims
}

// NumParams counts an adapter's numbers, and those of the weights it sits on.
func (l LoRA) NumParams(c Config) (adapter, covered int64) {
	for dims := l.Shapes(c); len(dims) > 0; dims = dims[2:] {
		adapter += volume(dims[0]) + volume(dims[1])
		covered += int64(dims[0][1]) * int64(dims[1][0])
	}
	return adapter, covered
}

func volume(dims []int) int64 {
	n := int64(1)
	for _, d := range dims {
		n *= int64(d)
	}
	return n
}

// GradientShape is a gradient call on Batch rows of a prompt and K completions, padded to their widths.
type GradientShape struct {
	Batch, Prompt, K, Completion int
	LoRA                         LoRA // zero: every weight is trained
	Checkpointing                bool
}

// GradientMemory estimates the bytes that CompletionLogProbs and its gradient need beside weights, gradients and
// results: the states kept for the backward pass, and the vocabulary's logits.
//
// The coefficients are those of XLA's CPU executables (PJRT_Executable_GetCompiledMemoryStats, temp), a little rounded
// up: they grew by 19 bytes a token and layer for each number of the hidden state, 21 of the MLP's, 18 of the queries',
// 8 of keys and values, and by 2 to 3.3 a score. A float32 logit was there once. Beside that the process came to hold
// two to five layers' worth, for the operands that XLA's matmuls pack and what the heap keeps of freed buffers; four are
// counted. docs/training.md compares the whole with measurements.
func (c Config) GradientMemory(s GradientShape, dtype dtypes.DType) (activations, logits int64) {
	batch, prompt, fork := int64(s.Batch), int64(s.Prompt), int64(s.K)*int64(s.Completion)
	tokens := batch * (prompt + fork)
	hidden, mlp := int64(c.HiddenSize), int64(c.IntermediateSize)
	queries, keys := int64(c.NumHeads*c.HeadDim), int64(c.NumKVHeads*c.HeadDim)
	scores := batch * int64(c.NumHeads) * (prompt*prompt + fork*(prompt+int64(s.Completion)))

	layer := tokens*(20*hidden+22*mlp+20*queries+10*keys) + 4*scores
	logits = batch * fork * int64(c.VocabSize) * 4
	kept := layer * int64(c.NumLayers)
	if s.Checkpointing {
		kept = tokens*hidden*4*int64(c.NumLayers) + layer + layer/4
	}
	activations = kept + 4*layer
	if s.LoRA.Dropout > 0 { // each layer's random numbers and what they leave, which checkpointing doesn't compute again
		activations += 8 * tokens * (5*hidden + mlp + queries) * int64(c.NumLayers)
	}
	if dtype != dtypes.Float32 {
		activations += 4 * c.NumParams() // the weights in float32, as the backend computes with them
	}
	return activations, logits
}

// CacheMemory is the bytes of keys and values, float32, of batch prompts of a width, and of n samples of each.
func (c Config) CacheMemory(batch, prompt, n, completion int) int64 {
	slots := int64(batch) * int64(prompt+n*completion)
	return 2 * slots * int64(c.NumLayers*c.NumKVHeads*c.HeadDim) * 4
}
