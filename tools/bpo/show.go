package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gobpo/bpo"
	"gobpo/experiments"
)

func newShowCmd() *cobra.Command {
	var e experimentFlags
	cmd := &cobra.Command{
		Use:   "show experiment.yaml",
		Short: "Print what an experiment amounts to: resolved configuration, methods, trials, cost",
		Long: `Print the resolved configuration (every key, with its default where the file says nothing), the named method that
behavior, reference and data amount to, the trials of the sweep with their run names, what they cost in tokens and
annotations, and the memory that each stage is estimated to need. Nothing runs.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := e.load(cmd, args[0])
			if err != nil {
				return err
			}
			base, err := f.Base()
			if err != nil {
				return err
			}
			trials, err := f.Trials()
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), base, trials)
		},
	}
	e.add(cmd)
	return cmd
}

func show(out io.Writer, base experiments.Config, trials []experiments.Trial) error {
	raw, err := base.YAML()
	if err != nil {
		return err
	}
	runs := map[string]bool{}
	var total experiments.Cost
	for _, t := range trials {
		if !runs[t.Hash] {
			total.Add(t.Config.Cost())
		}
		runs[t.Hash] = true
	}
	fmt.Fprintf(out, "# resolved configuration\n%s\n# %s\n", raw, trialCount(len(trials), len(runs)))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tmethod\tK\tphases\tsettings")
	for _, t := range trials {
		settings := t.String()
		if len(t.Point) == 0 {
			settings = ""
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", t.Hash, t.Config.Method(), t.Config.K(), t.Config.Phases(), settings)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	seen := map[string]bool{}
	fmt.Fprintln(out, "\n# phases")
	for _, t := range trials {
		if line := t.Config.PhasesLine(); !seen[line] {
			seen[line] = true
			fmt.Fprintln(out, line)
		}
	}
	if err := showMemory(out, trials); err != nil {
		return err
	}
	if len(runs) > 1 {
		fmt.Fprintf(out, "\n# cost of one run, the first\n%s\n", trials[0].Config.Cost())
	}
	_, err = fmt.Fprintf(out, "\n# cost in all\n%s\n", total)
	return err
}

// showMemory prints a table of the stages of each trial; trials of equal needs are shown once. A model that isn't here
// yet is a line that says so.
func showMemory(out io.Writer, trials []experiments.Trial) error {
	fmt.Fprintln(out, "\n# memory, estimated at most")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "run\tstage\t%s\ttotal\n", strings.Join(bpo.MemoryParts, "\t"))
	seen := map[string]bool{}
	for _, t := range trials {
		stages, err := t.Config.Memory()
		if err != nil {
			_, err := fmt.Fprintf(out, "%v\n", err)
			return err
		}
		if key := fmt.Sprint(stages); seen[key] {
			continue
		} else {
			seen[key] = true
		}
		for _, s := range stages {
			fmt.Fprintf(w, "%s\t%s", t.Hash, s.Stage)
			for _, part := range bpo.MemoryParts {
				size := "–"
				if n := s.Bytes[part]; n > 0 {
					size = experiments.Size(n)
				}
				fmt.Fprintf(w, "\t%s", size)
			}
			fmt.Fprintf(w, "\t%s\n", experiments.Size(s.Total()))
		}
	}
	return w.Flush()
}
