package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
)

func newLossesCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "losses",
		Short: "List the losses that loss.name can name",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			for _, l := range bpo.Losses() {
				fmt.Fprintf(out, "%s (length: %s)\n    %s\n", l.Name, l.Length, l.Doc)
				for _, p := range l.Params {
					fmt.Fprintf(out, "    loss.params.%s = %g: %s\n", p.Name, p.Default, strings.TrimSuffix(p.Doc+", "+p.Range(), ", "))
				}
			}
			return nil
		},
	}
}

func newOptimizersCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "optimizers",
		Short: "List the optimizers that optimizer.name can name",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			for _, o := range bpo.Optimizers() {
				fmt.Fprintf(out, "%s\n    %s\n", o.Name, o.Doc)
				for _, p := range o.Params {
					fmt.Fprintf(out, "    optimizer.params.%s = %g: %s\n", p.Name, p.Default, p.Doc)
				}
			}
			return nil
		},
	}
}

func newAnnotatorsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "annotators",
		Short: "List the annotators that annotator.name can name",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, "gold\n    The exactly known reward of the task named in task.name.")
			for _, k := range annotate.Kinds() {
				if k.Name == "gold" {
					continue
				}
				fmt.Fprintf(out, "%s\n    %s\n", k.Name, k.Doc)
				for _, p := range k.Params {
					fmt.Fprintf(out, "    %s = %v: %s\n", p.Name, p.Default, p.Doc)
				}
			}
			fmt.Fprintln(out, "\nnoise (0..0.5), temperature: flip labels or draw them by Bradley–Terry, beside any of them")
			return nil
		},
	}
}
