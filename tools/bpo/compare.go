package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newCompareCmd() *cobra.Command {
	var baseline string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare runs/<study>",
		Short: "Set the arms of a sweep against one of them: paired differences, intervals, tests",
		Long: `Compare every arm of a finished sweep with a baseline, paired by seed and prompt: the difference of win rates, its
intervals over prompts and over seeds, and an exact test with Holm's correction.`,
		Example: `  bpo compare runs/quickstart --baseline "loss.beta=0.1 reference=sft refresh=1"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			against, all, err := experiments.CompareArms(args[0], baseline)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Against string                   `json:"against"`
					Arms    []experiments.Comparison `json:"arms"`
				}{against, all})
			}
			return experiments.PrintComparisons(cmd.OutOrStdout(), against, all)
		},
	}
	addBaseline(cmd, &baseline)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func addBaseline(cmd *cobra.Command, baseline *string) {
	cmd.Flags().StringVar(baseline, "baseline", "", "settings of the arm to compare with (default: the first)")
}
