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
	out := map[string]string{}
	for _, p := range annotatorPaths(prefix, c) {
		if sums[p.path] == "" {
			var err error
			if sums[p.path], err = hashFiles(p.path); err != nil {
				return nil, fmt.Errorf("%s: %w", p.key, err)
			}
		}
		out[p.key] = sums[p.path]
	}
	return out, nil
}

// annotatorPaths are the files and directories that an annotator reads.
func annotatorPaths(prefix string, c annotate.Config) (all []namedPath) {
	kinds := annotate.Kinds()
	if i := slices.IndexFunc(kinds, func(k annotate.Kind) bool { return k.Name == c.Name }); i >= 0 {
		for _, p := range kinds[i].Params {
			if path, _ := c.Params[p.Name].(string); path != "" && p.File != nil && p.File(path) {
				all = append(all, namedPath{prefix + "." + p.Name, path})
			}
		}
	}
	for i, term := range c.Of {
		all = append(all, annotatorPaths(fmt.Sprintf("%s.of[%d]", prefix, i), term)...)
	}
	return all
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
