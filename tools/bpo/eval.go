package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/experiments"
)

func newEvalCmd() *cobra.Command {
	var references, prompts, out, preferences string
	var annotators, files []string
	var useEval, asJSON bool
	n, bootstrap := 0, 1000
	cmd := &cobra.Command{
		Use:   "eval runs/<study>/<run> | outputs.jsonl | outputs.parquet | outputs.txt ...",
		Short: "Win rate against reference texts, with its interval, lengths, diversity and KL",
		Long: `Measure a run's policy again, perhaps with another evaluator than its annotator or on other prompts; or judge outputs
that are already there: completions with references in them (as bpo sample writes), or with --references a prompt
file whose rows run in parallel with the outputs (a text file has one output a line).

Several outputs of the same prompts (runs count as what they were measured by) are also judged against each other. Several
annotators are held to each other, or with --preferences to labels. See docs/evaluation.md.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			evaluators := make([]annotate.Config, len(annotators))
			for i, text := range annotators {
				if err := parseAnnotator(text, &evaluators[i]); err != nil {
					return err
				}
			}
			args = append(args, files...)
			if bootstrap < 1 {
				return fmt.Errorf("--bootstrap: %d is not at least 1", bootstrap)
			}
			if err := checkOut(out); err != nil {
				return err
			}
			switch {
			case preferences != "" && len(args) > 0:
				return fmt.Errorf("--preferences: evaluators are held to labels or judge outputs, not both; leave out %s", args[0])
			case preferences != "":
				if err := only(cmd, "a run or outputs", "out", "dev", "n", "prompts", "references"); err != nil {
					return err
				}
				return evalPairs(cmd, preferences, evaluators, bootstrap, asJSON)
			case len(args) == 0:
				return fmt.Errorf("name a run or outputs to evaluate, or --preferences")
			case len(args) > 1 || len(evaluators) > 1:
				if err := only(cmd, "one run or one file of outputs, and one annotator", "out", "dev", "n", "prompts"); err != nil {
					return err
				}
				return evalMany(cmd, args, references, evaluators, bootstrap, asJSON)
			}
			var a annotate.Config
			if len(evaluators) > 0 {
				a = evaluators[0]
			}
			var e experiments.Evaluation
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if info.IsDir() {
				if err := only(cmd, ownReferences, "references"); err != nil {
					return err
				}
				e, err = newSession(cmd).EvaluateRun(cmd.Context(), args[0], useEval, func(c *experiments.Config) error {
					if a.Name != "" {
						c.Eval.Annotator = a
					}
					if cmd.Flags().Changed("n") {
						c.Eval.N = n
					}
					if prompts != "" {
						c.Prompts.Test = prompts
					}
					if cmd.Flags().Changed("bootstrap") {
						c.Eval.Bootstrap = bootstrap
					}
					return nil
				})
			} else {
				if err := only(cmd, "a run", "dev", "n", "prompts"); err != nil {
					return err
				}
				if a.Name == "" {
					a.Name = "rouge_l"
				}
				var rows []data.Completion
				if rows, err = outputsFrom(args[0], references); err == nil {
					e, err = newSession(cmd).CompareTexts(cmd.Context(), rows, experiments.EvalConfig{Annotator: a, Bootstrap: bootstrap})
				}
			}
			if err != nil {
				return err
			}
			if out != "" {
				if err := writeCompletions(cmd, out, e.Outputs); err != nil {
					return err
				}
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(e.Metrics)
			}
			printMetrics(cmd.OutOrStdout(), nil, e.Metrics)
			e.PrintHints(cmd.OutOrStdout())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&annotators, "annotator", nil, `the evaluator: a name, or YAML as {name: length, max: 30} (default: the eval.annotator of a run, or of runs that agree; rouge_l for outputs); repeatable`)
	f.StringArrayVar(&files, "outputs", nil, "outputs to evaluate, as the arguments are; repeatable")
	f.StringVar(&preferences, "preferences", "", "hold the annotators to the labels of these pairs")
	f.StringVar(&references, "references", "", "prompt file with a reference a row, for outputs that have none in them")
	f.StringVar(&prompts, "prompts", "", "a run is measured on these prompts instead of its own")
	f.BoolVar(&useEval, "dev", false, "a run is measured on its eval prompts, not its test prompts")
	f.IntVarP(&n, "n", "n", n, "prompts; 0 is all (default: the run's eval.n)")
	f.IntVar(&bootstrap, "bootstrap", bootstrap, "resamples for the interval")
	f.StringVarP(&out, "out", "o", "", "write the outputs with their scores, as .parquet or .jsonl")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("prompts", "dev")
	return cmd
}

// parseAnnotator reads a name or a YAML mapping.
func parseAnnotator(s string, a *annotate.Config) error {
	if len(s) > 0 && s[0] != '{' {
		a.Name = s
		return nil
	}
	if err := yaml.Unmarshal([]byte(s), a); err != nil {
		return fmt.Errorf("--annotator: %w", err)
	}
	if a.Name == "" { // it would pass for the default
		return fmt.Errorf("--annotator: %q names no annotator", s)
	}
	return nil
}
