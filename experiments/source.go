package experiments

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gobpo/bpo"
	"gobpo/data"
)

// source is a key that can name what another run made: a file, a run's directory or a study's.
type source struct {
	key    string
	before string // what stands before the path: "checkpoint:", "offline:" or nothing
	value  *string
}

func (c *Config) startSource() source { return source{"start", "checkpoint:", &c.Start} }

func (c *Config) sources() []source {
	return append(c.pairSources(), c.startSource(), source{"reference", "checkpoint:", &c.Reference})
}

func (c *Config) pairSources() []source {
	return []source{{"data", "offline:", &c.Data}, {"mix.pairs", "", &c.Mix.Pairs}}
}

// path is what the key names, "" where its value names nothing.
func (s source) path() string {
	path, ok := strings.CutPrefix(*s.value, s.before)
	if !ok {
		return ""
	}
	return path
}

// study is the name in "study:<study>" or "study:<study>/<run>". It stays as it is in the configuration, and so in its hash:
// runs keep their names wherever their directory lies.
func (s source) study() (name string, ok bool) { return strings.CutPrefix(s.path(), "study:") }

func (s source) validate() error {
	if name, ok := s.study(); ok && (!filepath.IsLocal(name) || filepath.Clean(name) == ".") {
		return fmt.Errorf("%s: %s must name a study, or one run as study:<study>/<run>", s.key, *s.value)
	}
	return nil
}

// locate makes a path of what the key names: a study: is one beside the run's own, in out, and of any study its run of the
// seed is meant, or its only one.
func (s source) locate(out string, seed uint64) error {
	path := s.path()
	if path == "" {
		return nil
	}
	name, named := s.study()
	if named {
		path = filepath.Join(out, name)
	}
	runs, err := runsOf(path)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.key, *s.value, err)
	}
	if len(runs) == 1 {
		path = runs[0]
	} else if len(runs) > 1 {
		var same []string
		for _, run := range runs {
			c, err := runConfig(run)
			if err != nil {
				return err
			}
			if c.Seed == seed {
				same = append(same, run)
			}
		}
		if len(same) != 1 {
			return fmt.Errorf("%s: %s: %d of the study's %d runs have seed %d; name one run", s.key, *s.value, len(same), len(runs), seed)
		}
		path = same[0]
	}
	if named {
		m, err := ReadManifest(path)
		if _, stat := os.Stat(path); stat != nil {
			m.State = "missing"
		}
		if err == nil && m.State != Done {
			err = fmt.Errorf("%s: %s is not done (%s is %s); run its experiment first, with the same --out", s.key, *s.value, path, m.State)
		}
		if err != nil {
			return err
		}
	}
	*s.value = s.before + path
	return nil
}

// hash identifies the policy or the pairs that a located key names, whatever wrote them when.
func (s source) hash() (hash string, err error) {
	path := s.path()
	if s.before != "checkpoint:" {
		hash, err = hashPairs(bpo.GivenPairs(path))
	} else {
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			path = bpo.PolicyPath(path)
		}
		hash, err = hashFiles(path)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.key, err)
	}
	return hash, nil
}

// hashPairs identifies pairs by what is learned from them.
func hashPairs(pairs iter.Seq2[data.Preference, error]) (string, error) {
	h, n := sha256.New(), 0
	for p, err := range pairs {
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %q %q %q %v %v %v %v %v", p.Prompt, p.Messages, p.Chosen, p.Rejected, p.PromptIDs, p.ChosenIDs, p.RejectedIDs, p.ChosenLogps, p.RejectedLogps)
		for _, score := range []*float64{p.ChosenScore, p.RejectedScore} {
			if score == nil {
				fmt.Fprint(h, " -")
			} else {
				fmt.Fprintf(h, " %v", *score)
			}
		}
		fmt.Fprintln(h)
		n++
	}
	return fmt.Sprintf("%x (%d)", h.Sum(nil)[:8], n), nil
}

// InOrder reports a sweep that goes on from the study of a later one: run in this order, its trials would fail one by one.
func InOrder(sweeps [][]Trial) error {
	made := map[string]int{} // study → the first sweep that makes it
	for i, trials := range sweeps {
		for _, t := range trials {
			if _, ok := made[t.Config.Study]; !ok {
				made[t.Config.Study] = i
			}
		}
	}
	for i, trials := range sweeps {
		for _, study := range studiesNamed(trials) {
			if at, ok := made[study]; ok && at > i {
				return fmt.Errorf("study %s goes on from %s, whose file comes after its own; give that one first", trials[0].Config.Study, study)
			}
		}
	}
	return nil
}

// studiesNamed are the studies whose runs trials go on from.
func studiesNamed(trials []Trial) []string {
	var names []string
	for _, t := range trials {
		for _, s := range t.Config.sources() {
			if name, ok := s.study(); ok {
				study, _, _ := strings.Cut(filepath.ToSlash(filepath.Clean(name)), "/")
				names = append(names, study)
			}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}
