package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gobpo/experiments/serve"
)

func newServeCmd() *cobra.Command {
	var m modelFlags
	addr, name := "127.0.0.1:8000", ""
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer OpenAI's API with a run's policy or a model",
		Long: `Serve --model (a run directory, a GGUF file, a Hugging Face directory or smollm2) over HTTP as OpenAI's API has it:
/v1/models, /v1/chat/completions and /v1/completions, with streams, n, seed, stop, temperature, top_p and the sampled
tokens' log-probs. It has no authentication and is meant for this machine, for instance as a judge (docs/judge.md).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := m.check(cmd); err != nil {
				return err
			}
			p, err := newSession(cmd).OpenPolicy(cmd.Context(), m.path, m.dtype, m.chat)
			if err != nil {
				return err
			}
			if name == "" {
				name = filepath.Base(m.path)
			}
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return fmt.Errorf("--addr: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "serving %s at http://%s/v1\n", name, l.Addr())
			s := &http.Server{Handler: serve.New(p, name), ReadHeaderTimeout: 10 * time.Second}
			done := make(chan struct{})
			context.AfterFunc(cmd.Context(), func() {
				defer close(done)
				patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_ = s.Shutdown(patience)
			})
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			<-done // with the answers that were under way
			return nil
		},
	}
	m.add(cmd, "auto")
	cmd.Flags().StringVar(&addr, "addr", addr, "host and port; port 0 takes a free one")
	cmd.Flags().StringVar(&name, "name", "", "the model's name (default: the last part of its path)")
	return cmd
}
