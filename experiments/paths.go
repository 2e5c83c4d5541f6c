package experiments

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// namedPath is a file or directory, and the key that names it.
type namedPath struct{ key, path string }

// paths are the files and directories that a trial reads. What study: names is found when the trial starts, and smollm2 is
// fetched.
func (c *Config) paths() []namedPath {
	p := c.Prompts
	all := []namedPath{{"prompts.train", p.Train}, {"prompts.sft", p.SFT}, {"prompts.eval", p.Eval}, {"prompts.test", p.Test}}
	if c.Model.Path != smolLM2 {
		all = append(all, namedPath{"model.path", c.Model.Path})
	}
	for _, s := range c.sources() {
		if _, named := s.study(); !named {
			all = append(all, namedPath{s.key, s.path()})
		}
	}
	all = slices.Concat(all, annotatorPaths("annotator", c.Annotator), annotatorPaths("eval.annotator", c.Eval.Annotator))
	return slices.DeleteFunc(all, func(p namedPath) bool { return p.path == "" })
}

// CheckPaths reports the first file or directory that a file's trials name and that is not here; one below made may be
// missing, unless that is "".
func CheckPaths(file string, trials []Trial, made string) error {
	seen := map[string]bool{}
	for _, t := range trials {
		for _, p := range t.Config.paths() {
			if seen[p.path] || made != "" && below(made, p.path) {
				continue
			}
			seen[p.path] = true
			if _, err := os.Stat(p.path); err != nil {
				return t.wrong(file, fmt.Errorf("%s: %w", p.key, err))
			}
		}
	}
	return nil
}

// Ready reports a path that is missing before any trial makes its run directory and fails. What is done needs none any more.
// In later sweeps one in o.Out may be missing: an earlier one may make it.
func Ready(files []string, sweeps [][]Trial, o SweepOptions) error {
	made := ""
	for i, trials := range sweeps {
		found, err := pendingRuns(trials, o)
		if err == nil {
			err = CheckPaths(files[i], found.todo, made)
		}
		if err != nil {
			return err
		}
		made = o.Out
	}
	return nil
}

// below tells whether a path is a directory, or in it.
func below(dir, path string) bool {
	a, errA := filepath.Abs(dir)
	b, errB := filepath.Abs(path)
	rel, err := filepath.Rel(a, b)
	return errA == nil && errB == nil && err == nil && filepath.IsLocal(rel)
}
