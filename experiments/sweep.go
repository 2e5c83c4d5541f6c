package experiments

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Setting is one swept key and the value a trial has for it.
type Setting struct {
	Key   string
	Value any
}

// Trial is one point of a sweep: a complete configuration without a sweep block. Points that amount to the same
// computation share a Hash, and so a run.
type Trial struct {
	Config Config
	Hash   string
	Point  []Setting // in the order of the sweep's keys; empty where nothing is swept
}

// String is the point in a few words: "loss.beta=0.1 refresh=2 seed=0".
func (t Trial) String() string {
	if len(t.Point) == 0 {
		return "trial " + t.Hash
	}
	words := make([]string, len(t.Point))
	for i, s := range t.Point {
		words[i] = s.Key + "=" + showValue(s.Value)
	}
	return strings.Join(words, " ")
}

// wrong is an error of the trial, with its file and its point.
func (t Trial) wrong(file string, err error) error {
	if len(t.Point) > 0 {
		return fmt.Errorf("%s: at %s: %w", file, t, err)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// showValue writes a value of a configuration on one line, without spaces: a section that has a name as "ipo(beta=1)".
func showValue(v any) string {
	switch v := v.(type) {
	case map[string]any, []any:
		if section, ok := v.(map[string]any); ok && section["name"] != nil {
			var rest []string
			for _, k := range slices.Sorted(maps.Keys(section)) {
				if k != "name" {
					rest = append(rest, k+"="+showValue(section[k]))
				}
			}
			return strings.TrimSuffix(fmt.Sprintf("%v(%s)", section["name"], strings.Join(rest, ",")), "()")
		}
		if raw, err := json.Marshal(v); err == nil {
			return string(raw)
		}
	}
	return fmt.Sprint(v)
}

// Base is the configuration without any swept value.
func (f *File) Base() (Config, error) {
	c, err := typed(f.tree)
	if err != nil {
		return c, fmt.Errorf("%s: %w", f.Path, err)
	}
	return c, nil
}

// Trials expands the sweep into validated trials: the product of the grid's lists times the paired settings, seeds
// outermost, so that a sweep cut short has the whole grid for its first seeds. Without a sweep it is one trial.
func (f *File) Trials() ([]Trial, error) {
	base, err := f.Base()
	if err != nil {
		return nil, err
	}
	points, err := base.Sweep.points()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	trials := make([]Trial, 0, len(points))
	for _, point := range points {
		t := clone(f.tree).(tree)
		delete(t, "sweep")
		for _, s := range point {
			f.schema.put(t, splitKey(s.Key), s.Value)
		}
		trial := Trial{Point: point}
		if trial.Config, err = typed(t); err == nil {
			err = trial.Config.Validate()
		}
		if err == nil {
			trial.Hash, err = trial.Config.Hash()
		}
		if err != nil {
			return nil, trial.wrong(f.Path, err)
		}
		trials = append(trials, trial)
	}
	return trials, nil
}

// keys are the swept keys in order: seed first, then the paired ones, then the grid's.
func (s SweepConfig) keys() []string {
	grid := slices.Sorted(maps.Keys(s.Grid))
	var keys []string
	for _, p := range s.Paired {
		for _, k := range slices.Sorted(maps.Keys(p)) {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	keys = append(keys, grid...)
	if i := slices.Index(keys, "seed"); i > 0 {
		keys = slices.Insert(slices.Delete(keys, i, i+1), 0, "seed")
	}
	return keys
}

const maxTrials = 10000

// points enumerates the settings of every trial.
func (s SweepConfig) points() ([][]Setting, error) {
	for i, p := range s.Paired {
		for k := range p {
			if _, both := s.Grid[k]; both {
				return nil, fmt.Errorf("sweep.paired[%d]: %s is also in sweep.grid", i, k)
			}
		}
	}
	product := []map[string]any{{}}
	multiply := func(options []map[string]any) error {
		if len(product)*len(options) > maxTrials {
			return fmt.Errorf("sweep: more than %d trials", maxTrials)
		}
		var next []map[string]any
		for _, have := range product {
			for _, option := range options {
				m := maps.Clone(have)
				maps.Copy(m, option)
				next = append(next, m)
			}
		}
		product = next
		return nil
	}
	keys, pairedDone := s.keys(), len(s.Paired) == 0
	for _, k := range keys {
		var options []map[string]any
		if values, ok := s.Grid[k]; ok {
			for _, v := range values {
				options = append(options, map[string]any{k: v})
			}
		} else if !pairedDone {
			options, pairedDone = s.Paired, true
		} else {
			continue
		}
		if err := multiply(options); err != nil {
			return nil, err
		}
	}
	points := make([][]Setting, len(product))
	for i, m := range product {
		for _, k := range keys {
			if v, ok := m[k]; ok {
				points[i] = append(points[i], Setting{k, v})
			}
		}
	}
	return points, nil
}
