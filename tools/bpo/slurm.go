package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

// slurmFlags are the flags of bpo sweep for --launcher slurm.
type slurmFlags struct {
	given map[string]*string // by the name of bpo's flag
	extra []string
}

// sbatchNames gives the sbatch option for each flag.
var sbatchNames = []struct{ flag, option, usage string }{
	{"time", "time", "a task's time limit, as 4:00:00; at it a task saves a checkpoint and goes back into the queue"},
	{"partition", "partition", "partition"},
	{"gres", "gres", "generic resources a task, as gpu:1"},
	{"gpus", "gpus", "GPUs a task, as 1 or a100:1"},
	{"cpus", "cpus-per-task", "CPUs a task"},
	{"mem", "mem", "memory a task, as 32G"},
}

func (s *slurmFlags) add(cmd *cobra.Command) {
	s.given = map[string]*string{}
	for _, n := range sbatchNames {
		s.given[n.flag] = cmd.Flags().String(n.flag, "", "slurm: "+n.usage)
	}
	cmd.Flags().StringArrayVar(&s.extra, "sbatch", nil, `slurm: more arguments of sbatch, split at spaces, as "--account=x --qos=long" (repeatable)`)
}

// options are what was asked for, for the launcher.
func (s *slurmFlags) options(cmd *cobra.Command, o experiments.SweepOptions) experiments.SlurmOptions {
	so := experiments.SlurmOptions{Out: o.Out, Retry: o.Retry}
	if cmd.Flags().Changed("jobs") { // its default is for one machine
		so.Jobs = o.Jobs
	}
	for _, n := range sbatchNames {
		if v := *s.given[n.flag]; v != "" {
			so.Args = append(so.Args, "--"+n.option+"="+v)
		}
	}
	for _, e := range s.extra {
		so.Args = append(so.Args, strings.Fields(e)...)
	}
	if backend, _ := cmd.Flags().GetString("backend"); backend != "" {
		so.Flags = append(so.Flags, "--backend="+backend)
	}
	for _, name := range []string{"offline", "verbose"} {
		if on, _ := cmd.Flags().GetBool(name); on {
			so.Flags = append(so.Flags, "--"+name)
		}
	}
	return so
}

// misplaced names a flag of Slurm's that was given to another launcher.
func (s *slurmFlags) misplaced(cmd *cobra.Command) error {
	for _, n := range append(sbatchNames, struct{ flag, option, usage string }{flag: "sbatch"}) {
		if cmd.Flags().Changed(n.flag) {
			return fmt.Errorf("--%s: only with --launcher slurm", n.flag)
		}
	}
	return nil
}

// submitSweep hands a sweep's trials to Slurm and says what became of them.
func submitSweep(cmd *cobra.Command, trials []experiments.Trial, o experiments.SlurmOptions) error {
	s, all, err := experiments.SubmitSlurm(cmd.Context(), trials, o)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	study := experiments.StudyDir(o.Out, trials[0].Config)
	fmt.Fprintf(w, "%s: %s\n", study, all)
	if s == nil {
		if all.Ended() {
			fmt.Fprintf(w, "nothing to submit; next: bpo report %s\n", study)
		} else {
			fmt.Fprintln(w, "nothing to submit: what is not done is at work or in the queue")
		}
		return nil
	}
	fmt.Fprintf(w, "submitted job %s, an array of %d tasks\n", s.Job, len(s.Tasks))
	if len(s.After) > 0 {
		fmt.Fprintf(w, "  after   %s, where studies that it goes on from are made\n", strings.Join(s.After, ", "))
	}
	fmt.Fprintf(w, "  look    the same command with --status; squeue -j %s; bpo watch %s\n", s.Job, study)
	fmt.Fprintf(w, "  logs    %s\n", s.Dir)
	fmt.Fprintf(w, "  stop    scancel %s\n", s.Job)
	return nil
}

// sweepStatus shows a sweep as its directory and Slurm have it, and writes nothing.
func sweepStatus(cmd *cobra.Command, trials []experiments.Trial, out string) error {
	all, asked, err := experiments.SweepStatus(cmd.Context(), trials, out)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if err := all.Print(w); err != nil {
		return err
	}
	study := experiments.StudyDir(out, trials[0].Config)
	fmt.Fprintf(w, "\n%s: %s\n", study, all)
	if asked != nil {
		fmt.Fprintf(w, "Slurm was not asked, so this is what the directory says: %s\n", oneLine(asked))
	}
	switch n := all.Count(); {
	case all.Ended():
		if n[experiments.Failed] > 0 {
			fmt.Fprintln(w, "bpo sweep runs the failed ones again")
		}
		fmt.Fprintf(w, "next: bpo report %s\n", study)
	case n[experiments.Lost]+n[experiments.Pending]+n[experiments.Failed] > 0:
		fmt.Fprintln(w, "bpo sweep, with the launcher you like, goes on with what is lost, failed or to do")
	}
	return nil
}

func newSlurmTaskCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "slurm-task runs/<study>/slurm/<n> [index]",
		Short:  "Run one task of an array job that bpo sweep --launcher slurm submitted",
		Hidden: true,
		Long: `Run one trial of a submission; the index is $SLURM_ARRAY_TASK_ID unless it is given. The array job's script does this. A
trial that is done is left alone; one that was interrupted goes on from its checkpoint. At SIGUSR1, which Slurm sends before
the time limit, it saves a checkpoint and puts itself back into the queue; at SIGTERM it saves one and ends.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			limited, stop := signal.NotifyContext(cmd.Context(), syscall.SIGUSR1)
			defer stop()
			text, job := os.Getenv("SLURM_ARRAY_TASK_ID"), os.Getenv("SLURM_JOB_ID")
			if array := os.Getenv("SLURM_ARRAY_JOB_ID"); array != "" && text != "" {
				job = array + "_" + text // the last task has the array's own number as SLURM_JOB_ID, which is all of its tasks
			}
			if len(args) == 2 {
				text = args[1]
			}
			index, err := strconv.Atoi(text)
			if err != nil {
				return fmt.Errorf("task %q is not a number; it comes from SLURM_ARRAY_TASK_ID, or is the second argument", text)
			}
			t, err := experiments.OpenSlurmTask(args[0], index)
			if err != nil {
				return err
			}
			log := cmd.ErrOrStderr()
			startLine(log, t)
			if m, err := experiments.ReadManifest(t.Dir()); err == nil && m.State == experiments.Done {
				fmt.Fprintln(log, "done already")
				return nil
			}
			ui := newProgress(log)
			defer ui.Close()
			err = t.Run(limited, newSession(cmd).Execute, ui.Trial(t.Trial.String()))
			switch {
			case err == nil:
				fmt.Fprintln(log, "done")
			case cmd.Context().Err() == nil && limited.Err() != nil:
				if job == "" {
					return errors.New("stopped at SIGUSR1; outside of Slurm there is no queue to go back into")
				}
				if err := t.Requeue(cmd.Context(), job); err != nil {
					return err
				}
				fmt.Fprintln(log, "stopped before the time limit, and requeued")
				return nil
			case cmd.Context().Err() != nil && errors.Is(err, context.Canceled):
				return errors.New("stopped; after a preemption Slurm starts it again, after scancel bpo sweep does")
			}
			return err
		},
	}
}

// startLine heads an attempt in the task's log, which later attempts go on with.
func startLine(w io.Writer, t *experiments.SlurmTask) {
	host, _ := os.Hostname()
	restart := os.Getenv("SLURM_RESTART_COUNT")
	if restart != "" {
		restart = ", restart " + restart
	}
	fmt.Fprintf(w, "task %s_%s on %s%s: %s in %s\n", os.Getenv("SLURM_ARRAY_JOB_ID"), os.Getenv("SLURM_ARRAY_TASK_ID"), host, restart, t.Trial, t.Dir())
}
