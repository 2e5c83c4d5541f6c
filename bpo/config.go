package bpo

import (
	"fmt"
	"math"
	"strings"

	"gobpo/models"
)

// Config is the method's part of an experiment. Its keys sit at the top level of the experiment file.
type Config struct {
	Seed uint64 `mapstructure:"seed" yaml:"seed"`

	// Start is what every learner begins as instead of the sft policy: "checkpoint:<path>", a policy file, a run, or a study,
	// its run of the same seed; what an earlier stage ended as.
	Start string `mapstructure:"start" yaml:"start,omitempty"`
	// Behavior says who samples: "learner" (the merged learners, refreshed), "sft" (the start policy, always), or "ema", which
	// every refresh moves by EMAAlpha from what it was to the merged learners.
	Behavior string `mapstructure:"behavior" yaml:"behavior"`
	// Refresh is F, the number of data-collection phases, in 1..T. F=1 is offline, F=T is fully on-policy.
	Refresh int `mapstructure:"refresh" yaml:"refresh"`
	// RefreshEvery is K, the steps of a phase. Given instead of Refresh; 0 derives K = ⌈T/F⌉.
	RefreshEvery int `mapstructure:"refresh_every" yaml:"refresh_every"`
	// Reference is whom the loss stays close to: "behavior", "sft", "ema" or "checkpoint:<path>".
	Reference string `mapstructure:"reference" yaml:"reference"`
	// EMAAlpha and EMAEvery move an "ema" reference every EMAEvery steps to (1−α)·reference + α·policy
	// (TR-DPO, arXiv 2404.09656; α=1 is its hard update).
	EMAAlpha float64 `mapstructure:"ema_alpha" yaml:"ema_alpha"`
	EMAEvery int     `mapstructure:"ema_every" yaml:"ema_every"`
	// Data says where pairs come from: "behavior" (sampled and annotated), "offline:<file>" (or offline:<run>, what that run
	// collected), or "self_play": the reference
	// text against itself with a segment of SelfPlay.Segment tokens written anew by the behavior LLM, with no annotator (SAPO,
	// arXiv 2405.20830 §3.1).
	Data     string   `mapstructure:"data" yaml:"data"`
	SelfPlay SelfPlay `mapstructure:"self_play" yaml:"self_play,omitempty"`
	// Mix puts given pairs among those collected.
	Mix Mix `mapstructure:"mix" yaml:"mix,omitempty"`
	// Select keeps a share of given pairs (data, mix).
	Select Select `mapstructure:"select" yaml:"select,omitempty"`
	// Replay R > 0 draws the pairs of a step from those collected for the last R steps, its own included: a queue from which
	// the oldest go first. 0 trains on each pair in its own step.
	Replay int `mapstructure:"replay" yaml:"replay,omitempty"`

	// Train says what is trained: "lora", adapters on a frozen base, or "full", every weight.
	Train string `mapstructure:"train" yaml:"train"`
	// Mesh spreads training, scoring and sampling over devices.
	Mesh models.Mesh `mapstructure:"mesh" yaml:"mesh,omitempty"`
	// GradientCheckpointing keeps only the layers' inputs for the backward pass and computes the rest again.
	GradientCheckpointing bool `mapstructure:"gradient_checkpointing" yaml:"gradient_checkpointing"`
	// Learners is n, the size of the ensemble; Merge the way it becomes one policy ("mean_delta", "peft_linear").
	Learners int         `mapstructure:"learners" yaml:"learners"`
	Merge    string      `mapstructure:"merge" yaml:"merge"`
	LoRA     models.LoRA `mapstructure:"lora" yaml:"lora"`

	// Steps is T, the optimizer steps of the run; BatchSize the prompts (and so annotations) of a step;
	// MicroBatch the pairs of one gradient call (0 = BatchSize). Accumulation equals the large batch.
	Steps      int `mapstructure:"steps" yaml:"steps"`
	BatchSize  int `mapstructure:"batch_size" yaml:"batch_size"`
	MicroBatch int `mapstructure:"micro_batch" yaml:"micro_batch"`

	Loss      LossConfig      `mapstructure:"loss" yaml:"loss"`
	Optimizer OptimizerConfig `mapstructure:"optimizer" yaml:"optimizer"`
	Sample    SampleConfig    `mapstructure:"sample" yaml:"sample"`

	// Prompts keep their last MaxPromptTokens tokens, completions their first MaxCompletionTokens.
	MaxPromptTokens     int `mapstructure:"max_prompt_tokens" yaml:"max_prompt_tokens"`
	MaxCompletionTokens int `mapstructure:"max_completion_tokens" yaml:"max_completion_tokens"`

	// Ties says what becomes of two different completions with equal scores: "drop" or "random".
	Ties string `mapstructure:"ties" yaml:"ties"`
	// CheckpointEvery saves every so many steps, besides every phase start and the end (0 = only those).
	CheckpointEvery int `mapstructure:"checkpoint_every" yaml:"checkpoint_every"`
}

// LossConfig chooses a registered loss and its parameters.
type LossConfig struct {
	Name string `mapstructure:"name" yaml:"name"`
	// Beta is the proximity coefficient β > 0: larger stays closer to the reference.
	Beta float64 `mapstructure:"beta" yaml:"beta"`
	// Schedule moves β during the run.
	Schedule BetaSchedule `mapstructure:"schedule" yaml:"schedule,omitempty"`
	// LabelSmoothing is the assumed share of flipped labels, in [0, 0.5).
	LabelSmoothing float64 `mapstructure:"label_smoothing" yaml:"label_smoothing"`
	// SoftLabels τ > 0 takes a pair with probability p = σ((score_w − score_l)/τ) as it is labelled and with 1−p the other way
	// round: p·L(h) + (1−p)·L(−h), cDPO with a label smoothing of each pair's own. 0: the label counts alone.
	SoftLabels float64 `mapstructure:"soft_labels" yaml:"soft_labels,omitempty"`
	// Length is how token log-probs become sequence log-probs: "sum", "mean", or "default" (the loss's own).
	Length string `mapstructure:"length" yaml:"length"`
	// Weighting "wpo" weighs each pair by w(y_w)·w(y_l), w(y) the geometric mean over tokens of π_θ(y_t) / Σ_v π_θ(v)², which takes
	// no gradient: WPO with sampled alignment (arXiv 2406.11827 eq. 2).
	Weighting string `mapstructure:"weighting" yaml:"weighting,omitempty"`
	// NLL adds so many times the chosen completion's negative log-prob per token (RPO, arXiv 2404.19733 eq. 1).
	NLL float64 `mapstructure:"nll" yaml:"nll,omitempty"`
	// Params are further named parameters of the loss, such as SimPO's gamma.
	Params map[string]float64 `mapstructure:"params" yaml:"params,omitempty"`
}

// SampleConfig is how the behavior LLM samples.
type SampleConfig struct {
	N           int     `mapstructure:"n" yaml:"n"` // completions a prompt, ≥ 2
	Temperature float64 `mapstructure:"temperature" yaml:"temperature"`
	TopK        int     `mapstructure:"top_k" yaml:"top_k"`
	TopP        float64 `mapstructure:"top_p" yaml:"top_p"`
	Batch       int     `mapstructure:"batch" yaml:"batch"` // prompts a sampler call
	// Pick chooses two of the n completions before they are annotated: "random", or "embedding_distance", the two whose mean
	// final states under the base model are farthest apart. Empty: all n are annotated, and best and worst make the pair.
	Pick string `mapstructure:"pick" yaml:"pick,omitempty"`
}

// SelfPlay says how a text is varied.
type SelfPlay struct {
	Segment int `mapstructure:"segment" yaml:"segment,omitempty"` // tokens written anew
}

// Mix says how many of a step's pairs are given ones; the others are sampled and annotated.
type Mix struct {
	Pairs string  `mapstructure:"pairs" yaml:"pairs,omitempty"` // as data's offline:
	Share float64 `mapstructure:"share" yaml:"share,omitempty"` // in (0, 1), of the batch
}

// Select orders given pairs and keeps the first share of them.
type Select struct {
	// By is "reward_gap" (chosen_score − rejected_score), "embedding_distance" (of the two completions' mean final states under
	// the base model; the close pairs are metric learning's hard ones), "density" (a draw with chances of one over the density of
	// pairs around, in the mean of those states), "ask_llm" (the base model's log odds that the pair is good to learn from) or
	// "random".
	By   string  `mapstructure:"by" yaml:"by,omitempty"`
	Keep float64 `mapstructure:"keep" yaml:"keep,omitempty"` // in (0, 1]
	Low  bool    `mapstructure:"low" yaml:"low,omitempty"`   // the smallest first, not the largest: the difficult pairs
}

// DefaultConfig is BPO with F=2 on the paper's settings, scaled to a small machine.
func DefaultConfig() Config {
	return Config{
		Behavior: "learner", Refresh: 2, Reference: "behavior", Data: "behavior",
		EMAAlpha: 0.005, EMAEvery: 1,
		Train: "lora", Learners: 1, Merge: "mean_delta", Mesh: models.Mesh{Data: 1, Model: 1},
		LoRA:  models.LoRA{Rank: 16, Alpha: 32, Targets: []string{"all-linear"}},
		Steps: 100, BatchSize: 16,
		Loss:            LossConfig{Name: "dpo", Beta: 0.1, Length: "default"},
		Optimizer:       DefaultOptimizer(),
		Sample:          SampleConfig{N: 2, Temperature: 1, TopP: 1, Batch: 16},
		MaxPromptTokens: 64, MaxCompletionTokens: 64,
		Ties: "drop",
	}
}

// K is the number of steps of a data-collection phase: RefreshEvery, or ⌈T/F⌉.
func (c *Config) K() int {
	if c.RefreshEvery > 0 {
		return c.RefreshEvery
	}
	if c.Refresh < 1 {
		return max(c.Steps, 1)
	}
	return (c.Steps + c.Refresh - 1) / c.Refresh
}

// Phases is the number of data-collection phases that really happen: ⌈T/K⌉, at most F.
func (c *Config) Phases() int { return (c.Steps + c.K() - 1) / c.K() }

func (c *Config) full() bool { return c.Train == "full" }

// Micro is the number of pairs of one gradient call.
func (c *Config) Micro() int {
	if c.MicroBatch > 0 {
		return c.MicroBatch
	}
	return c.BatchSize
}

// OfflinePath is the Parquet file of an offline run, "" when pairs are sampled.
func (c *Config) OfflinePath() string {
	path, _ := strings.CutPrefix(c.Data, "offline:")
	if path == c.Data {
		return ""
	}
	return path
}

// given is the number of given pairs in the batch of a run that collects the others.
func (c *Config) given() int {
	if c.Mix.Pairs == "" {
		return 0
	}
	return int(math.Round(c.Mix.Share * float64(c.BatchSize)))
}

// Fresh is the number of prompts that a step spends.
func (c *Config) Fresh() int { return c.BatchSize - c.given() }

// becomesBehavior says whether the only learner is, at the first step of a phase, the behavior of all of the step's pairs.
func (c *Config) becomesBehavior() bool {
	return c.Behavior == "learner" && c.Learners == 1 && c.Replay <= 1
}

// StartPath is the checkpoint that learners start from, else "".
func (c *Config) StartPath() string {
	path, _ := strings.CutPrefix(c.Start, "checkpoint:")
	return path
}

// selfPlay is whether pairs come of no annotator.
func (c *Config) selfPlay() bool { return c.Data == "self_play" }

// ReferencePath is the checkpoint of a "checkpoint:<path>" reference, else "".
func (c *Config) ReferencePath() string {
	path, ok := strings.CutPrefix(c.Reference, "checkpoint:")
	if !ok {
		return ""
	}
	return path
}

// Method names the point of the grid that the three words pick, as the literature calls it.
func (c *Config) Method() string {
	loss := strings.ToUpper(c.Loss.Name)
	onPolicy := c.Behavior == "learner" && c.K() == 1
	free := c.Loss.ReferenceFree()
	moving := c.Behavior != "sft" && c.Phases() > 1
	switch {
	case c.selfPlay():
		return "self-play " + loss + " (SAPO)"
	case free && c.OfflinePath() != "":
		return "offline " + loss + " on given pairs"
	case free && !moving:
		return "offline " + loss
	case free && onPolicy:
		return "online " + loss + ", F=T"
	case free:
		return fmt.Sprintf("online %s, F=%d", loss, c.Phases())
	case c.ReferencePath() != "":
		return "golden-reference " + loss
	case c.Reference == "ema":
		return "TR-DPO (EMA reference, " + loss + ")"
	case c.OfflinePath() != "" && c.Reference == "behavior" && moving:
		return "TR-DPO (hard reference updates, " + loss + ")"
	case c.OfflinePath() != "":
		return "offline " + loss + " on given pairs"
	case !moving:
		return "offline " + loss
	case c.Reference == "behavior":
		return fmt.Sprintf("BPO (%s), F=%d", loss, c.Phases())
	case onPolicy:
		return "online " + loss + " (OAIF), F=T"
	default:
		return fmt.Sprintf("online %s with a static reference, F=%d", loss, c.Phases())
	}
}

// Validate reports the first impossible setting as "key: what is wrong".
func (c *Config) Validate() error {
	check := func(ok bool, key, format string, args ...any) error {
		if ok {
			return nil
		}
		return fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...))
	}
	oneOf := func(key, got string, want ...string) error {
		for _, w := range want {
			if got == w {
				return nil
			}
		}
		return fmt.Errorf("%s: %q is not one of %s", key, got, strings.Join(want, ", "))
	}
	loraErr := func() error {
		if err := c.LoRA.Validate(); err != nil && !c.full() {
			return fmt.Errorf("lora.%w", err)
		}
		return nil
	}
	lossErr := func() error {
		loss, err := c.Loss.resolve()
		if err == nil && c.Loss.Schedule.Name == "adaptive" && (c.OfflinePath() != "" || c.Mix.Pairs != "" || c.selfPlay()) {
			err = fmt.Errorf("loss.schedule.name: adaptive follows the KL to the behavior, which pairs that are given, or made by self-play, do not tell")
		}
		if err == nil && c.Loss.Schedule.Name == "adaptive" && c.K() == 1 && c.becomesBehavior() {
			err = fmt.Errorf("loss.schedule.name: adaptive follows the KL to the behavior, which is 0 where it is the learner of every step (F = T)")
		}
		if err == nil && c.Loss.SoftLabels > 0 && c.selfPlay() {
			err = fmt.Errorf("loss.soft_labels: self_play compares, and has no scores")
		}
		if err == nil && loss.Coupled && c.Micro() < c.BatchSize {
			err = fmt.Errorf("micro_batch: the loss %s compares the pairs of a step with each other and needs them in one call; set 0 instead of %d", loss.Name, c.MicroBatch)
		}
		return err
	}
	if c.BatchSize < 1 { // others are measured by it
		return fmt.Errorf("batch_size: must be at least 1, got %d", c.BatchSize)
	}
	var reference, dataErr error
	if c.ReferencePath() == "" {
		reference = oneOf("reference", c.Reference, "sft", "behavior", "ema", "checkpoint:<path>")
	}
	if c.OfflinePath() == "" {
		dataErr = oneOf("data", c.Data, "behavior", "self_play", "offline:<file>")
	}
	for _, err := range []error{
		oneOf("behavior", c.Behavior, "sft", "learner", "ema"),
		check(c.Start == "" || c.StartPath() != "" && c.StartPath() != c.Start, "start", "%q is not checkpoint:<path>, or empty", c.Start),
		check(c.Start == "" || c.Learners == 1, "start", "%d learners that start at one checkpoint and see the same pairs stay equal", c.Learners),
		check(c.selfPlay() == (c.SelfPlay.Segment > 0), "self_play.segment", "%d tokens; must be positive with data: self_play, and absent otherwise", c.SelfPlay.Segment),
		check(c.SelfPlay.Segment <= max(c.MaxCompletionTokens, 0), "self_play.segment", "%d tokens are more than max_completion_tokens %d", c.SelfPlay.Segment, c.MaxCompletionTokens),
		check(c.Mix.Pairs == "" && c.Mix.Share == 0 || c.Mix.Pairs != "" && c.given() > 0 && c.Fresh() > 0, "mix.share", "%g of %d pairs a step from mix.pairs; both kinds must be there", c.Mix.Share, c.BatchSize),
		check(c.Mix.Pairs == "" || c.OfflinePath() == "", "mix.pairs", "all pairs are given ones with data: %s", c.Data),
		check(c.Replay >= 0 && (c.Replay == 0 || c.OfflinePath() == ""), "replay", "%d steps; must not be negative, nor with given pairs", c.Replay),
		oneOf("select.by", c.Select.By, "", "reward_gap", "embedding_distance", "density", "ask_llm", "random"),
		check((c.Select.By == "") == (c.Select.Keep == 0) && c.Select.Keep >= 0 && c.Select.Keep <= 1, "select.keep", "%g, must be in (0, 1] with select.by, and absent otherwise", c.Select.Keep),
		check(c.Select.By == "" || c.OfflinePath() != "" || c.Mix.Pairs != "", "select.by", "there are no given pairs to select from (data: offline:<file>, or mix.pairs)"),
		check(!c.Select.Low || c.Select.By == "reward_gap" || c.Select.By == "embedding_distance", "select.low", "goes with select.by: reward_gap or embedding_distance"),
		oneOf("sample.pick", c.Sample.Pick, "", "random", "embedding_distance"),
		check(c.Sample.Pick == "" || c.Sample.N > 2, "sample.pick", "there is nothing to pick two of; sample.n is %d", c.Sample.N),
		check(c.Sample.Pick == "" || c.Data == "behavior", "sample.pick", "goes with data: behavior, nothing is picked from %s", c.Data),
		reference, dataErr,
		oneOf("train", c.Train, "lora", "full"),
		oneOf("merge", c.Merge, "mean_delta", "peft_linear"),
		check(!c.full() || c.Merge == "mean_delta", "merge", "%s merges adapters; full models have mean_delta, the mean of their weights", c.Merge),
		oneOf("ties", c.Ties, "drop", "random"),
		check(c.Steps >= 1, "steps", "T must be at least 1, got %d", c.Steps),
		check(c.MicroBatch >= 0 && c.BatchSize%c.Micro() == 0, "micro_batch", "%d does not divide batch_size %d", c.MicroBatch, c.BatchSize),
		check(c.Mesh.Data >= 0 && c.Mesh.Model >= 0, "mesh", "data and model must be at least 1, got %d and %d", c.Mesh.Data, c.Mesh.Model),
		check(c.Micro()%c.Mesh.Devices() == 0, "mesh", "the %d pairs of a gradient call (micro_batch) cannot be split over %d devices", c.Micro(), c.Mesh.Devices()),
		check(c.Refresh >= 0, "refresh", "F must be in 1..T, got %d", c.Refresh),
		check(c.Refresh > 0 || c.RefreshEvery > 0, "refresh", "give F (refresh) or K (refresh_every)"),
		check(c.Refresh == 0 || c.RefreshEvery == 0, "refresh_every", "K=%d and refresh F=%d are both given; set refresh: 0 to use K", c.RefreshEvery, c.Refresh),
		check(c.Refresh <= c.Steps, "refresh", "F=%d phases do not fit into T=%d steps", c.Refresh, c.Steps),
		check(c.RefreshEvery >= 0 && c.RefreshEvery <= c.Steps, "refresh_every", "K must be in 1..T=%d, got %d", c.Steps, c.RefreshEvery),
		check(c.EMAAlpha > 0 && c.EMAAlpha <= 1, "ema_alpha", "must be in (0, 1], got %g", c.EMAAlpha),
		check(c.EMAEvery >= 1, "ema_every", "must be at least 1, got %d", c.EMAEvery),
		check(c.Reference != "ema" || c.EMAEvery < max(c.Steps, 2), "ema_every", "%d: the reference would not move within T=%d steps", c.EMAEvery, c.Steps),
		check(c.Learners >= 1, "learners", "must be at least 1, got %d", c.Learners),
		loraErr(),
		lossErr(),
		c.Optimizer.validate("optimizer", c.Steps),
		check(c.Sample.N >= 2, "sample.n", "a pair needs at least 2 completions a prompt, got %d", c.Sample.N),
		check(c.Sample.Temperature > 0, "sample.temperature", "must be positive, got %g (greedy pairs are identical)", c.Sample.Temperature),
		check(c.Sample.TopK >= 0, "sample.top_k", "must not be negative, got %d", c.Sample.TopK),
		check(c.Sample.TopP > 0 && c.Sample.TopP <= 1, "sample.top_p", "must be in (0, 1], got %g", c.Sample.TopP),
		check(c.Sample.Batch >= 1, "sample.batch", "must be at least 1, got %d", c.Sample.Batch),
		check(c.MaxPromptTokens >= 1, "max_prompt_tokens", "must be at least 1, got %d", c.MaxPromptTokens),
		check(c.MaxCompletionTokens >= 1, "max_completion_tokens", "must be at least 1, got %d", c.MaxCompletionTokens),
		check(c.CheckpointEvery >= 0, "checkpoint_every", "must not be negative, got %d", c.CheckpointEvery),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
