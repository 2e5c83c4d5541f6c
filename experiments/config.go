package experiments

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
)

// Config is one experiment file: everything a trial needs, and the sweep that makes many trials of it. Keys in
// the file are the mapstructure tags; bpo.Config's keys stand at the top level.
type Config struct {
	Study   string `mapstructure:"study" yaml:"study"`     // names the directory runs/<study>
	Backend string `mapstructure:"backend" yaml:"backend"` // as --backend

	Model    ModelConfig    `mapstructure:"model" yaml:"model"`
	Task     TaskConfig     `mapstructure:"task" yaml:"task"`
	Prompts  PromptsConfig  `mapstructure:"prompts" yaml:"prompts"`
	Pretrain PretrainConfig `mapstructure:"pretrain" yaml:"pretrain"`
	SFT      SFTConfig      `mapstructure:"sft" yaml:"sft"`

	bpo.Config `mapstructure:",squash" yaml:",inline"`

	Annotator annotate.Config `mapstructure:"annotator" yaml:"annotator"`
	Eval      EvalConfig      `mapstructure:"eval" yaml:"eval"`
	Sweep     SweepConfig     `mapstructure:"sweep" yaml:"sweep,omitempty"`
}

// ModelConfig says where the base model comes from: weights at a path, or a new one trained here.
type ModelConfig struct {
	Path    string        `mapstructure:"path" yaml:"path"`   // GGUF file, Hugging Face directory, or "smollm2"; "" = scratch
	DType   string        `mapstructure:"dtype" yaml:"dtype"` // of the frozen base: float32 | bfloat16
	Chat    string        `mapstructure:"chat" yaml:"chat"`   // auto: the model's chat template around prompts, where it has one | none
	Scratch ScratchConfig `mapstructure:"scratch" yaml:"scratch"`
}

// ScratchConfig is the shape of a new Llama-family model; its vocabulary is made for the task's words.
type ScratchConfig struct {
	Hidden       int `mapstructure:"hidden" yaml:"hidden"`
	Layers       int `mapstructure:"layers" yaml:"layers"`
	Heads        int `mapstructure:"heads" yaml:"heads"`
	KVHeads      int `mapstructure:"kv_heads" yaml:"kv_heads"`
	Intermediate int `mapstructure:"intermediate" yaml:"intermediate"`
}

// TaskConfig names a procedural task: prompts, references and an exactly known reward, made by a seed.
type TaskConfig struct {
	Name   string `mapstructure:"name" yaml:"name"`
	Seed   uint64 `mapstructure:"seed" yaml:"seed"`       // of the texts; not swept with seed, so that all trials see the same task
	TrainN int    `mapstructure:"train_n" yaml:"train_n"` // prompts to train on
}

// PromptsConfig names prompt files (Parquet, JSONL, JSONL.gz) where there is no task.
type PromptsConfig struct {
	Train        string `mapstructure:"train" yaml:"train"`
	Eval         string `mapstructure:"eval" yaml:"eval"`
	TrainN       int    `mapstructure:"train_n" yaml:"train_n"` // the first n rows only; 0 = all
	AllowLeakage bool   `mapstructure:"allow_leakage" yaml:"allow_leakage"`
}

// PretrainConfig trains the scratch model on prompt + reference text. Its own seed keeps one base model for
// all seeds of a sweep, as there is one base where weights are loaded.
type PretrainConfig struct {
	Steps     int     `mapstructure:"steps" yaml:"steps"`
	BatchSize int     `mapstructure:"batch_size" yaml:"batch_size"`
	LR        float64 `mapstructure:"lr" yaml:"lr"`
	Seed      uint64  `mapstructure:"seed" yaml:"seed"`
}

// SFTConfig trains the starting adapters on the completions only, learner i with seed seed+i. With 0 steps
// every learner starts at the base model.
type SFTConfig struct {
	Steps     int     `mapstructure:"steps" yaml:"steps"`
	BatchSize int     `mapstructure:"batch_size" yaml:"batch_size"`
	LR        float64 `mapstructure:"lr" yaml:"lr"`
}

// EvalConfig says how policies are measured against the reference texts.
type EvalConfig struct {
	Every       int             `mapstructure:"every" yaml:"every"`             // steps between evaluations; 0 = only at the end
	N           int             `mapstructure:"n" yaml:"n"`                     // prompts; 0 = all
	Temperature float64         `mapstructure:"temperature" yaml:"temperature"` // 0 = greedy
	KLSamples   int             `mapstructure:"kl_samples" yaml:"kl_samples"`   // prompts for KL to the initial policy; 0 = none
	Bootstrap   int             `mapstructure:"bootstrap" yaml:"bootstrap"`     // resamples for the interval
	Annotator   annotate.Config `mapstructure:"annotator" yaml:"annotator"`     // "" = the training annotator, without its noise
}

// SweepConfig makes trials: the product of the grid's lists, times the paired settings.
type SweepConfig struct {
	Grid   map[string][]any `mapstructure:"grid" yaml:"grid,omitempty"`
	Paired []map[string]any `mapstructure:"paired" yaml:"paired,omitempty"`
}

// DefaultConfig is what a file leaves unsaid.
func DefaultConfig() Config {
	return Config{
		Study:    "study",
		Backend:  "auto",
		Model:    ModelConfig{DType: "float32", Chat: "auto", Scratch: ScratchConfig{Hidden: 96, Layers: 3, Heads: 4, KVHeads: 2, Intermediate: 256}},
		Task:     TaskConfig{TrainN: 2000},
		Pretrain: PretrainConfig{Steps: 300, BatchSize: 32, LR: 3e-3},
		SFT:      SFTConfig{BatchSize: 16, LR: 1e-3},
		Config:   bpo.DefaultConfig(),
		Eval:     EvalConfig{N: 200, KLSamples: 64, Bootstrap: 1000},
	}
}

// resolve fills in what depends on other keys.
func (c *Config) resolve() {
	if c.Annotator.Name == "" {
		c.Annotator.Name = "rouge_l"
		if c.Task.Name != "" {
			c.Annotator.Name = "gold"
		}
	}
	if c.Eval.Annotator.Name == "" {
		c.Eval.Annotator = c.Annotator
		c.Eval.Annotator.Noise, c.Eval.Annotator.Temperature = 0, 0
	}
	if c.Model.Path != "" {
		c.Model.Scratch, c.Pretrain = ScratchConfig{}, PretrainConfig{}
	}
	if c.Task.Name == "" {
		c.Task = TaskConfig{}
	}
	if c.MicroBatch == 0 {
		c.MicroBatch = c.BatchSize
	}
}

// Validate reports the first impossible value or combination as "key: message".
func (c *Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	bad := fmt.Errorf
	switch {
	case c.Study == "" || strings.ContainsAny(c.Study, `/\`) || strings.HasPrefix(c.Study, "."):
		return bad("study: %q cannot name a directory", c.Study)
	case !slices.Contains([]string{"float32", "bfloat16"}, c.Model.DType):
		return bad("model.dtype: %q is not float32 or bfloat16", c.Model.DType)
	case !slices.Contains([]string{"auto", "none"}, c.Model.Chat):
		return bad("model.chat: %q is not auto or none", c.Model.Chat)
	case c.Task.Name != "" && (c.Prompts.Train != "" || c.Prompts.Eval != ""):
		return bad("task.name: a task makes its own prompts; leave out prompts.train and prompts.eval, or the task")
	case c.Task.Name != "" && c.Task.TrainN < 1:
		return bad("task.train_n: %d prompts are nothing to train on", c.Task.TrainN)
	case c.Task.Name == "" && c.Prompts.Train == "" && !c.offline():
		return bad("prompts.train: no prompts; name a file, or a task in task.name")
	case c.Task.Name == "" && c.Prompts.Eval == "":
		return bad("prompts.eval: no file to evaluate on; name one, or a task in task.name")
	case c.Task.Name == "" && c.Model.Path == "":
		return bad("model.path: a model from scratch needs a task (task.name); name a GGUF file, a Hugging Face directory or smollm2")
	case c.Prompts.TrainN < 0:
		return bad("prompts.train_n: %d is negative", c.Prompts.TrainN)
	case c.Prompts.Train != "" && c.Prompts.Train == c.Prompts.Eval && !c.Prompts.AllowLeakage:
		return bad("prompts.eval: the same file as prompts.train; evaluate on held-out prompts, or set prompts.allow_leakage")
	case c.SFT.Steps < 0 || c.SFT.Steps > 0 && (c.SFT.BatchSize < 1 || c.SFT.LR <= 0):
		return bad("sft.steps: %d steps need a batch_size (%d) and an lr (%g) above 0", c.SFT.Steps, c.SFT.BatchSize, c.SFT.LR)
	case c.Eval.Every < 0 || c.Eval.N < 0 || c.Eval.KLSamples < 0 || c.Eval.Bootstrap < 0:
		return bad("eval: every, n, kl_samples and bootstrap cannot be negative")
	case c.Eval.Temperature < 0:
		return bad("eval.temperature: %g is negative; 0 is greedy", c.Eval.Temperature)
	}
	if err := c.validateScratch(); err != nil {
		return err
	}
	return c.validateAnnotators()
}

func (c *Config) validateScratch() error {
	if c.Model.Path != "" {
		return nil
	}
	s := c.Model.Scratch
	switch {
	case s.Hidden < 1 || s.Layers < 1 || s.Heads < 1 || s.KVHeads < 1 || s.Intermediate < 1:
		return fmt.Errorf("model.scratch: every size must be at least 1")
	case s.Hidden%(2*s.Heads) != 0:
		return fmt.Errorf("model.scratch.heads: %d heads of an even size do not divide hidden %d", s.Heads, s.Hidden)
	case s.Heads%s.KVHeads != 0:
		return fmt.Errorf("model.scratch.kv_heads: %d does not divide the %d heads", s.KVHeads, s.Heads)
	case c.Pretrain.Steps < 0 || c.Pretrain.Steps > 0 && (c.Pretrain.BatchSize < 1 || c.Pretrain.LR <= 0):
		return fmt.Errorf("pretrain.steps: %d steps need a batch_size (%d) and an lr (%g) above 0", c.Pretrain.Steps, c.Pretrain.BatchSize, c.Pretrain.LR)
	}
	return nil
}

func (c *Config) offline() bool { return strings.HasPrefix(c.Data, "offline:") }

// YAML is the resolved configuration as a file that loads to the same configuration; keys are in the struct's
// order, so equal configurations have equal bytes.
func (c Config) YAML() ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return out.Bytes(), e.Close()
}

// Hash names a trial: 12 hex digits of a SHA-256 over every key that can change its result. Left out are the
// study's name, the sweep block and how often checkpoints are written. Two spellings of one computation have
// one hash: F and the K it amounts to, and at F=1, where the behavior is the start policy all the way, the
// words sft, learner and behavior mean the same.
func (c Config) Hash() (string, error) {
	c.Study, c.Sweep, c.CheckpointEvery = "", SweepConfig{}, 0
	k := c.K()
	if c.Behavior == "sft" || c.Phases() == 1 || c.offline() && c.Reference != "behavior" {
		c.Behavior, k = "sft", c.Steps
		if c.Reference == "behavior" {
			c.Reference = "sft"
		}
	}
	c.Refresh, c.RefreshEvery = 0, k
	return hashOf(c)
}

func hashOf(v any) (string, error) {
	raw, err := yaml.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("hash the configuration: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:6]), nil
}
