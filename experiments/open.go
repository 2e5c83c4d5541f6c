package experiments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"gobpo/bpo"
	"gobpo/data"
	"gobpo/experiments/stats"
	"gobpo/models"
	"gobpo/models/sample"
)

// Policy is a model ready to sample and to score: a base model, or the policy of a run on its base.
type Policy struct {
	Model   *models.Model
	Policy  models.Policy
	Sampler *sample.Sampler
	Scorer  *models.Scorer
	Chat    string // as model.chat
}

// Stop lists the tokens that end a completion.
func (p *Policy) Stop() []int32 { return p.Model.Stop(turnEnd(p.Model, p.Chat)) }

// OpenPolicy opens what path names: a run directory (its trained policy), a GGUF file, a Hugging Face directory, or
// "smollm2". dtype and chat are for models; a run brings its own.
func (s *Session) OpenPolicy(ctx context.Context, path, dtype, chat string) (*Policy, error) {
	if c, err := runConfig(path); err == nil {
		r, err := s.openRun(ctx, path, &c)
		if err != nil {
			return nil, err
		}
		p, err := bpo.LoadPolicy(bpo.PolicyPath(path), r.base.model)
		if err != nil {
			return nil, err
		}
		return &Policy{r.base.model, p, r.base.sampler, r.base.scorer, c.Model.Chat}, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := aStudy(path); err != nil {
		return nil, err
	}
	b, err := s.Backend("auto")
	if err != nil {
		return nil, err
	}
	m, err := s.loadPolicy(ctx, b, path, dtype)
	if err != nil {
		return nil, err
	}
	return &Policy{m.model, models.Policy{Name: "base", Base: m.model.Base}, m.sampler, m.scorer, chat}, nil
}

// IsRun says whether path is a run's directory.
func IsRun(path string) bool {
	_, err := os.Stat(filepath.Join(path, "manifest.json"))
	return err == nil
}

// oneRun is the configuration of what must be a run's directory.
func oneRun(path string) (Config, error) {
	c, err := runConfig(path)
	if err == nil {
		return c, nil
	}
	if study := aStudy(path); study != nil {
		return c, study
	}
	return c, fmt.Errorf("%s is not a run directory: %w", path, err)
}

// aStudy is the error of a study's directory where one run is wanted; nil for anything else.
func aStudy(path string) error {
	runs, _ := runsOf(path)
	if len(runs) == 0 || IsRun(path) {
		return nil
	}
	return fmt.Errorf("%s is a study: name one of its runs, such as %s (bpo compare sets its arms against each other)", path, runs[0])
}

// unfinished says what is not there yet where a run has not come to it.
func unfinished(path, what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: the run has no %s yet; finish it with bpo train or bpo sweep", path, what)
	}
	return err
}

// runConfig reads the resolved configuration of a run directory; fs.ErrNotExist where path is no run.
func runConfig(path string) (Config, error) {
	file := filepath.Join(path, "config.yaml")
	if !IsRun(path) {
		return Config{}, fs.ErrNotExist
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	var t tree
	if err := yaml.Unmarshal(raw, &t); err != nil {
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	return typed(t)
}

// nothing is a UI that shows nothing.
type nothing struct{}

func (nothing) Doing(string, int, int)       {}
func (nothing) Step(int, map[string]float64) {}
func (nothing) Note(string, ...any)          {}

// openRun opens the base of a finished run, to look at the run without its lock and without what only its training needs.
func (s *Session) openRun(ctx context.Context, path string, c *Config) (*trial, error) {
	if _, err := os.Stat(bpo.PolicyPath(path)); err != nil { // before a base is loaded, or made
		return nil, unfinished(path, "final policy", err)
	}
	path, err := filepath.Abs(path) // its study lies above it, whatever the path is written like
	if err != nil {
		return nil, err
	}
	m, err := ReadManifest(path)
	if err != nil {
		return nil, err
	}
	r := newTrial(s, c, &RunDir{Path: path, Manifest: m, readOnly: true}, nothing{})
	if c.Model.Path == "" { // a new model's vocabulary is its task's
		if r.corpus, err = taskCorpus(c); err != nil {
			return nil, err
		}
	}
	if err := r.loadBase(ctx); err != nil {
		return nil, err
	}
	return r, r.unchanged("model", r.base.hash)
}

// EvaluateRun measures a run's final policy again, on its test prompts or with useEval on its eval prompts. adjust may
// change the evaluation (c.Eval) and the files (c.Prompts) that it is measured on.
func (s *Session) EvaluateRun(ctx context.Context, path string, useEval bool, adjust func(c *Config) error) (Evaluation, error) {
	c, err := oneRun(path)
	if err != nil {
		return Evaluation{}, err
	}
	if err := adjust(&c); err != nil {
		return Evaluation{}, err
	}
	r, err := s.openRun(ctx, path, &c)
	if err != nil {
		return Evaluation{}, err
	}
	p, err := bpo.LoadPolicy(bpo.PolicyPath(path), r.base.model)
	if err != nil {
		return Evaluation{}, err
	}
	for _, source := range c.pairSources() {
		if err := source.locate(filepath.Dir(r.study), c.Seed); err != nil {
			return Evaluation{}, err
		}
	}
	if r.corpus, err = loadCorpus(&c); err != nil {
		return Evaluation{}, err
	}
	r.corpus.train = nil // which evaluation prompts are among them is known now
	if err := r.tokenise(); err != nil {
		return Evaluation{}, err
	}
	var initial models.Policy
	if c.Eval.KLSamples > 0 {
		if initial, err = r.startAgain(ctx); err != nil && (c.Start == "" && c.SFT.Steps == 0 || ctx.Err() != nil) {
			return Evaluation{}, err
		} else if err != nil { // another run's, which may be gone, or one of texts that have changed
			c.Eval.KLSamples = 0
			if s.Log != nil {
				fmt.Fprintf(s.Log, "without kl/initial: %v\n", err)
			}
		}
	}
	if err := r.newEvaluator(initial); err != nil {
		return Evaluation{}, err
	}
	if useEval {
		r.test = nil
	}
	return r.final(ctx, p, c.Steps)
}

// startAgain is what a finished run started as.
func (r *trial) startAgain(ctx context.Context) (models.Policy, error) {
	if start := r.cfg.startSource(); start.path() != "" {
		if err := start.locate(filepath.Dir(r.study), r.cfg.Seed); err != nil {
			return models.Policy{}, err
		}
		now, err := start.hash()
		if was, known := r.dir.Manifest.Data[start.key]; err == nil && known && was != now {
			err = fmt.Errorf("start: %s is not what the run started from any more (%s, was %s)", start.path(), now, was)
		}
		if err != nil {
			return models.Policy{}, err
		}
	}
	if r.cfg.SFT.Steps > 0 { // what is not there is trained
		now, err := r.corpus.hash()
		if err == nil {
			err = r.unchanged("prompts/sft", now["prompts/sft"])
		}
		if err != nil {
			return models.Policy{}, err
		}
	}
	return r.loadStart(ctx)
}

// CompareTexts judges outputs that are already there.
func (s *Session) CompareTexts(ctx context.Context, outputs []data.Completion, c EvalConfig) (Evaluation, error) {
	a, err := s.newAnnotator(c.Annotator, nil, "auto")
	if err != nil {
		return Evaluation{}, fmt.Errorf("annotator.%w", err)
	}
	return Compare(ctx, a, outputs, stats.Bootstrap{Resamples: c.Bootstrap}, 0)
}

// Prompts tokenises prompts as training does, and says how many lost their start to the limit.
func (p *Policy) Prompts(in []data.Prompt, limit int) ([]bpo.Prompt, int, error) {
	return tokenise(p.Model, p.Chat, in, limit)
}

// Key is a prompt's identity for its random numbers.
func Key(id string) uint64 { return keyOf(id) }
