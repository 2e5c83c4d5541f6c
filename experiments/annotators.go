package experiments

import (
	"crypto/sha256"
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
// that one that changes under a run's name is noticed. The base under an adapter is identified by its name only. sums holds
// what was read already, by path: annotator and evaluator often share a model.
func annotatorFiles(prefix string, c annotate.Config, sums map[string]string) (map[string]string, error) {
	kinds := map[string]annotate.Kind{}
	for _, k := range annotate.Kinds() {
		kinds[k.Name] = k
	}
	out := map[string]string{}
	var walk func(key string, c annotate.Config) error
	walk = func(key string, c annotate.Config) error {
		for _, p := range kinds[c.Name].Params {
			path, _ := c.Params[p.Name].(string)
			if path == "" || p.File == nil || !p.File(path) {
				continue
			}
			if sums[path] == "" {
				var err error
				if sums[path], err = hashFiles(path); err != nil {
					return fmt.Errorf("%s.%s: %w", key, p.Name, err)
				}
			}
			out[key+"."+p.Name] = sums[path]
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

// hashFiles is the SHA-256 of a file, or of what a model is read from in a directory.
func hashFiles(path string) (string, error) {
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file != root && slices.Contains([]string{"checkpoint", "checkpoints"}, name) {
				return fs.SkipDir
			}
			return nil
		}
		if file != root && (slices.Contains([]string{"manifest.json", rewardInputsFile, resultFile}, name) ||
			!slices.Contains([]string{".safetensors", ".gguf", ".json", ".yaml", ".model", ".jinja"}, filepath.Ext(name))) {
			return nil
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q\n", rel)
		_, err = io.Copy(h, f)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}
