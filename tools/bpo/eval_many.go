package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/experiments"
)

// evalMany judges several outputs, with one evaluator or several.
func evalMany(cmd *cobra.Command, paths []string, references string, evaluators []annotate.Config, bootstrap int, asJSON bool) error {
	var all []experiments.Outputs
	for i, path := range paths {
		o, err := outputsAt(path, references)
		if err != nil {
			return err
		}
		o.Name = shortName(paths, i)
		all = append(all, o)
	}
	if len(evaluators) == 0 {
		c, why := experiments.DefaultEvaluator(all)
		if why != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "judged by %s: %s; choose with --annotator\n", c.Name, why)
		}
		evaluators = []annotate.Config{c}
	}
	s := newSession(cmd)
	var by []experiments.Judgments
	for _, c := range evaluators {
		j, err := s.Judge(cmd.Context(), all, experiments.EvalConfig{Annotator: c, Bootstrap: bootstrap})
		if err != nil {
			return err
		}
		by = append(by, j)
	}
	agreements := experiments.Agreements(all, by, bootstrap)
	w := cmd.OutOrStdout()
	if asJSON {
		type judged struct {
			Evaluator  string                        `json:"evaluator"`
			Outputs    map[string]map[string]float64 `json:"outputs"`
			HeadToHead []experiments.HeadToHead      `json:"head_to_head"`
		}
		var out []judged
		for _, j := range by {
			one := judged{j.Evaluator, map[string]map[string]float64{}, j.HeadToHead}
			for i, e := range j.Against {
				one.Outputs[all[i].Name] = e.Metrics
			}
			out = append(out, one)
		}
		return json.NewEncoder(w).Encode(map[string]any{"evaluators": out, "agreements": agreements})
	}
	for i, j := range by {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := experiments.PrintJudgments(w, all, j); err != nil {
			return err
		}
	}
	return experiments.PrintAgreements(w, agreements)
}

// ownReferences says what --references is for: a run is measured by the prompts of its configuration.
const ownReferences = "outputs, of which a run makes its own"

// outputsAt reads a file of outputs, or those that a run was measured by.
func outputsAt(path, references string) (experiments.Outputs, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if references != "" {
			return experiments.Outputs{}, fmt.Errorf("--references: only with %s", ownReferences)
		}
		return experiments.RunOutputs(path)
	}
	rows, err := outputsFrom(path, references)
	return experiments.Outputs{Rows: rows}, err
}

// shortName is the end of a path that tells it from the others.
func shortName(paths []string, i int) string {
	parts := strings.Split(filepath.ToSlash(filepath.Clean(paths[i])), "/")
	for n := 1; n < len(parts); n++ {
		name, unique := strings.Join(parts[len(parts)-n:], "/"), true
		for j, other := range paths {
			other = filepath.ToSlash(filepath.Clean(other))
			if j != i && (other == name || strings.HasSuffix(other, "/"+name)) {
				unique = false
			}
		}
		if unique {
			return name
		}
	}
	return paths[i]
}

// evalPairs holds evaluators to labels.
func evalPairs(cmd *cobra.Command, path string, evaluators []annotate.Config, bootstrap int, asJSON bool) error {
	if len(evaluators) == 0 {
		return fmt.Errorf("--preferences: name the evaluators with --annotator")
	}
	pairs, err := data.LoadPreferences(path)
	if err != nil {
		return err
	}
	all, err := newSession(cmd).JudgePairs(cmd.Context(), pairs, evaluators, bootstrap)
	if err != nil {
		return err
	}
	agreements := experiments.PairAgreements(all, bootstrap)
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"accuracies": all, "agreements": agreements})
	}
	if err := experiments.PrintAccuracies(cmd.OutOrStdout(), all, len(pairs)); err != nil {
		return err
	}
	return experiments.PrintAgreements(cmd.OutOrStdout(), agreements)
}
