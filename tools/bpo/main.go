// Command bpo trains, sweeps and evaluates preference-optimised language models.
//
// Every verb is one file of this directory. An error is one readable line on standard error and a non-zero
// exit status; -v adds the trace where graph code failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gobpo/experiments"
	"gobpo/internal/cmem"
	"gobpo/models"
)

func main() {
	cmem.Start()
	// A second signal kills at once: the first cancels the context, and stop restores the default action.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "bpo",
		Short: "Preference optimisation with the behaviour policy as reference (BPO), and its relatives",
		Long: `bpo trains language models from preferences. Three words of a configuration say which method it is:
who samples (behavior, refreshed F times), whom the loss stays close to (reference), and where the pairs
come from (data). bpo sweep runs the grid over them; bpo report draws it.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.String("backend", "", "auto, xla, xla:cpu, xla:cuda, xla:/path/plugin.so or go (default: the configuration's, else $GOMLX_BACKEND, else the best found)")
	f.Bool("offline", false, "never download anything")
	f.BoolP("verbose", "v", false, "list the graphs compiled, and trace a failure inside graph code")
	root.AddCommand(
		newValidateCmd(), newShowCmd(), newTrainCmd(), newSweepCmd(), newWatchCmd(), newReportCmd(), newCompareCmd(), newTrackCmd(), newEvalCmd(),
		newSampleCmd(), newServeCmd(), newTokenizeCmd(), newLogprobsCmd(), newLossesCmd(), newOptimizersCmd(), newAnnotatorsCmd(),
		newRewardCmd(), newMergeCmd(), newExportCmd(), newDoctorCmd(), newFetchCmd(), newDataCmd(), newSlurmTaskCmd(),
	)
	return root
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCmd()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := experiments.Guard(func() error { return root.ExecuteContext(ctx) })
	verbose, _ := root.PersistentFlags().GetBool("verbose")
	if verbose {
		printCompilations(stderr)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "bpo: "+message(ctx, err, verbose))
	return 1
}

// printCompilations lists every graph that was compiled, the input shapes it was compiled for, and the seconds it took.
func printCompilations(w io.Writer) {
	total, all := 0.0, models.Compilations()
	for _, c := range all {
		fmt.Fprintf(w, "compiled %-12s %6.2f s  %s\n", c.Name, c.Seconds, c.Shapes)
		total += c.Seconds
	}
	if len(all) > 0 {
		fmt.Fprintf(w, "compiled %d graphs in %.1f s\n", len(all), total)
	}
}

// message turns an error into its line for people; with verbose the trace of a recovered panic follows.
func message(ctx context.Context, err error, verbose bool) string {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return "stopped; the same command continues where this left off"
	}
	line := oneLine(err)
	var p *experiments.PanicError
	if errors.As(err, &p) {
		if verbose {
			return line + "\n" + p.Trace()
		}
		return line + " (run again with -v for the trace)"
	}
	return line
}
