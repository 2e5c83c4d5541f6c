package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gobpo/data"
	"gobpo/experiments"
	"gobpo/models"
)

func newLogprobsCmd() *cobra.Command {
	var m modelFlags
	var eos bool
	batch := 8
	cmd := &cobra.Command{
		Use:   "logprobs [file.jsonl]",
		Short: "Score completions: per-token log-probabilities under a model or a trained policy",
		Long: `Read JSONL {"prompt": …, "completion": …} from a file or standard input; each of the two is a text, or a list of
token ids. Write JSONL {"prompt_ids", "completion_ids", "logprobs", "sum"}: natural logs, one a completion token.
Errors name the file and line.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := m.check(cmd); err != nil {
				return err
			}
			if batch < 1 {
				return fmt.Errorf("--batch: %d is not at least 1", batch)
			}
			p, err := newSession(cmd).OpenPolicy(cmd.Context(), m.path, m.dtype, m.chat)
			if err != nil {
				return err
			}
			s := scoreLines{p: p, eos: eos, batch: batch, out: json.NewEncoder(cmd.OutOrStdout())}
			for l, err := range lines(cmd, inputArg(args)) {
				if err == nil {
					err = s.add(cmd.Context(), l)
				}
				if err != nil { // the lines before it are not lost
					return errors.Join(s.flush(cmd.Context()), err)
				}
			}
			return s.flush(cmd.Context())
		},
	}
	m.add(cmd, "none")
	cmd.Flags().BoolVar(&eos, "eos", false, "append the end-of-text token to completions given as text")
	cmd.Flags().IntVar(&batch, "batch", batch, "rows scored at a time")
	return cmd
}

// scoreLines scores rows in groups, so that memory stays bounded and rows of like length share a batch.
type scoreLines struct {
	p     *experiments.Policy
	eos   bool
	batch int
	rows  []models.Row
	out   *json.Encoder
}

func (s *scoreLines) add(ctx context.Context, l line) error {
	var in struct {
		Prompt     textOrIDs `json:"prompt"`
		Completion textOrIDs `json:"completion"`
	}
	if err := l.decode(&in); err != nil {
		return err
	}
	if !in.Prompt.set || !in.Completion.set {
		return fmt.Errorf("%s: want prompt and completion", l.at)
	}
	t := s.p.Model.Tokenizer
	prompt, completion := in.Prompt.ids, in.Completion.ids
	if prompt == nil {
		tokens, _, err := s.p.Prompts([]data.Prompt{{ID: l.at, Prompt: in.Prompt.text}}, s.p.Model.Config.MaxPositions)
		if err != nil {
			return err
		}
		prompt = tokens[0].Tokens
	}
	if completion == nil {
		completion = t.EncodePlain(in.Completion.text)
		if s.eos {
			completion = append(completion, t.EOS())
		}
	}
	switch most := s.p.Model.Config.MaxPositions; {
	case len(prompt) == 0 || len(completion) == 0:
		return fmt.Errorf("%s: prompt and completion need at least one token each, got %d and %d", l.at, len(prompt), len(completion))
	case len(prompt)+len(completion) > most:
		return fmt.Errorf("%s: %d tokens of prompt and %d of completion exceed the context of %d", l.at, len(prompt), len(completion), most)
	}
	for _, ids := range [][]int32{prompt, completion} {
		if err := checkIDs(t, ids); err != nil {
			return fmt.Errorf("%s: %w", l.at, err)
		}
	}
	s.rows = append(s.rows, models.Row{Prompt: prompt, Completions: [][]int32{completion}})
	if len(s.rows) >= 16*s.batch {
		return s.flush(ctx)
	}
	return nil
}

func (s *scoreLines) flush(ctx context.Context) error {
	scores, err := s.p.Scorer.LogProbs(ctx, s.p.Policy, s.rows, s.batch)
	if err != nil {
		return err
	}
	for i, row := range s.rows {
		sum := 0.0
		for _, v := range scores[i][0] {
			sum += float64(v)
		}
		err := s.out.Encode(struct {
			PromptIDs     []int32   `json:"prompt_ids"`
			CompletionIDs []int32   `json:"completion_ids"`
			Logprobs      []float32 `json:"logprobs"`
			Sum           float64   `json:"sum"`
		}{row.Prompt, row.Completions[0], scores[i][0], sum})
		if err != nil {
			return err
		}
	}
	s.rows = s.rows[:0]
	return nil
}
