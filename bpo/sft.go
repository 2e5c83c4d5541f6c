package bpo

import (
	"cmp"
	"context"
	"fmt"

	"gobpo/models"
)

// SFTConfig is a training on given texts: of the starting adapters, of every weight of a new model, of a reward model.
type SFTConfig struct {
	Steps      int             `mapstructure:"steps" yaml:"steps"`
	BatchSize  int             `mapstructure:"batch_size" yaml:"batch_size"`
	MicroBatch int             `mapstructure:"micro_batch" yaml:"micro_batch"`
	Optimizer  OptimizerConfig `mapstructure:"optimizer" yaml:"optimizer"`
	// GroupByLength draws batches of texts of about one length, which pad less: of every 16 batches of the random order, the
	// texts are sorted by length and cut into batches anew, which come in a random order.
	GroupByLength bool `mapstructure:"group_by_length" yaml:"group_by_length,omitempty"`
}

// Validate reports the first impossible setting as "key: what is wrong", keys under prefix. No steps means no training.
func (c *SFTConfig) Validate(prefix string) error {
	switch {
	case c.Steps < 0:
		return fmt.Errorf("%s.steps: must not be negative, got %d", prefix, c.Steps)
	case c.Steps == 0:
		return nil
	case c.BatchSize < 1:
		return fmt.Errorf("%s.batch_size: must be at least 1, got %d", prefix, c.BatchSize)
	case c.MicroBatch < 0 || (c.MicroBatch > 0 && c.BatchSize%c.MicroBatch != 0):
		return fmt.Errorf("%s.micro_batch: %d does not divide batch_size %d", prefix, c.MicroBatch, c.BatchSize)
	}
	return c.Optimizer.validate(prefix+".optimizer", c.Steps)
}

// Micro is the number of examples of one gradient call.
func (c *SFTConfig) Micro() int {
	if c.MicroBatch > 0 {
		return c.MicroBatch
	}
	return c.BatchSize
}

// SFT minimises the mean negative log-prob of the prompts' reference texts (EOS included, prompt tokens not) and returns
// the trained policy. References lose what exceeds maxCompletion tokens; a cut one teaches no end of text. The order of
// examples is a function of the seed, so n adapters of n seeds differ as the paper's ensemble does.
func SFT(ctx context.Context, f Fit, prompts []Prompt, maxCompletion int) (models.Policy, error) {
	rows := make([]example, len(prompts))
	for i, p := range prompts {
		if p.Reference == "" {
			return f.Start, fmt.Errorf("sft: prompt %s has no reference text to learn from", p.ID)
		}
		ids := append(f.Model.Tokenizer.EncodePlain(p.Reference), cmp.Or(f.End, f.Model.Tokenizer.EOS()))
		rows[i] = example{id: p.ID, row: models.Row{Prompt: p.Tokens, Completions: [][]int32{ids[:min(len(ids), maxCompletion)]}}}
	}
	return f.run(ctx, "sft", nllObjective(), rows, func(batch []example) {
		tokens := 0
		for _, ex := range batch {
			tokens += len(ex.row.Completions[0])
		}
		for i := range batch {
			batch[i].weight = 1 / float64(tokens)
		}
	})
}
