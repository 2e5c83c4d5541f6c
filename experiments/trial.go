package experiments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gomlx/compute"

	"gobpo/bpo"
	"gobpo/data"
	"gobpo/models"
)

// trial is one run with everything it needs in place.
type trial struct {
	session           *Session
	cfg               *Config
	backend           compute.Backend
	base              *base
	corpus            *corpus
	train, eval, test []bpo.Prompt
	start             []models.Policy
	evaluator         *evaluator
	dir               *RunDir
	ui                UI
	study             string
	truncated         int
	sources           map[string]string // hashes of the policies and pairs that others made
	judges            map[string]string // hashes of what the evaluator reads
}

// Execute runs a trial from its configuration to its result: model, prompts, start policies, training with
// evaluations, the final evaluation. It resumes from the directory's checkpoint.
func (s *Session) Execute(ctx context.Context, t Trial, dir *RunDir, ui UI) (Result, error) {
	r, err := s.prepare(ctx, t.Config, dir, ui)
	if err != nil {
		return Result{}, err
	}
	return r.run(ctx)
}

func newTrial(s *Session, c *Config, dir *RunDir, ui UI) *trial {
	return &trial{session: s, cfg: c, dir: dir, ui: ui, study: filepath.Dir(dir.Path)}
}

// prepare sets a trial up, up to but not including its training.
func (s *Session) prepare(ctx context.Context, cfg Config, dir *RunDir, ui UI) (*trial, error) {
	r := newTrial(s, &cfg, dir, ui)
	if err := r.readSources(); err != nil {
		return nil, err
	}
	var err error
	if r.corpus, err = loadCorpus(&cfg); err != nil {
		return nil, err
	}
	if r.corpus.dropped > 0 {
		ui.Note("left out %d evaluation prompts that are also trained on", r.corpus.dropped)
	}
	if err := r.loadBase(ctx); err != nil {
		return nil, err
	}
	if err := r.tokenise(); err != nil {
		return nil, err
	}
	if r.train, err = cfg.Prompts.Select.prompts(ctx, r.base, r.train, cfg.Model.Chat, cfg.Sample.Batch, cfg.Seed); err != nil {
		return nil, err
	}
	if err := r.checkData(); err != nil {
		return nil, err
	}
	initial, err := r.loadStart(ctx)
	if err != nil {
		return nil, err
	}
	return r, r.newEvaluator(initial)
}

// readSources finds and reads what the trial goes on from, so that a mistake there comes before the study's model is trained.
func (r *trial) readSources() (err error) {
	r.sources = map[string]string{}
	for _, s := range r.cfg.sources() {
		if s.path() == "" {
			continue
		}
		if err := s.locate(filepath.Dir(r.study), r.cfg.Seed); err != nil {
			return err
		}
		if r.sources[s.key], err = s.hash(); err != nil {
			return err
		}
	}
	return nil
}

// loadBase opens the backend and the base model, which is made where it is the study's own and not there yet.
func (r *trial) loadBase(ctx context.Context) error {
	cfg, s := r.cfg, r.session
	var err error
	if r.backend, err = s.Backend(cfg.Backend); err != nil {
		return err
	}
	path, err := s.locate(ctx, cfg.Model.Path)
	if err != nil {
		return err
	}
	if !r.dir.readOnly {
		shape, err := cfg.modelConfig(r.corpus)
		if err != nil {
			return err
		}
		if cfg.Train == "lora" {
			if err := cfg.LoRA.Check(shape); err != nil {
				return fmt.Errorf("lora.%w", err)
			}
		}
		if err := cfg.checkMemory(shape, r.backend); err != nil {
			return err
		}
	}
	if path == "" {
		if path, err = scratch(ctx, cfg, r.backend, r.study, r.corpus, r.ui); err != nil {
			return err
		}
	}
	if r.base, err = s.loadPolicy(ctx, r.backend, path, cfg.Model.DType); err != nil {
		return err
	}
	if most := r.base.model.Config.MaxPositions; cfg.MaxPromptTokens+cfg.MaxCompletionTokens > most {
		return fmt.Errorf("max_prompt_tokens: %d and max_completion_tokens %d exceed the model's context of %d tokens", cfg.MaxPromptTokens, cfg.MaxCompletionTokens, most)
	}
	return nil
}

func (r *trial) tokenise() error {
	for _, set := range []struct {
		into *[]bpo.Prompt
		from []data.Prompt
	}{{&r.train, r.corpus.train}, {&r.eval, r.corpus.eval}, {&r.test, r.corpus.test}} {
		prompts, cut, err := tokenise(r.base.model, r.cfg.Model.Chat, set.from, r.cfg.MaxPromptTokens)
		if err != nil {
			return err
		}
		*set.into = prompts
		r.truncated += cut
	}
	return nil
}

// loadStart makes the start policies, and gives what all learners together start as.
func (r *trial) loadStart(ctx context.Context) (initial models.Policy, err error) {
	if r.start, err = startPolicies(ctx, r.cfg, r.backend, r.base, r.study, r.corpus, r.ui); err != nil {
		return initial, err
	}
	if len(r.start) == 1 {
		return r.start[0], nil
	}
	if initial, err = bpo.Merge(r.backend, r.cfg.Config, r.start); err != nil {
		return initial, fmt.Errorf("start policies: %w", err)
	}
	return initial, nil
}

func (r *trial) newEvaluator(initial models.Policy) error {
	annotator, err := r.session.newAnnotator(r.cfg.Eval.Annotator, r.corpus.gold, r.cfg.Backend)
	if err != nil {
		return fmt.Errorf("eval.annotator.%w", err)
	}
	r.evaluator = &evaluator{cfg: r.cfg, base: r.base, annotator: annotator, initial: initial, ui: r.ui}
	return nil
}

// checkData notes what the run is made of, and refuses to continue a run whose data, model or policies have changed.
func (r *trial) checkData() error {
	now, err := r.corpus.hash()
	if err != nil {
		return err
	}
	now["model"] = r.base.hash
	maps.Copy(now, r.sources)
	sums := map[string]string{}
	judges, err := annotatorFiles("annotator", r.cfg.Annotator, sums)
	if err != nil {
		return err
	}
	if r.judges, err = annotatorFiles("eval.annotator", r.cfg.Eval.Annotator, sums); err != nil {
		return err
	}
	maps.Copy(now, judges)
	maps.Copy(now, r.judges)
	for _, name := range slices.Sorted(maps.Keys(r.dir.Manifest.Data)) {
		if err := r.unchanged(name, now[name]); err != nil {
			return err
		}
	}
	r.dir.Manifest.Data = now
	r.dir.Manifest.Backend = r.backend.Description()
	return r.dir.Save()
}

// unchanged refuses what is not as it was when the run started.
func (r *trial) unchanged(name, now string) error {
	if was, known := r.dir.Manifest.Data[name]; known && was != now {
		return fmt.Errorf("%s changed since this run started (%s, was %s); delete %s to run it anew", name, now, was, r.dir.Path)
	}
	return nil
}

func (r *trial) run(ctx context.Context) (Result, error) {
	result := Result{Backend: r.backend.Description(), TruncatedPrompts: r.truncated}
	if err := r.initial(ctx, &result); err != nil {
		return result, err
	}
	annotator, err := r.session.newAnnotator(r.cfg.Annotator, r.corpus.gold, r.cfg.Backend)
	if err != nil {
		return result, fmt.Errorf("annotator.%w", err)
	}
	log, err := OpenMetrics(filepath.Join(r.dir.Path, "metrics.jsonl"))
	if err != nil {
		return result, err
	}
	defer log.Close()
	log.trackers = r.dir.trackers
	warned := false
	fresh := true // until a checkpoint says otherwise: what an attempt without one has logged is void
	policy, err := bpo.Train(ctx, bpo.Setup{
		Config: r.cfg.Config, Backend: r.backend, Model: r.base.model, Start: r.start, Prompts: r.train,
		Annotator: annotator, Dir: r.dir.Path, EvalEvery: r.cfg.Eval.Every, Sampler: r.base.sampler, Scorer: r.base.scorer,
		EncodePrompt: func(text string, conversation []data.Message) ([]int32, error) {
			return encodePrompt(r.base.model, r.cfg.Model.Chat, text, conversation)
		},
		End:      turnEnd(r.base.model, r.cfg.Model.Chat),
		Evaluate: r.curve,
		Resumed: func(step int) error {
			fresh = false
			return log.Rewind(step)
		},
		Log: func(step int, m bpo.Metrics) error {
			if fresh {
				fresh = false
				if err := log.Rewind(-1); err != nil {
					return err
				}
			}
			if n, dropped := m["collect/prompts"], dropped(r.cfg, m); !warned && dropped > n/2 {
				warned = true // one that cannot tell completions apart looks like a method that does nothing
				r.ui.Note("%g of the %g prompts before step %d gave no pair: %g ties, %g times all completions the same", dropped, n, step, m["collect/ties"], m["collect/identical"])
			}
			r.ui.Step(step, m)
			return log.Append(step, m)
		},
		Progress: r.ui.Doing,
	})
	if err != nil {
		return result, err
	}
	policy, expo, err := r.extrapolate(ctx, policy)
	if err != nil {
		return result, err
	}
	final, err := r.final(ctx, policy, r.cfg.Steps)
	if err != nil {
		return result, err
	}
	maps.Copy(final.Metrics, expo)
	r.ui.Step(r.cfg.Steps, final.Metrics)
	result.Final, result.Outcomes = final.Metrics, final.Outcomes
	return result, data.Write(filepath.Join(r.dir.Path, "samples", "final.parquet"), final.Outputs, nil)
}

// dropped is how many prompts of a collection gave no pair.
func dropped(c *Config, m bpo.Metrics) float64 {
	n := m["collect/identical"]
	if c.Ties == "drop" {
		n += m["collect/ties"]
	}
	return n
}

// curve evaluates on the eval prompts, for the metrics of a step.
func (r *trial) curve(ctx context.Context, step int, p models.Policy) (bpo.Metrics, error) {
	if len(r.eval) == 0 || r.cfg.Eval.Every == 0 {
		return nil, nil // the result is measured by final
	}
	e, err := r.evaluator.measure(ctx, p, r.eval, step)
	if err != nil {
		return nil, err
	}
	return e.Metrics, data.Write(filepath.Join(r.dir.Path, "samples", fmt.Sprintf("step-%06d.parquet", step)), e.Outputs, nil)
}

// final evaluates a policy for the result.
func (r *trial) final(ctx context.Context, p models.Policy, step int) (Evaluation, error) {
	return r.evaluator.measure(ctx, p, r.resultPrompts(), step)
}

// resultPrompts are the test prompts, or the eval prompts where there are none.
func (r *trial) resultPrompts() []bpo.Prompt {
	if len(r.test) == 0 {
		return r.eval
	}
	return r.test
}

// initial evaluates the policy before training, once for all trials that start from it, whatever their seeds: what is
// measured depends on the key alone, not on which trial comes first.
func (r *trial) initial(ctx context.Context, result *Result) error {
	texts, err := r.corpus.hash()
	if err != nil {
		return err
	}
	maps.Copy(texts, r.judges)
	c := *r.cfg
	c.Seed = 0
	start := r.evaluator.initial.Hash()
	if c.SFT.Steps == 0 && c.Start == "" {
		start = "" // fresh adapters change nothing, whatever their seed
	}
	key := []any{"start policy", r.base.hash, start, texts, c.Eval, c.Model.Chat, c.MaxPromptTokens, c.MaxCompletionTokens, c.Sample.Batch, c.Backend}
	dir, err := sharedWork(ctx, r.study, key, r.ui, func(dir string) error {
		v := *r.evaluator
		v.cfg = &c
		e, err := v.measure(ctx, v.initial, r.resultPrompts(), 0)
		if err != nil {
			return err
		}
		return errors.Join(
			writeJSON(filepath.Join(dir, resultFile), Result{Method: "start policy", Final: e.Metrics, Outcomes: e.Outcomes}),
			data.Write(filepath.Join(dir, "samples.parquet"), e.Outputs, nil))
	})
	if err != nil {
		return fmt.Errorf("evaluate the start policy: %w", err)
	}
	e, err := ReadResult(dir)
	if err != nil {
		return err
	}
	result.Initial, result.InitialDir = e.Final, filepath.Base(dir)
	return nil
}
