package experiments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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

// OpenPolicy opens what path names: a run directory (its trained policy), a GGUF file, a Hugging Face directory, or
// "smollm2". dtype and chat are for models; a run brings its own.
func (s *Session) OpenPolicy(ctx context.Context, path, dtype, chat string) (*Policy, error) {
	if c, err := runConfig(path); err == nil {
		r, err := s.openRun(ctx, path, c)
		if err != nil {
			return nil, err
		}
		p, err := bpo.LoadPolicy(bpo.PolicyPath(path), r.base.model)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: the run has no final policy yet; finish it with bpo train or bpo sweep", path)
		}
		if err != nil {
			return nil, err
		}
		return &Policy{r.base.model, p, r.base.sampler, r.base.scorer, c.Model.Chat}, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
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

// runConfig reads the resolved configuration of a run directory; fs.ErrNotExist where path is no run.
func runConfig(path string) (Config, error) {
	file := filepath.Join(path, "config.yaml")
	if _, err := os.Stat(filepath.Join(path, "manifest.json")); err != nil {
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

// openRun prepares a finished run for looking at, without its lock.
func (s *Session) openRun(ctx context.Context, path string, c Config) (*trial, error) {
	path = filepath.Clean(path)
	m, err := ReadManifest(path)
	if err != nil {
		return nil, err
	}
	return s.prepare(ctx, c, &RunDir{Path: path, Manifest: m, readOnly: true}, nothing{})
}

// EvaluateRun measures a run's final policy again, on its test prompts or with useEval on its eval prompts. adjust may
// change the evaluation (c.Eval) and the files (c.Prompts) that it is measured on.
func (s *Session) EvaluateRun(ctx context.Context, path string, useEval bool, adjust func(c *Config) error) (Evaluation, error) {
	c, err := runConfig(path)
	if err != nil {
		return Evaluation{}, fmt.Errorf("%s is not a run directory: %w", path, err)
	}
	if err := adjust(&c); err != nil {
		return Evaluation{}, err
	}
	r, err := s.openRun(ctx, path, c)
	if err != nil {
		return Evaluation{}, err
	}
	p, err := bpo.LoadPolicy(bpo.PolicyPath(path), r.base.model)
	if err != nil {
		return Evaluation{}, err
	}
	if useEval {
		r.test = nil
	}
	return r.final(ctx, p, c.Steps)
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

// sameSeed lets "checkpoint:<study>" and "offline:<study>" mean the study's run of a seed, where it has several.
func sameSeed(value *string, seed uint64) error {
	at := strings.IndexByte(*value, ':') + 1
	runs, err := filepath.Glob(filepath.Join((*value)[at:], "*", "manifest.json"))
	if err != nil || *value == "" || len(runs) < 2 {
		return nil // a file, a run, or nothing, as whoever opens it will say
	}
	var same []string
	for _, m := range runs {
		c, err := runConfig(filepath.Dir(m))
		if err != nil {
			return err
		}
		if c.Seed == seed {
			same = append(same, filepath.Dir(m))
		}
	}
	if len(same) != 1 {
		return fmt.Errorf("%s: %d of the study's %d runs have seed %d; name one run", *value, len(same), len(runs), seed)
	}
	*value = (*value)[:at] + same[0]
	return nil
}
