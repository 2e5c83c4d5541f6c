package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newReportCmd() *cobra.Command {
	var baseline string
	cmd := &cobra.Command{
		Use:   "report runs/<study>...",
		Short: "Draw a study: one HTML page that needs nothing but itself, and figures as PNG and SVG",
		Long: `Draw what stands in a study's directory: win rate over F for each β and arm with intervals, win rate over KL to the
start policy, training curves, the table, the arms' differences from one of them (as bpo compare), and outputs side by side. Writes report.html and figures/ there.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && baseline != "" {
				return errors.New("--baseline: names an arm of one study; give one")
			}
			for _, study := range args {
				path, err := experiments.Report(study, baseline)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
	addBaseline(cmd, &baseline)
	return cmd
}
