package experiments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"

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

// prepare sets a trial up, up to but not including its training.
func (s *Session) prepare(ctx context.Context, cfg Config, dir *RunDir, ui UI) (*trial, error) {
	for _, value := range []*string{&cfg.Start, &cfg.Reference, &cfg.Data, &cfg.Mix.Pairs} {
		if err := sameSeed(value, cfg.Seed); err != nil {
			return nil, err
		}
	}
	r := &trial{session: s, cfg: &cfg, dir: dir, ui: ui, study: filepath.Dir(dir.Path)}
	var err error
	if r.corpus, err = loadCorpus(&cfg); err != nil {
		return nil, err
	}
	if r.corpus.dropped > 0 {
		ui.Note("left out %d evaluation prompts that are also trained on", r.corpus.dropped)
	}
	if r.backend, err = s.Backend(cfg.Backend); err != nil {
		return nil, err
	}
	path, err := s.locate(ctx, cfg.Model.Path)
	if err != nil {
		return nil, err
	}
	if !dir.readOnly {
		shape, err := cfg.modelConfig(r.corpus)
		if err != nil {
			return nil, err
		}
		if cfg.Train == "lora" {
			if err := cfg.LoRA.Check(shape); err != nil {
				return nil, fmt.Errorf("lora.%w", err)
			}
		}
		if err := cfg.checkMemory(shape, r.backend); err != nil {
			return nil, err
		}
	}
	if path == "" {
		if path, err = scratch(ctx, &cfg, r.backend, r.study, r.corpus, ui); err != nil {
			return nil, err
		}
	}
	if r.base, err = s.loadPolicy(ctx, r.backend, path, cfg.Model.DType); err != nil {
		return nil, err
	}
	if most := r.base.model.Config.MaxPositions; cfg.MaxPromptTokens+cfg.MaxCompletionTokens > most {
		return nil, fmt.Errorf("max_prompt_tokens: %d and max_completion_tokens %d exceed the model's context of %d tokens", cfg.MaxPromptTokens, cfg.MaxCompletionTokens, most)
	}
	for _, set := range []struct {
		into *[]bpo.Prompt
		from []data.Prompt
	}{{&r.train, r.corpus.train}, {&r.eval, r.corpus.eval}, {&r.test, r.corpus.test}} {
		cut := 0
		if *set.into, cut, err = tokenise(r.base.model, cfg.Model.Chat, set.from, cfg.MaxPromptTokens); err != nil {
			return nil, err
		}
		r.truncated += cut
	}
	if r.train, err = cfg.Prompts.Select.prompts(ctx, r.base, r.train, cfg.Model.Chat, r.base.model.Config.MaxPositions, cfg.Sample.Batch, cfg.Seed); err != nil {
		return nil, err
	}
	if err := r.checkData(); err != nil {
		return nil, err
	}
	if r.start, err = startPolicies(ctx, &cfg, r.backend, r.base, r.study, r.corpus, ui); err != nil {
		return nil, err
	}
	annotator, err := s.newAnnotator(cfg.Eval.Annotator, r.corpus.gold, cfg.Backend)
	if err != nil {
		return nil, fmt.Errorf("eval.annotator.%w", err)
	}
	initial, err := r.initialPolicy()
	if err != nil {
		return nil, err
	}
	r.evaluator = &evaluator{cfg: &cfg, base: r.base, annotator: annotator, initial: initial, ui: ui}
	return r, nil
}

// checkData notes what the run is made of, and refuses to continue a run whose data or model have changed.
func (r *trial) checkData() error {
	now, err := r.corpus.hash()
	if err != nil {
		return err
	}
	now["model"] = r.base.hash
	if !r.dir.readOnly { // a run that is looked at need not have them any more
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
	}
	for name, was := range r.dir.Manifest.Data {
		if r.dir.readOnly && name != "model" {
			continue // to be measured on other prompts is what one opens it for
		}
		if now[name] != was {
			return fmt.Errorf("%s changed since this run started (%s, was %s); delete %s to run it anew", name, now[name], was, r.dir.Path)
		}
	}
	r.dir.Manifest.Data = now
	r.dir.Manifest.Backend = r.backend.Description()
	return r.dir.Save()
}

// initialPolicy is what all learners together start as.
func (r *trial) initialPolicy() (models.Policy, error) {
	if len(r.start) == 1 {
		return r.start[0], nil
	}
	p, err := bpo.Merge(r.backend, r.cfg.Config, r.start)
	if err != nil {
		return p, fmt.Errorf("start policies: %w", err)
	}
	return p, nil
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
	fresh := true // until a checkpoint says otherwise: what an attempt without one has logged is void
	policy, err := bpo.Train(ctx, bpo.Setup{
		Config: r.cfg.Config, Backend: r.backend, Model: r.base.model, Start: r.start, Prompts: r.train,
		Annotator: annotator, Dir: r.dir.Path, EvalEvery: r.cfg.Eval.Every, Sampler: r.base.sampler, Scorer: r.base.scorer,
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

// final evaluates on the test prompts, or on the eval prompts where there are none.
func (r *trial) final(ctx context.Context, p models.Policy, step int) (Evaluation, error) {
	prompts := r.test
	if len(prompts) == 0 {
		prompts = r.eval
	}
	return r.evaluator.measure(ctx, p, prompts, step)
}

// initial evaluates the policy before training, once for all trials that start from it.
func (r *trial) initial(ctx context.Context, result *Result) error {
	start := ""
	for _, p := range r.start {
		start += p.Hash()
	}
	texts, err := r.corpus.hash()
	if err != nil {
		return err
	}
	maps.Copy(texts, r.judges)
	c := r.cfg
	if c.SFT.Steps == 0 && c.Start == "" {
		start = "" // fresh adapters change nothing, whatever their seed
	}
	key := []any{"initial", r.base.hash, start, texts, c.Eval, c.Model.Chat, c.MaxPromptTokens, c.MaxCompletionTokens, c.Backend}
	dir, err := sharedWork(ctx, r.study, key, r.ui, func(dir string) error {
		e, err := r.final(ctx, r.evaluator.initial, 0)
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
