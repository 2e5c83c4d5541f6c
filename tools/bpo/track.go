package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

func newTrackCmd() *cobra.Command {
	var o experiments.TrackConfig
	cmd := &cobra.Command{
		Use:   "track runs/<study>",
		Short: "Send runs to MLflow or write them for Weights & Biases, what is missing there",
		Long: `Bring the trackers of a study's runs, or of one run, up to what their directories hold: a server that was down, or runs
that were made without a tracker. The trackers are those of the runs' configurations (track.mlflow, track.wandb), or those of
the flags. MLflow gets the steps, parameters and results that it lacks. The files for wandb sync are written anew. Runs at work are
left to their own process. MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, say who you are.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return experiments.Track(cmd.Context(), args[0], o, func(format string, args ...any) {
				fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
			})
		},
	}
	cmd.Flags().StringVar(&o.MLflow, "mlflow", "", "address of a tracking server, instead of the configurations'")
	cmd.Flags().StringVar(&o.WandB, "wandb", "", "offline: write files for wandb sync")
	return cmd
}
