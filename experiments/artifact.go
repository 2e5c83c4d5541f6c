package experiments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"gobpo/bpo"
	"gobpo/models"
)

// Artifact is a model to merge or to export: the weights of a base, with what a run or an adapter puts over them. They
// stay in their files and are read one at a time.
type Artifact struct {
	Path    string
	Base    *models.Checkpoint // configuration, tokenizer and the weights underneath
	Adapter *models.Adapter    // over the base; nil if there is none
	Weights models.Reader      // everything put together
	merged  []string           // the inputs of a merge
	run     *Config            // of a run directory
	policy  *bpo.SavedPolicy   // of a run directory
}

// OpenArtifact opens a run directory (its final policy), a PEFT adapter directory, a Hugging Face directory, a GGUF file or
// "smollm2". base is the model underneath an adapter; "" is the one that the adapter names, if that is here.
func (s *Session) OpenArtifact(ctx context.Context, path, base string) (_ *Artifact, err error) {
	a := &Artifact{Path: path}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := aStudy(path); err != nil {
		return nil, err
	}
	reward := false
	c, err := runConfig(path)
	switch {
	case err == nil:
		a.run = &c
		if base, err = s.runBase(ctx, path, &c); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case models.IsAdapter(path):
		if base, reward, err = adapterBase(path, base); err != nil {
			return nil, err
		}
	default:
		base = path
	}
	if base, err = s.locate(ctx, base); err != nil {
		return nil, err
	}
	if a.Base, err = models.Open(base); err != nil {
		return nil, err
	}
	a.Base.Config.Reward = a.Base.Config.Reward || reward
	a.Weights = a.Base.Read
	switch {
	case a.run != nil:
		a.policy, err = bpo.OpenPolicy(bpo.PolicyPath(path), a.Base.Config)
		if err != nil {
			return nil, unfinished(path, "final policy", err)
		}
		a.Adapter, a.Weights = a.policy.Adapter, a.policy.Over(a.Base.Read)
	case models.IsAdapter(path):
		if a.Adapter, err = models.LoadAdapter(path, a.Base.Config); err != nil {
			return nil, err
		}
		a.Weights = a.Adapter.Over(a.Base.Read)
	}
	return a, nil
}

// adapterBase is the model underneath a PEFT adapter: given, or the one that it names, if that is here; and whether the
// adapter makes a reward model of it.
func adapterBase(path, given string) (base string, reward bool, err error) {
	if base, reward, err = models.AdapterBase(path); err != nil || given != "" {
		return given, reward, err
	}
	if _, err := os.Stat(base); base != smolLM2 && (base == "" || err != nil) {
		return "", reward, fmt.Errorf("%s: the adapter's base %q is not here; name it with --base", path, base)
	}
	return base, reward, nil
}

// runBase is the model that a run trains: a path, or the study's new model.
func (s *Session) runBase(ctx context.Context, run string, c *Config) (string, error) {
	if c.Model.Path != "" {
		return s.locate(ctx, c.Model.Path)
	}
	dir, err := sharedDir(filepath.Dir(filepath.Clean(run)), c.scratchKey())
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("%s: the model that the study trained is gone: %w", run, err)
	}
	return dir, nil
}

// Close closes the files.
func (a *Artifact) Close() error {
	var err error
	if a.policy != nil {
		err = a.policy.Close()
	}
	if a.Base != nil {
		err = errors.Join(err, a.Base.Close())
	}
	return err
}

// fits says in which field of their configurations two models differ.
func (a *Artifact) fits(b *Artifact) error {
	x, y := reflect.ValueOf(a.Base.Config), reflect.ValueOf(b.Base.Config)
	for i := range x.NumField() {
		if v, w := x.Field(i).Interface(), y.Field(i).Interface(); !reflect.DeepEqual(v, w) {
			return fmt.Errorf("%s and %s cannot be merged: %s is %v in one and %v in the other", a.Path, b.Path, x.Type().Field(i).Name, v, w)
		}
	}
	if t, u := a.Base.Tokenizer, b.Base.Tokenizer; t != nil && u != nil && t.VocabSize() != u.VocabSize() {
		return fmt.Errorf("%s and %s cannot be merged: their tokenizers have %d and %d tokens", a.Path, b.Path, t.VocabSize(), u.VocabSize())
	}
	return nil
}
