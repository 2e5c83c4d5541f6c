package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newSweepCmd() *cobra.Command {
	var e experimentFlags
	var slurm slurmFlags
	o := experiments.SweepOptions{Jobs: 1, Retry: true}
	launcher, status := "local", false
	cmd := &cobra.Command{
		Use:   "sweep experiment.yaml...",
		Short: "Run every trial of an experiment that is missing or failed, and print the table of results",
		Long: `Run the trials of an experiment file: the product of sweep.grid times sweep.paired. A trial's run directory is
named by a hash of its configuration (--out/<study>/<hash>), so the same command continues a sweep that was
stopped, and an edited file runs only what is new. Several files run one after the other, so that one may go on from what an
earlier one made (study:<study> in start, reference, data or mix.pairs); each has a study of its own. A failed trial does not stop the others; the exit status is
non-zero if any failed. The table, over seeds, is printed and written to results.md, results.tex (for
a paper), results.csv and results.json beside the runs; bpo report draws it.

--launcher slurm submits the trials as one array job, a trial a task, and ends; docs/slurm.md says what happens then. --status
runs and writes nothing, and shows the state of every trial, wherever it runs.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Jobs < 1 {
				return fmt.Errorf("--jobs: %d is not at least 1", o.Jobs)
			}
			if launcher != "local" && launcher != "slurm" {
				return fmt.Errorf("--launcher: %q is not local or slurm", launcher)
			}
			if err := slurm.misplaced(cmd); launcher == "local" && err != nil {
				return err
			}
			sweeps := make([][]experiments.Trial, len(args))
			for i, path := range args { // all of them first: a mistake in the last file should not cost the first one's hours
				var err error
				if sweeps[i], err = e.trials(cmd, path); err != nil {
					return err
				}
			}
			if err := experiments.InOrder(sweeps); err != nil {
				return err
			}
			if !status {
				if err := experiments.OneTable(args, sweeps); err != nil {
					return err
				}
				if err := experiments.Ready(args, sweeps, o); err != nil {
					return err
				}
			}
			o.Run = newSession(cmd).Execute
			failed := 0
			for _, trials := range sweeps {
				n, err := 0, error(nil)
				switch {
				case status:
					err = sweepStatus(cmd, trials, o.Out)
				case launcher == "slurm":
					err = submitSweep(cmd, trials, slurm.options(cmd, o))
				default:
					n, err = runSweep(cmd, trials, o)
				}
				if err != nil {
					return err
				}
				failed += n
			}
			if failed > 0 {
				return fmt.Errorf("%d trials failed; their manifest.json says why, and the same command runs them again", failed)
			}
			return nil
		},
	}
	e.add(cmd)
	cmd.Flags().StringVar(&o.Out, "out", "runs", "directory for runs")
	cmd.Flags().IntVar(&o.Jobs, "jobs", o.Jobs, "trials at a time (XLA uses all cores for one already); with slurm, tasks at a time, by default all")
	cmd.Flags().BoolVar(&o.Retry, "retry", o.Retry, "run failed trials again; --retry=false leaves them")
	cmd.Flags().StringVar(&launcher, "launcher", launcher, "local runs the trials here; slurm submits them as an array job and ends")
	cmd.Flags().BoolVar(&status, "status", false, "run and write nothing; show the state of every trial")
	slurm.add(cmd)
	return cmd
}

// runSweep runs a sweep's trials here, prints its table and returns how many failed.
func runSweep(cmd *cobra.Command, trials []experiments.Trial, o experiments.SweepOptions) (failed int, err error) {
	o.UI = newProgress(cmd.ErrOrStderr())
	if failed, err = experiments.Sweep(cmd.Context(), trials, o); err != nil {
		return failed, err
	}
	return failed, printTable(cmd, o.Out, trials)
}

// printTable gathers a sweep's results, saves them beside its runs and prints them.
func printTable(cmd *cobra.Command, out string, trials []experiments.Trial) error {
	table, err := experiments.SaveTable(out, trials, func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
	})
	if err != nil {
		return err
	}
	study := experiments.StudyDir(out, trials[0].Config)
	fmt.Fprintln(cmd.OutOrStdout())
	if err := table.Print(cmd.OutOrStdout()); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "\nwritten to %s; next: bpo report %s\n", study, study)
	return nil
}

// newSession is what the trials of this process share.
func newSession(cmd *cobra.Command) *experiments.Session {
	backend, _ := cmd.Flags().GetString("backend")
	return &experiments.Session{Offline: offline(cmd), Override: backend, Log: cmd.ErrOrStderr()}
}
