package bpo

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/compute"
	"gobpo/data"
	"gobpo/models"
)

// SFTConfig is supervised fine-tuning on reference texts: of the starting adapters, or of every weight of a new model.
type SFTConfig struct {
	Steps      int             `mapstructure:"steps" yaml:"steps"`
	BatchSize  int             `mapstructure:"batch_size" yaml:"batch_size"`
	MicroBatch int             `mapstructure:"micro_batch" yaml:"micro_batch"`
	Optimizer  OptimizerConfig `mapstructure:"optimizer" yaml:"optimizer"`
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

// SFTSetup is what supervised fine-tuning needs besides its config.
type SFTSetup struct {
	Config  SFTConfig
	Backend compute.Backend
	Model   *models.Model
	Start   models.Policy // its adapter is trained, or with Full every weight
	Full    bool
	// Checkpointing is Config.GradientCheckpointing.
	Checkpointing bool
	Mesh          models.Mesh
	Prompts       []Prompt // rows without a reference text are refused
	// MaxCompletionTokens cuts references; a cut one teaches no end of text.
	MaxCompletionTokens int
	Seed                uint64
	Log                 func(step int, m Metrics) error
	Progress            func(what string, step, of int)
}

// SFT minimises the mean negative log-prob of reference tokens (EOS included, prompt tokens not) and returns the trained
// policy. The order of examples is a function of Seed, so n adapters of n seeds differ as the paper's ensemble does.
func SFT(ctx context.Context, s SFTSetup) (models.Policy, error) {
	if err := s.Mesh.Check(s.Backend); err != nil {
		return s.Start, err
	}
	rows := make([]models.Row, len(s.Prompts))
	for i, p := range s.Prompts {
		if p.Reference == "" {
			return s.Start, fmt.Errorf("sft: prompt %s has no reference text to learn from", p.ID)
		}
		ids := append(s.Model.Tokenizer.EncodePlain(p.Reference), s.Model.Tokenizer.EOS())
		rows[i] = models.Row{Prompt: p.Tokens, Completions: [][]int32{ids[:min(len(ids), s.MaxCompletionTokens)]}}
	}
	if len(rows) == 0 {
		return s.Start, errors.New("sft: there is no example to learn from")
	}
	l, err := newLearner(s.Start, s.Full, s.Config.Optimizer)
	if err != nil {
		return s.Start, err
	}
	t := newTrainer(s.Backend, s.Model.Config, l, nllObjective(), trainSpec{
		Optimizer: s.Config.Optimizer, Steps: s.Config.Steps, Batch: s.Config.BatchSize, Micro: s.Config.Micro(), Checkpoints: s.Checkpointing, Mesh: s.Mesh,
	})
	defer t.finalize()
	defer l.finalize()
	var order []int
	for step, epoch := 0, -1; step < s.Config.Steps; step++ {
		if err := ctx.Err(); err != nil {
			return s.Start, err
		}
		batch := make([]example, s.Config.BatchSize)
		tokens := 0
		for i := range batch {
			g := step*s.Config.BatchSize + i
			if g/len(rows) != epoch {
				epoch = g / len(rows)
				order = data.Order(len(rows), s.Seed, epoch)
			}
			at := order[g%len(rows)]
			batch[i] = example{id: s.Prompts[at].ID, row: rows[at]}
			tokens += len(rows[at].Completions[0])
		}
		for i := range batch {
			batch[i].weight = 1 / float64(tokens)
		}
		res, err := t.step(l, batch, step, mix(s.Seed^mix(uint64(step))))
		if err != nil {
			return s.Start, fmt.Errorf("sft step %d: %w", step+1, err)
		}
		if s.Log != nil {
			if err := s.Log(step+1, Metrics{"loss": res.loss, "grad_norm": res.gradNorm, "learning_rate": res.rate}); err != nil {
				return s.Start, err
			}
		}
		if s.Progress != nil {
			s.Progress("sft", step+1, s.Config.Steps)
		}
	}
	return l.policy(s.Backend, "sft")
}
