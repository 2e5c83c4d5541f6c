package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newSweepCmd() *cobra.Command {
	var e experimentFlags
	o := experiments.SweepOptions{Jobs: 1, Retry: true}
	cmd := &cobra.Command{
		Use:   "sweep experiment.yaml",
		Short: "Run every trial of an experiment that is missing or failed, and print the table of results",
		Long: `Run the trials of an experiment file: the product of sweep.grid times sweep.paired. A trial's run directory is
named by a hash of its configuration (--out/<study>/<hash>), so the same command continues a sweep that was
stopped, and an edited file runs only what is new. A failed trial does not stop the others; the exit status is
non-zero if any failed. The table, over seeds, is printed and written to results.md, results.csv and
results.json beside the runs; bpo report draws it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			trials, err := e.trials(cmd, args[0])
			if err != nil {
				return err
			}
			if o.Jobs < 1 {
				return fmt.Errorf("--jobs: %d is not at least 1", o.Jobs)
			}
			session := newSession(cmd)
			o.Run, o.UI = session.Execute, newProgress(cmd.ErrOrStderr())
			failed, err := experiments.Sweep(cmd.Context(), trials, o)
			if err != nil {
				return err
			}
			table, err := experiments.MakeTable(o.Out, trials)
			if err != nil {
				return err
			}
			study := experiments.StudyDir(o.Out, trials[0].Config)
			if err := table.Save(study); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout())
			if err := table.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\nwritten to %s; next: bpo report %s\n", study, study)
			if failed > 0 {
				return fmt.Errorf("%d trials failed; their manifest.json says why, and the same command runs them again", failed)
			}
			return nil
		},
	}
	e.add(cmd)
	cmd.Flags().StringVar(&o.Out, "out", "runs", "directory for runs")
	cmd.Flags().IntVar(&o.Jobs, "jobs", o.Jobs, "trials at a time (XLA uses all cores for one already)")
	cmd.Flags().BoolVar(&o.Retry, "retry", o.Retry, "run failed trials again; --retry=false leaves them")
	return cmd
}

// newSession is what the trials of this process share.
func newSession(cmd *cobra.Command) *experiments.Session {
	backend, _ := cmd.Flags().GetString("backend")
	return &experiments.Session{Offline: offline(cmd), Override: backend, Log: cmd.ErrOrStderr()}
}
