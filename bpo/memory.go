package bpo

import (
	"github.com/gomlx/compute/dtypes"
	"gobpo/models"
)

// MemoryParts are the columns of a memory estimate, in the order in which they are shown.
var MemoryParts = []string{"weights", "trained", "optimizer", "gradients", "activations", "logits", "kv cache", "policies", "runtime"}

// Memory is an estimate of the bytes that one stage of a run holds at its peak, by MemoryParts:
//
//	weights      the base model
//	trained      the learners' adapters or float32 masters
//	optimizer    its state, of every learner
//	gradients    of one learner, and while micro-batches are summed twice that
//	activations  what a backward pass keeps, or a forward pass works on
//	logits       over the vocabulary
//	kv cache     of the sampler
//	policies     that are held beside: start, behavior, reference, the one being measured, dense copies of folded ones
//	runtime      the process, the XLA plugin, compilation, and what the heap keeps of tensors that were replaced
type Memory struct {
	Stage string // "sft", "train" or "sample"
	Bytes map[string]int64
}

// Total is the stage's peak.
func (m Memory) Total() int64 {
	n := int64(0)
	for _, b := range m.Bytes {
		n += b
	}
	return n
}

// Memory estimates every stage of a run on a model of config m in dtype, with SFT before it if sft has steps. The run
// needs the largest stage's total. Pairs are taken to be as long as max_prompt_tokens and max_completion_tokens allow.
func (c *Config) Memory(m models.Config, dtype dtypes.DType, sft SFTConfig) []Memory {
	size, learners := int64(dtype.Size()), int64(c.Learners)
	params := m.NumParams()
	adapter, covered := c.LoRA.NumParams(m)
	trained, own, dense := adapter, 4*adapter, size*covered // numbers trained; bytes of a policy's own, and when folded
	if c.full() {
		trained, own, dense = params, size*params, 0
	}

	policies := int64(0)
	if sft.Steps > 0 || !c.full() {
		policies += learners * own // the start policies
	}
	merged := own
	if !c.full() {
		merged *= learners // mean_delta concatenates ranks
	}
	if c.Learners > 1 {
		policies += merged // the start policies' merge
	}
	average := 4*covered + 2*size*covered // in float32, and while it moves or is rounded two more
	if c.full() {
		average = 4*params + 2*size*params
	}
	switch {
	case c.Phases() == 1:
	case c.Behavior == "learner":
		policies += merged
	case c.Behavior == "ema":
		policies += average
	}
	switch {
	case c.Reference == "ema":
		policies += average
	case c.ReferencePath() != "":
		policies += own
	}
	held := map[string]int64{
		"weights": size * params, "trained": 4 * trained * learners, "policies": policies,
		"optimizer": 4 * c.Optimizer.stateSize(m, c) * learners,
		// The process and the plugin; compiling a layer's forward and backward pass.
		"runtime": 300<<20 + int64(m.NumLayers)*(35<<20),
	}
	prompt := models.Bucket(c.MaxPromptTokens)

	gradient := func(batch, micro, k int) map[string]int64 {
		activations, logits := m.GradientMemory(models.GradientShape{
			Batch: micro, Prompt: prompt, K: k, Completion: models.Bucket(c.MaxCompletionTokens),
			LoRA: c.LoRA, Checkpointing: c.GradientCheckpointing,
		}, dtype)
		gradients := 4 * trained
		if micro < batch {
			gradients *= 2
		}
		return map[string]int64{"activations": activations, "logits": logits, "gradients": gradients}
	}
	var stages []Memory
	stage := func(name string, held, parts map[string]int64) {
		s := Memory{Stage: name, Bytes: map[string]int64{}}
		for _, from := range []map[string]int64{held, parts} {
			for part, n := range from {
				s.Bytes[part] += n
			}
		}
		s.Bytes["runtime"] += (s.Bytes["trained"] + s.Bytes["optimizer"] + s.Bytes["gradients"] + s.Bytes["policies"]) / 2
		stages = append(stages, s)
	}
	if sft.Steps > 0 { // one learner at a time, before there is anything else
		one := map[string]int64{
			"weights": held["weights"], "runtime": held["runtime"], "policies": own * learners,
			"trained": 4 * trained, "optimizer": 4 * sft.Optimizer.stateSize(m, c),
		}
		stage("sft", one, gradient(sft.BatchSize, sft.Micro(), 1))
	}
	stage("train", held, gradient(c.BatchSize, c.Micro(), 2))

	// Sampling: a forward pass over a batch of prompts, then the cache, which the loop gets and gives back. It works on
	// a few logits a sample, with top-p on sorted ones too.
	samples := int64(c.Sample.Batch * c.Sample.N)
	forward, _ := m.GradientMemory(models.GradientShape{Batch: c.Sample.Batch, Prompt: prompt, Checkpointing: true}, dtype)
	copies := int64(4)
	if c.Sample.TopP < 1 || c.Sample.TopK > 0 {
		copies = 8
	}
	stage("sample", held, map[string]int64{
		"activations": forward, "logits": samples * int64(m.VocabSize) * 4 * copies, "policies": dense + merged,
		"kv cache": 2 * m.CacheMemory(c.Sample.Batch, prompt, c.Sample.N, c.MaxCompletionTokens),
	})
	return stages
}

// stateSize counts the numbers of one learner's optimizer state.
func (c OptimizerConfig) stateSize(m models.Config, run *Config) int64 {
	n := int64(0)
	count := func(dims [][]int) {
		for _, d := range optimizers[c.Name].State(c, dims) {
			n += int64(product(d))
		}
	}
	if run.full() {
		for _, d := range m.Shapes() {
			count([][]int{d})
		}
		return n
	}
	count(run.LoRA.Shapes(m))
	return n
}
