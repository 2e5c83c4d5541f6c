package experiments

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gobpo/bpo/annotate"
)

// newAnnotator builds an annotator of a configuration; gold is the reward of the task, or nil. Models that judge are opened
// by the session, on the backend of that name.
func (s *Session) newAnnotator(c annotate.Config, gold func(prompt, completion string) float64, backend string) (annotate.Annotator, error) {
	kinds := []annotate.Kind{rewardKind(s, backend), logprobJudgeKind(s)}
	if gold != nil {
		kinds = append(kinds, annotate.Gold(gold))
	}
	return annotate.New(c, kinds...)
}

// validateAnnotators builds both annotators once, which finds every mistake in their options.
func (c *Config) validateAnnotators() error {
	var gold func(prompt, completion string) float64
	if c.Task.Name != "" {
		gold = func(string, string) float64 { return 0 }
	}
	if _, err := new(Session).newAnnotator(c.Annotator, gold, c.Backend); err != nil {
		return fmt.Errorf("annotator.%w", err)
	}
	if _, err := new(Session).newAnnotator(c.Eval.Annotator, gold, c.Backend); err != nil {
		return fmt.Errorf("eval.annotator.%w", err)
	}
	return nil
}

// annotatorFiles identifies the models and templates that an annotator reads, by the key that names them under prefix, so
// that one that changes under a run's name is noticed. Of a directory, weights and configurations count.
func annotatorFiles(prefix string, c annotate.Config) (map[string]string, error) {
	out := map[string]string{}
	var walk func(key string, c annotate.Config) error
	walk = func(key string, c annotate.Config) error {
		for _, name := range []string{"path", "model", "template"} {
			path, _ := c.Params[name].(string)
			if _, err := os.Stat(path); path == "" || errors.Is(err, fs.ErrNotExist) {
				continue // a name, as smollm2 or tldr
			}
			sum, err := hashFiles(path)
			if err != nil {
				return fmt.Errorf("%s.%s: %w", key, name, err)
			}
			out[key+"."+name] = sum
		}
		for i, term := range c.Of {
			if err := walk(fmt.Sprintf("%s.of[%d]", key, i), term); err != nil {
				return err
			}
		}
		return nil
	}
	return out, walk(prefix, c)
}

// hashFiles is the SHA-256 of a file, or of a model's directory.
func hashFiles(path string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir():
			if file != path && slices.Contains([]string{"checkpoint", "checkpoints"}, name) {
				return fs.SkipDir
			}
			return nil
		case file != path && !slices.Contains([]string{".safetensors", ".gguf"}, filepath.Ext(name)) &&
			!slices.Contains([]string{"config.json", "adapter_config.json", "tokenizer.json", "reward.yaml", "config.yaml"}, name):
			return nil
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		rel, err := filepath.Rel(path, file)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q\n", rel)
		_, err = io.Copy(h, f)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}
