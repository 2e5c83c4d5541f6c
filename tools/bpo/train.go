package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newTrainCmd() *cobra.Command {
	var e experimentFlags
	var out string
	cmd := &cobra.Command{
		Use:   "train experiment.yaml",
		Short: "Run one trial; killed at any moment, the same command continues it",
		Long: `Run exactly one trial. The file has no sweep, or --set pins every swept key. The run directory is
--out/<study>/<hash>, as in a sweep: config.yaml, manifest.json, metrics.jsonl, pairs/, samples/, checkpoints/,
policy.safetensors and results.json. A killed run continues from its last checkpoint, with the same numbers as an
uninterrupted one on the same backend.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			trials, err := e.trials(cmd, args[0])
			if err != nil {
				return err
			}
			if len(trials) != 1 {
				return fmt.Errorf("%s: the sweep has %d trials; pin its keys with --set (such as %s), or use bpo sweep", args[0], len(trials), pins(trials[0]))
			}
			if err := experiments.Ready(args, [][]experiments.Trial{trials}, experiments.SweepOptions{Out: out, Retry: true}); err != nil {
				return err
			}
			t := trials[0]
			fmt.Fprintf(cmd.ErrOrStderr(), "%s, loss %s\n%s\n", t.Config.Method(), t.Config.Loss, t.Config.PhasesLine())
			ui := newProgress(cmd.ErrOrStderr())
			defer ui.Close()
			dir, r, err := experiments.RunOne(cmd.Context(), t, out, newSession(cmd).Execute, ui.Trial(t.String()))
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%s\n", dir)
			printMetrics(w, r.Initial, r.Final)
			return nil
		},
	}
	e.add(cmd)
	cmd.Flags().StringVar(&out, "out", "runs", "directory for runs")
	return cmd
}

// pins is the --set line that picks the first trial.
func pins(t experiments.Trial) string {
	line := ""
	for _, s := range t.Point {
		line += fmt.Sprintf(" --set %s=%v", s.Key, s.Value)
	}
	return line[min(1, len(line)):]
}

// sortedKeys of metrics.
func sortedKeys(m map[string]float64) []string { return slices.Sorted(maps.Keys(m)) }
