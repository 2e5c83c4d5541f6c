package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newValidateCmd() *cobra.Command {
	var e experimentFlags
	cmd := &cobra.Command{
		Use:   "validate experiment.yaml",
		Short: "Check an experiment file without running anything",
		Long: `Check an experiment file: unknown keys, wrong types, impossible combinations, files and directories that are not
here, for every trial of its sweep. Says how the steps fall into data-collection phases.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			trials, err := e.trials(cmd, args[0])
			if err == nil {
				err = experiments.CheckPaths(args[0], trials, "")
			}
			if err != nil {
				return err
			}
			runs, phases := map[string]bool{}, map[string]bool{}
			out := cmd.OutOrStdout()
			for _, t := range trials {
				runs[t.Hash] = true
			}
			fmt.Fprintf(out, "%s: valid, %s\n", args[0], trialCount(len(trials), len(runs)))
			for _, t := range trials {
				if line := t.Config.PhasesLine(); !phases[line] {
					phases[line] = true
					fmt.Fprintf(out, "  %s\n", line)
				}
			}
			return nil
		},
	}
	e.add(cmd)
	return cmd
}

// trialCount says "12 trials (10 runs: the others are the same computation in other words)".
func trialCount(trials, runs int) string {
	switch {
	case trials == 1:
		return "1 trial"
	case trials == runs:
		return fmt.Sprintf("%d trials", trials)
	}
	return fmt.Sprintf("%d trials in %d runs (the others are the same computation in other words)", trials, runs)
}
