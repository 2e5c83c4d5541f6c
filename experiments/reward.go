package experiments

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/gomlx/compute"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/experiments/stats"
	"gobpo/models"
)

// RewardConfig is a file for bpo reward train.
type RewardConfig struct {
	Seed    uint64 `mapstructure:"seed" yaml:"seed"`       // of the order of pairs, adapters and heads; member i has bpo.MemberSeed(seed, i)
	Backend string `mapstructure:"backend" yaml:"backend"` // as --backend
	Model   struct {
		Path  string `mapstructure:"path" yaml:"path"`   // GGUF file, Hugging Face directory (a reward model is trained on), or "smollm2"
		DType string `mapstructure:"dtype" yaml:"dtype"` // float32 | bfloat16; trained weights have float32 masters
		Chat  string `mapstructure:"chat" yaml:"chat"`   // auto: the model's chat template around the conversation | none
	} `mapstructure:"model" yaml:"model"`
	Pairs struct {
		Train   string  `mapstructure:"train" yaml:"train"`     // preferences: Parquet, or what bpo data import reads
		Eval    string  `mapstructure:"eval" yaml:"eval"`       // held out; "" = the last share of train
		Share   float64 `mapstructure:"share" yaml:"share"`     // of train that is held out where there is no eval, by prompt
		TrainN  int     `mapstructure:"train_n" yaml:"train_n"` // the first n pairs only; 0 = all
		EvalN   int     `mapstructure:"eval_n" yaml:"eval_n"`
		Leakage string  `mapstructure:"leakage" yaml:"leakage"` // prompts of eval that are also trained on: error | drop | allow
	} `mapstructure:"pairs" yaml:"pairs"`
	Train                 string                                  `mapstructure:"train" yaml:"train"`     // lora | full; the head is trained in any case
	Members               int                                     `mapstructure:"members" yaml:"members"` // of an ensemble
	LoRA                  models.LoRA                             `mapstructure:"lora" yaml:"lora"`
	MaxTokens             int                                     `mapstructure:"max_tokens" yaml:"max_tokens"` // of a text, prompt and completion; longer ones lose their start
	GradientCheckpointing bool                                    `mapstructure:"gradient_checkpointing" yaml:"gradient_checkpointing"`
	Mesh                  models.Mesh                             `mapstructure:"mesh" yaml:"mesh,omitempty"`
	bpo.SFTConfig         `mapstructure:",squash" yaml:",inline"` // steps: 0 = one pass over the pairs
	Loss                  bpo.RewardLoss                          `mapstructure:"loss" yaml:"loss"`
}

// DefaultRewardConfig is what a file leaves unsaid.
func DefaultRewardConfig() RewardConfig {
	c := RewardConfig{
		Backend: "auto", Train: "lora", Members: 1, MaxTokens: 512, Mesh: models.Mesh{Data: 1, Model: 1},
		LoRA:      models.LoRA{Rank: 16, Alpha: 32, Targets: []string{models.AllLinear}},
		SFTConfig: bpo.SFTConfig{BatchSize: 16, Optimizer: optimizer(1e-4), GroupByLength: true},
	}
	c.Model.DType, c.Model.Chat = "float32", "auto"
	c.Pairs.Share, c.Pairs.Leakage = 0.1, "error"
	return c
}

// heldOutSeed is not one that a user's bpo data import --split has: in a share that a split made, the same hash would hold out
// nothing, or all.
const heldOutSeed = 1<<64 - 1

var rewardSchema = listedSchema(reflect.TypeFor[RewardConfig](), "docs/reward.md")

// LoadReward reads a file for bpo reward train, with sets laid over it as Load does.
func LoadReward(path string, sets []string) (RewardConfig, error) {
	c := DefaultRewardConfig()
	f, err := loadFile(rewardSchema, path, sets, nil)
	if err != nil {
		return c, err
	}
	if err = decode(f.tree, &c, &c.LoRA); err == nil {
		if c.MicroBatch == 0 {
			c.MicroBatch = c.BatchSize
		}
		err = c.Validate()
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Validate reports the first impossible value as "key: message".
func (c *RewardConfig) Validate() error {
	bad := fmt.Errorf
	oneOf := func(key, value string, of ...string) error {
		if slices.Contains(of, value) {
			return nil
		}
		return bad("%s: %q is not one of %v", key, value, of)
	}
	var own error
	switch {
	case c.Model.Path == "":
		own = bad("model.path: no base model; name a GGUF file, a Hugging Face directory or smollm2")
	case c.Pairs.Train == "":
		own = bad("pairs.train: no pairs to learn from")
	case c.Pairs.Eval == "" && !(c.Pairs.Share > 0 && c.Pairs.Share < 1):
		own = bad("pairs.share: %g, must be in (0, 1) where pairs.eval names no file", c.Pairs.Share)
	case c.Pairs.TrainN < 0 || c.Pairs.EvalN < 0:
		own = bad("pairs.train_n: %d and pairs.eval_n %d cannot be negative", c.Pairs.TrainN, c.Pairs.EvalN)
	case c.Members < 1:
		own = bad("members: must be at least 1, got %d", c.Members)
	case c.MaxTokens < 2:
		own = bad("max_tokens: must be at least 2, got %d", c.MaxTokens)
	case c.Mesh.Data < 1 || c.Mesh.Model < 1 || c.Micro()%c.Mesh.Devices() != 0:
		own = bad("mesh: the %d pairs of a gradient call (micro_batch) cannot be split over %d devices", c.Micro(), c.Mesh.Devices())
	case c.Train == "lora":
		if own = c.LoRA.Validate(); own != nil {
			own = bad("lora.%w", own)
		}
	}
	loss := c.Loss.Validate()
	if loss != nil {
		loss = bad("loss.%w", loss)
	}
	steps := c.SFTConfig // 0 stands for a number that is not known yet, and is at least 1
	if steps.Steps == 0 {
		steps.Steps = math.MaxInt32
	}
	for _, err := range []error{
		oneOf("model.dtype", c.Model.DType, "float32", "bfloat16"), oneOf("model.chat", c.Model.Chat, "auto", "none"),
		oneOf("pairs.leakage", c.Pairs.Leakage, "error", "drop", "allow"), oneOf("train", c.Train, "lora", "full"),
		own, loss, validateSteps(steps),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// validateSteps checks the numbers of the optimisation, whose keys stand at the top of a reward file.
func validateSteps(c bpo.SFTConfig) error {
	if err := c.Validate(""); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "."))
	}
	return nil
}

const rewardConfigFile, rewardInputsFile, rewardResultFile = "reward.yaml", "inputs.json", "results.json"

// RewardResult says how a reward model judges pairs: rewards/accuracies with _low and _high (95 % bootstrap over pairs),
// rewards/margins, nll, ece, n, and longer, the accuracy of preferring the longer text. Where there are several members,
// the rewards are their means; Members are the accuracies of each.
type RewardResult struct {
	Metrics map[string]float64 `json:"metrics"`
	Bins    []stats.Bin        `json:"bins"` // of confidence
	Members []float64          `json:"members,omitempty"`
}

// pairsOf reads preferences and makes them rows.
func (c *RewardConfig) pairsOf() (train, eval []data.Preference, err error) {
	if train, err = data.LoadPreferences(c.Pairs.Train); err != nil {
		return nil, nil, fmt.Errorf("pairs.train: %w", err)
	}
	if c.Pairs.Eval != "" {
		if eval, err = data.LoadPreferences(c.Pairs.Eval); err != nil {
			return nil, nil, fmt.Errorf("pairs.eval: %w", err)
		}
	} else {
		split := data.Splits{{Name: "eval", Share: c.Pairs.Share}, {Name: "train", Share: 1 - c.Pairs.Share}}
		var kept []data.Preference
		for _, p := range train {
			if split.Of(p.Prompt, heldOutSeed) == "eval" { // the same pairs whatever the training's seed
				eval = append(eval, p)
			} else {
				kept = append(kept, p)
			}
		}
		train = kept
	}
	if n := c.Pairs.TrainN; n > 0 && n < len(train) {
		train = train[:n]
	}
	trained := map[string]bool{}
	for _, p := range train {
		trained[p.Prompt] = true
	}
	if leak := func(p data.Preference) bool { return trained[p.Prompt] }; c.Pairs.Leakage != "allow" && slices.ContainsFunc(eval, leak) {
		if c.Pairs.Leakage == "error" {
			at := slices.IndexFunc(eval, leak)
			return nil, nil, fmt.Errorf("pairs.eval: prompts are also trained on, such as %q; set pairs.leakage to drop or allow", clip(eval[at].Prompt, 60))
		}
		eval = slices.DeleteFunc(eval, leak)
	}
	if n := c.Pairs.EvalN; n > 0 && n < len(eval) {
		eval = eval[:n]
	}
	if len(train) == 0 || len(eval) == 0 {
		return nil, nil, fmt.Errorf("pairs.train: %d pairs to learn from and %d to measure on; both are needed", len(train), len(eval))
	}
	return train, eval, nil
}

// TrainReward trains the reward model of a configuration into dir, where it goes on if it was interrupted, and measures
// it on the held-out pairs. What dir holds then is read by transformers or peft, and by OpenReward; an ensemble has a
// directory for each member.
func (s *Session) TrainReward(ctx context.Context, c RewardConfig, dir string, ui UI) (RewardResult, error) {
	var r RewardResult
	train, eval, err := c.pairsOf()
	if err != nil {
		return r, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return r, err
	}
	defer lock.Close()
	if err := c.claim(dir); err != nil {
		return r, err
	}
	b, err := s.Backend(c.Backend)
	if err != nil {
		return r, err
	}
	base, err := s.Load(ctx, b, c.Model.Path, c.Model.DType)
	if err != nil {
		return r, err
	}
	if err := c.checkInputs(dir, train, eval, base.hash); err != nil {
		return r, err
	}
	m := *base.model
	m.Config.Reward = true
	if c.Train == "lora" {
		if err := c.LoRA.Check(m.Config); err != nil {
			return r, fmt.Errorf("lora.%w", err)
		}
	}
	c.MaxTokens = min(c.MaxTokens, m.Config.MaxPositions)
	pairs := make([]bpo.RewardPair, len(train))
	for i, p := range train {
		pairs[i].ID = p.ID
		if pairs[i].Row, err = rewardRow(&m, c.Model.Chat, p.Prompt, p.Messages, []string{p.Chosen, p.Rejected}, c.MaxTokens); err != nil {
			return r, fmt.Errorf("pairs.train: pair %d: %w", i+1, err)
		}
	}
	if c.Steps == 0 {
		c.Steps = (len(pairs) + c.BatchSize - 1) / c.BatchSize
	}
	if err := validateSteps(c.SFTConfig); err != nil {
		return r, err
	}
	for i, into := range c.memberDirs(dir) {
		if err := c.member(ctx, b, &m, pairs, i, into, ui); err != nil {
			return r, err
		}
	}
	model, err := s.OpenReward(ctx, dir, RewardOptions{Backend: c.Backend})
	if err != nil {
		return r, err
	}
	if r, err = model.Measure(ctx, eval, func(done, total int) { ui.Doing("measure", done, total) }); err != nil {
		return r, err
	}
	r.Metrics["n_train"] = float64(len(train))
	return r, writeJSON(filepath.Join(dir, rewardResultFile), r)
}

// claim makes the directory the configuration's, and refuses another's.
func (c *RewardConfig) claim(dir string) error {
	raw, err := encodeYAML(c)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, rewardConfigFile)
	was, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := unclaimed(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	case string(was) != string(raw):
		return fmt.Errorf("%s was trained with another configuration (%s); choose another directory, or delete it", dir, path)
	}
	return WriteFile(path, raw)
}

// unclaimed refuses a directory with a model or a run that was not trained there by a RewardConfig.
func unclaimed(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); slices.Contains([]string{"config.json", "adapter_config.json", "manifest.json"}, name) || strings.HasPrefix(name, memberPrefix) {
			return fmt.Errorf("%s holds %s and no %s: bpo reward train did not make it; choose another directory", dir, name, rewardConfigFile)
		}
	}
	return nil
}

// checkInputs notes in the directory what the model is made of, and refuses to go on, or to measure again, with other pairs
// or another base under the same names.
func (c *RewardConfig) checkInputs(dir string, train, eval []data.Preference, base string) error {
	path, was := filepath.Join(dir, rewardInputsFile), map[string]string{}
	if err := readJSON(path, &was); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now := map[string]string{"model.path": base}
	for key, pairs := range map[string][]data.Preference{"pairs.train": train, "pairs.eval": eval} {
		var err error
		if now[key], err = hashPairs(func(yield func(data.Preference, error) bool) {
			for _, p := range pairs {
				if !yield(p, nil) {
					return
				}
			}
		}); err != nil {
			return err
		}
	}
	for _, in := range []struct{ key, file string }{
		{"model.path", c.Model.Path}, {"pairs.train", c.Pairs.Train}, {"pairs.eval", cmp.Or(c.Pairs.Eval, c.Pairs.Train)},
	} {
		if was, known := was[in.key]; known && was != now[in.key] {
			return fmt.Errorf("%s: %s changed since the training in %s started (%s, was %s); choose another directory, or delete it", in.key, in.file, dir, now[in.key], was)
		}
	}
	return writeJSON(path, now)
}

// member trains one model into dir, unless it is there.
func (c *RewardConfig) member(ctx context.Context, b compute.Backend, m *models.Model, pairs []bpo.RewardPair, i int, dir string, ui UI) (err error) {
	fit := bpo.Fit{Dir: dir}
	if isTrained(dir) {
		return fit.RemoveCheckpoint()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	seed := bpo.MemberSeed(c.Seed, i)
	start := models.Policy{Name: "base", Base: m.Base}
	if c.Train == "full" {
		start.Base = m.RewardBase(seed)
	} else if start.Adapter, err = m.RewardAdapter(c.LoRA, seed); err != nil {
		return err
	}
	log, err := OpenMetrics(filepath.Join(dir, "metrics.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	what := "reward"
	if c.Members > 1 {
		what = fmt.Sprintf("reward, member %d of %d", i+1, c.Members)
	}
	fit = bpo.Fit{
		Config: c.SFTConfig, Backend: b, Model: m, Start: start, Full: c.Train == "full", Checkpointing: c.GradientCheckpointing, Mesh: c.Mesh,
		Seed: seed, Dir: dir, Begin: log.Rewind,
		Log: func(step int, v bpo.Metrics) error {
			ui.Step(step, v)
			return log.Append(step, v)
		},
		Progress: func(_ string, step, of int) { ui.Doing(what, step, of) },
	}
	p, err := bpo.TrainReward(ctx, fit, c.Loss, pairs)
	if err != nil {
		return err
	}
	if p.Adapter != nil {
		source := c.Model.Path
		if source != smolLM2 {
			if source, err = filepath.Abs(source); err != nil {
				return err
			}
		}
		err = p.Adapter.Save(dir, source)
	} else {
		whole := *m
		whole.Base, _ = p.Sets()
		err = whole.Save(dir)
	}
	if err != nil {
		return err
	}
	return fit.RemoveCheckpoint()
}

// Measure judges pairs whose chosen text is known to be preferred, and tells how far it is.
func (r *RewardModel) Measure(ctx context.Context, pairs []data.Preference, progress func(done, total int)) (RewardResult, error) {
	reqs := make([]annotate.Request, len(pairs))
	for i, p := range pairs {
		reqs[i] = annotate.Request{Prompt: p.Prompt, Reference: p.Reference, Completions: []string{p.Chosen, p.Rejected}}
	}
	members := make([][][]float64, len(r.members))
	for at := 0; at < len(reqs); at += 16 * r.batch {
		progress(at, len(reqs))
		some, err := r.Rewards(ctx, reqs[at:min(at+16*r.batch, len(reqs))])
		if err != nil {
			return RewardResult{}, err
		}
		for m := range members {
			members[m] = append(members[m], some[m]...)
		}
	}
	margins, right := make([]float64, len(pairs)), make([]float64, len(pairs))
	longer := 0.0
	var each []float64
	n, sum := float64(len(pairs)), 0.0
	for _, m := range members {
		correct := 0.0
		for i, v := range m {
			margins[i] += v[0] - v[1]
			correct += stats.Preferred(v[0] - v[1])
		}
		each = append(each, correct/n)
	}
	for i, p := range pairs {
		margins[i] /= float64(len(members))
		right[i] = stats.Preferred(margins[i])
		longer += stats.Preferred(float64(stats.Words(p.Chosen) - stats.Words(p.Rejected)))
		sum += margins[i]
	}
	accuracy, interval := stats.Bootstrap{Resamples: 2000}.Mean([][]float64{right})
	cal := stats.Calibration(margins)
	out := RewardResult{Bins: cal.Bins, Metrics: map[string]float64{
		"rewards/accuracies": accuracy, "rewards/accuracies_low": interval.Low, "rewards/accuracies_high": interval.High,
		"rewards/margins": sum / n, "nll": cal.NLL, "ece": cal.ECE, "n": n, "longer": longer / n,
	}}
	if len(members) > 1 {
		out.Members = each
	}
	return out, nil
}
