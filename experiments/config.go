package experiments

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
	"gobpo/experiments/tasks"
	"gobpo/models"
	"gobpo/models/backend"
)

// Config is one experiment file: everything a trial needs, and the sweep that makes many trials of it. Keys in
// the file are the mapstructure tags; bpo.Config's keys stand at the top level.
type Config struct {
	Study   string `mapstructure:"study" yaml:"study"`     // names the directory runs/<study>
	Backend string `mapstructure:"backend" yaml:"backend"` // as --backend
	// MemoryLimit refuses a trial that is estimated to need more: "auto" (what the machine has free), "none", or a size.
	MemoryLimit string `mapstructure:"memory_limit" yaml:"memory_limit"`

	Model    ModelConfig    `mapstructure:"model" yaml:"model"`
	Task     TaskConfig     `mapstructure:"task" yaml:"task"`
	Prompts  PromptsConfig  `mapstructure:"prompts" yaml:"prompts"`
	Pretrain PretrainConfig `mapstructure:"pretrain" yaml:"pretrain"`
	// SFT trains what the learners start from, adapters or full models, learner i with bpo.MemberSeed(seed, i). With 0 steps every
	// learner starts at the base model.
	SFT bpo.SFTConfig `mapstructure:"sft" yaml:"sft"`

	bpo.Config `mapstructure:",squash" yaml:",inline"`

	Annotator annotate.Config `mapstructure:"annotator" yaml:"annotator"`
	Eval      EvalConfig      `mapstructure:"eval" yaml:"eval"`
	Track     TrackConfig     `mapstructure:"track" yaml:"track,omitempty"`
	Sweep     SweepConfig     `mapstructure:"sweep" yaml:"sweep,omitempty"`
}

// ModelConfig says where the base model comes from: weights at a path, or a new one trained here.
type ModelConfig struct {
	Path    string        `mapstructure:"path" yaml:"path"`   // GGUF file, Hugging Face directory, or "smollm2"; "" = scratch
	DType   string        `mapstructure:"dtype" yaml:"dtype"` // float32 | bfloat16; trained weights have float32 masters
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

// TaskConfig names a procedural task: prompts, references and an exactly known reward, made by a seed. Its splits
// share no prompt: sft trains the scratch model and the starting adapters, train gives the preferences, dev the
// curves and test the result.
type TaskConfig struct {
	Name   string `mapstructure:"name" yaml:"name"`
	Seed   uint64 `mapstructure:"seed" yaml:"seed"`       // of the texts; not swept with seed, so that all trials see the same task
	SFTN   int    `mapstructure:"sft_n" yaml:"sft_n"`     // prompts with references to pretrain and fine-tune on
	TrainN int    `mapstructure:"train_n" yaml:"train_n"` // prompts to collect preferences on
}

// PromptsConfig names prompt files (Parquet, JSONL, JSONL.gz) where there is no task.
type PromptsConfig struct {
	Train   string       `mapstructure:"train" yaml:"train"`     // to collect preferences on
	SFT     string       `mapstructure:"sft" yaml:"sft"`         // to fine-tune the starting adapters on; "" = train
	Eval    string       `mapstructure:"eval" yaml:"eval"`       // for the curves, and for the result where there is no test
	Test    string       `mapstructure:"test" yaml:"test"`       // for the result, used once
	TrainN  int          `mapstructure:"train_n" yaml:"train_n"` // the first n rows only; 0 = all
	Select  SelectConfig `mapstructure:"select" yaml:"select,omitempty"`
	Leakage string       `mapstructure:"leakage" yaml:"leakage"` // prompts of eval and test that are also trained on: error | drop | allow
}

// PretrainConfig trains the scratch model, all weights, on the sft split. Its own seed keeps one base model for
// all seeds of a sweep, as there is one base where weights are loaded.
type PretrainConfig struct {
	bpo.SFTConfig `mapstructure:",squash" yaml:",inline"`
	Seed          uint64 `mapstructure:"seed" yaml:"seed"`
}

// EvalConfig says how policies are measured against the reference texts.
type EvalConfig struct {
	Every       int     `mapstructure:"every" yaml:"every"`             // steps between evaluations; 0 = only at the end
	N           int     `mapstructure:"n" yaml:"n"`                     // prompts; 0 = all
	Temperature float64 `mapstructure:"temperature" yaml:"temperature"` // 0 = greedy
	KLSamples   int     `mapstructure:"kl_samples" yaml:"kl_samples"`   // prompts for KL to the initial policy; 0 = none
	Bootstrap   int     `mapstructure:"bootstrap" yaml:"bootstrap"`     // resamples for the interval
	// Extrapolate are factors α to try at the end, see trial.extrapolate; none: the trained policy is the result.
	Extrapolate []float64       `mapstructure:"extrapolate" yaml:"extrapolate,omitempty"`
	Annotator   annotate.Config `mapstructure:"annotator" yaml:"annotator"` // "" = the training annotator, without its noise
}

// SweepConfig makes trials: the product of the grid's lists, times the paired settings.
type SweepConfig struct {
	Grid   map[string][]any `mapstructure:"grid" yaml:"grid,omitempty"`
	Paired []map[string]any `mapstructure:"paired" yaml:"paired,omitempty"`
}

// DefaultConfig is what a file leaves unsaid.
func DefaultConfig() Config {
	return Config{
		Study:   "study",
		Backend: "auto", MemoryLimit: "auto",
		Model:    ModelConfig{DType: "float32", Chat: "auto", Scratch: ScratchConfig{Hidden: 96, Layers: 3, Heads: 4, KVHeads: 2, Intermediate: 256}},
		Task:     TaskConfig{SFTN: 4000, TrainN: 2000},
		Prompts:  PromptsConfig{Leakage: "error"},
		Pretrain: PretrainConfig{SFTConfig: bpo.SFTConfig{Steps: 300, BatchSize: 32, Optimizer: optimizer(3e-3)}},
		SFT:      bpo.SFTConfig{BatchSize: 16, Optimizer: optimizer(1e-3)},
		Config:   bpo.DefaultConfig(),
		Eval:     EvalConfig{N: 200, KLSamples: 64, Bootstrap: 1000},
	}
}

func optimizer(lr float64) bpo.OptimizerConfig {
	o := bpo.DefaultOptimizer()
	o.LR = lr
	return o
}

// resolve fills in what depends on other keys.
func (c *Config) resolve() {
	if c.Annotator.Name == "" {
		c.Annotator.Name = "rouge_l"
		if c.Task.Name != "" {
			c.Annotator.Name = "gold"
		}
	}
	if reflect.DeepEqual(c.Eval.Annotator, annotate.Config{}) { // one that has options and no name is a mistake, see Validate
		c.Eval.Annotator = c.Annotator
		c.Eval.Annotator.Noise, c.Eval.Annotator.Temperature = 0, 0
	}
	if c.Model.Path != "" {
		c.Model.Scratch, c.Pretrain = ScratchConfig{}, PretrainConfig{}
	}
	if c.Task.Name == "" {
		c.Task = TaskConfig{}
	}
	if c.Train == "full" {
		c.LoRA = models.LoRA{}
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
	if err := backend.Check(c.Backend); err != nil {
		return err
	}
	bad := fmt.Errorf
	switch {
	case c.SFT.Steps > 0 && c.SFT.Micro()%c.Mesh.Devices() != 0:
		return bad("mesh: the %d examples of a gradient call (sft.micro_batch) cannot be split over %d devices", c.SFT.Micro(), c.Mesh.Devices())
	case c.Model.Path == "" && c.Pretrain.Micro()%c.Mesh.Devices() != 0:
		return bad("mesh: the %d examples of a gradient call (pretrain.micro_batch) cannot be split over %d devices", c.Pretrain.Micro(), c.Mesh.Devices())
	case c.Study == "" || strings.ContainsAny(c.Study, `/\`) || strings.HasPrefix(c.Study, "."):
		return bad("study: %q cannot name a directory", c.Study)
	case !slices.Contains([]string{"float32", "bfloat16"}, c.Model.DType):
		return bad("model.dtype: %q is not float32 or bfloat16", c.Model.DType)
	case !slices.Contains([]string{"auto", "none"}, c.Model.Chat):
		return bad("model.chat: %q is not auto or none", c.Model.Chat)
	case c.Task.Name != "" && c.Prompts.Train+c.Prompts.SFT+c.Prompts.Eval+c.Prompts.Test != "":
		return bad("task.name: a task makes its own prompts; leave out the files under prompts, or the task")
	case c.Task.Name != "" && (c.Task.TrainN < 1 || c.Task.SFTN < 1):
		return bad("task.train_n: %d prompts to collect on and %d for sft; both must be at least 1", c.Task.TrainN, c.Task.SFTN)
	case !slices.Contains([]string{"error", "drop", "allow"}, c.Prompts.Leakage):
		return bad("prompts.leakage: %q is not error, drop or allow", c.Prompts.Leakage)
	case c.Task.Name == "" && c.Prompts.Train == "" && !c.offline():
		return bad("prompts.train: no prompts; name a file, or a task in task.name")
	case c.Task.Name == "" && c.Prompts.Eval == "":
		return bad("prompts.eval: no file to evaluate on; name one, or a task in task.name")
	case c.Task.Name == "" && c.Model.Path == "":
		return bad("model.path: a model from scratch needs a task (task.name); name a GGUF file, a Hugging Face directory or smollm2")
	case c.Prompts.TrainN < 0:
		return bad("prompts.train_n: %d is negative", c.Prompts.TrainN)
	case c.Prompts.Train != "" && (c.Prompts.Train == c.Prompts.Eval || c.Prompts.Train == c.Prompts.Test) && c.Prompts.Leakage == "error":
		return bad("prompts.eval: the same file as prompts.train; evaluate on held-out prompts, or set prompts.leakage: allow")
	case c.Train == "full" && c.Learners > 1 && c.SFT.Steps == 0:
		return bad("learners: %d full learners that start at one model and see the same pairs stay equal; set sft.steps, or train: lora", c.Learners)
	case c.Eval.Every < 0 || c.Eval.N < 0 || c.Eval.KLSamples < 0 || c.Eval.Bootstrap < 0:
		return bad("eval: every, n, kl_samples and bootstrap cannot be negative")
	case c.Start != "" && c.SFT.Steps > 0:
		return bad("start: %s starts the learners, so that sft.steps %d have nothing to begin with; leave one out", c.Start, c.SFT.Steps)
	case c.Loss.SoftLabels > 0 && c.Annotator.Noise > 0:
		return bad("loss.soft_labels: %g weighs pairs by their scores, which annotator.noise %g leaves as they are; leave one out", c.Loss.SoftLabels, c.Annotator.Noise)
	case c.Loss.SoftLabels > 0 && c.Annotator.Temperature > 0:
		return bad("loss.soft_labels: %g weighs pairs by their scores, which annotator.temperature %g leaves as they are; leave one out", c.Loss.SoftLabels, c.Annotator.Temperature)
	case slices.ContainsFunc(c.Eval.Extrapolate, func(a float64) bool { return !(a > 0) || a > 100 }):
		return bad("eval.extrapolate: %v, every factor must be positive (0 is always tried)", c.Eval.Extrapolate)
	case len(c.Eval.Extrapolate) > 0 && c.Task.Name == "" && c.Prompts.Test == "":
		return bad("eval.extrapolate: the factor is chosen on prompts.eval, so the result needs other prompts; name prompts.test")
	case c.Eval.Temperature < 0:
		return bad("eval.temperature: %g is negative; 0 is greedy", c.Eval.Temperature)
	}
	for _, s := range c.sources() {
		if err := s.validate(); err != nil {
			return err
		}
	}
	if c.MemoryLimit != "auto" && c.MemoryLimit != "none" {
		if _, err := parseSize(c.MemoryLimit); err != nil {
			return err
		}
	}
	for _, err := range []error{c.Track.validate(), c.validateScratch(), c.Pretrain.Validate("pretrain"), c.SFT.Validate("sft"), c.validateTask(), c.Prompts.Select.validate()} {
		if err != nil {
			return err
		}
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
	}
	return nil
}

func (c *Config) validateTask() error {
	if c.Task.Name == "" {
		return nil
	}
	if _, err := tasks.Get(c.Task.Name); err != nil {
		return fmt.Errorf("task.name: %w", err)
	}
	return nil
}

func (c *Config) offline() bool { return c.OfflinePath() != "" }

// YAML is the resolved configuration as a file that loads to the same configuration; keys are in the struct's
// order, so equal configurations have equal bytes.
func (c Config) YAML() ([]byte, error) { return encodeYAML(c) }

func encodeYAML(v any) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return out.Bytes(), e.Close()
}

// Hash names a trial: 12 hex digits of a SHA-256 over every key that can change its result. Left out are the
// study's name, the sweep block, the memory limit, the trackers and how often checkpoints are written. Two spellings of one
// computation have one hash: F and the K it amounts to; at F=1, where the behavior is the start policy all the way, the words
// sft, learner and behavior; references for a loss that asks none; and what nobody reads where pairs are given, or made by
// self-play.
func (c Config) Hash() (string, error) {
	c.Study, c.MemoryLimit, c.Sweep, c.Track, c.CheckpointEvery = "", "", SweepConfig{}, TrackConfig{}, 0
	if c.Mesh.Devices() == 1 {
		c.Mesh = models.Mesh{}
	}
	if c.Loss.ReferenceFree() {
		if c.Reference = "behavior"; c.offline() {
			c.Reference = "sft"
		}
	}
	if c.Loss.Weighting == "wpo" { // since it has its alignment
		c.Loss.Weighting = "wpo, aligned"
	}
	if c.offline() || c.Data == "self_play" {
		c.Annotator = c.Eval.Annotator
	}
	if c.offline() {
		batch := c.Sample.Batch // of the evaluation too
		c.Sample, c.Ties = bpo.DefaultConfig().Sample, bpo.DefaultConfig().Ties
		c.Sample.Batch = batch
	}
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
