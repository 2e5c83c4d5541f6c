package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/experiments"
	"gobpo/models/tokenizer"
)

// modelFlags name a model for the verbs that take one.
type modelFlags struct{ path, dtype, chat string }

func (m *modelFlags) add(cmd *cobra.Command, chat string) {
	cmd.Flags().StringVarP(&m.path, "model", "m", "smollm2", "a GGUF file, a Hugging Face directory, smollm2, or a run directory (its trained policy)")
	cmd.Flags().StringVar(&m.dtype, "dtype", "float32", "of a model's weights: float32 or bfloat16; a run has its own")
	cmd.Flags().StringVar(&m.chat, "chat", chat, "auto: the model's chat template around text prompts; none: prompts as they are; a run has its own")
}

func (m *modelFlags) check(cmd *cobra.Command) error {
	if experiments.IsRun(m.path) {
		if err := only(cmd, "a model; a run has its own", "dtype", "chat"); err != nil {
			return err
		}
	}
	if m.dtype != "float32" && m.dtype != "bfloat16" {
		return fmt.Errorf("--dtype: %q is not float32 or bfloat16", m.dtype)
	}
	if m.chat != "auto" && m.chat != "none" {
		return fmt.Errorf("--chat: %q is not auto or none", m.chat)
	}
	return nil
}

func newTokenizeCmd() *cobra.Command {
	var m modelFlags
	var plain, specials bool
	cmd := &cobra.Command{
		Use:   "tokenize [file.jsonl]",
		Short: "Turn texts into token ids, and ids into texts",
		Long: `Read JSONL from a file or standard input and write JSONL. A line {"text": "…"} gives its ids, a line
{"ids": […]} its text; both come back as {"ids": […], "text": "…"}. Errors name the file and line.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := m.check(cmd); err != nil {
				return err
			}
			p, err := newSession(cmd).OpenPolicy(cmd.Context(), m.path, m.dtype, m.chat)
			if err != nil {
				return err
			}
			t, out := p.Model.Tokenizer, json.NewEncoder(cmd.OutOrStdout())
			out.SetEscapeHTML(false)
			for l, err := range lines(cmd, inputArg(args)) {
				if err != nil {
					return err
				}
				row, err := tokenizeLine(t, l, plain, specials)
				if err == nil {
					err = out.Encode(row)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	m.add(cmd, "none")
	cmd.Flags().BoolVar(&plain, "plain", false, "each line is a text, not JSON")
	cmd.Flags().BoolVar(&specials, "specials", false, "special tokens spelled out in a text become those tokens, and show in texts made of ids")
	return cmd
}

type tokenizedRow struct {
	IDs  []int32 `json:"ids"`
	Text string  `json:"text"`
}

func tokenizeLine(t *tokenizer.Tokenizer, l line, plain, specials bool) (tokenizedRow, error) {
	var in struct {
		Text *string `json:"text"`
		IDs  []int32 `json:"ids"`
	}
	if plain {
		text := string(l.raw)
		in.Text = &text
	} else if err := l.decode(&in); err != nil {
		return tokenizedRow{}, err
	}
	switch {
	case (in.Text == nil) == (in.IDs == nil):
		return tokenizedRow{}, fmt.Errorf("%s: want either text or ids", l.at)
	case in.Text != nil && specials:
		return tokenizedRow{t.Encode(*in.Text), *in.Text}, nil
	case in.Text != nil:
		return tokenizedRow{t.EncodePlain(*in.Text), *in.Text}, nil
	}
	if err := checkIDs(t, in.IDs); err != nil {
		return tokenizedRow{}, fmt.Errorf("%s: %w", l.at, err)
	}
	if specials {
		return tokenizedRow{in.IDs, t.DecodeRaw(in.IDs)}, nil
	}
	return tokenizedRow{in.IDs, t.Decode(in.IDs)}, nil
}

// checkIDs refuses ids that the vocabulary does not have.
func checkIDs(t *tokenizer.Tokenizer, ids []int32) error {
	for _, id := range ids {
		if id < 0 || int(id) >= t.VocabSize() {
			return fmt.Errorf("token id %d is not in the vocabulary of %d", id, t.VocabSize())
		}
	}
	return nil
}
