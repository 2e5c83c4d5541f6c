package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gobpo/data"
	"gobpo/experiments"
	"gobpo/models/sample"
)

func newSampleCmd() *cobra.Command {
	var m modelFlags
	var out string
	var limit int
	o := sample.Options{Temperature: 1, TopP: 1, MaxNewTokens: 64, N: 1, Batch: 16}
	cmd := &cobra.Command{
		Use:   "sample [prompts.jsonl | prompts.parquet]",
		Short: "Sample completions of prompts",
		Long: `Read prompts (JSONL or Parquet, a file or JSONL on standard input; {"prompt": "…"}) and write completions as JSONL
to standard output, or to --out (.parquet or .jsonl). --temperature 0 is greedy. The same seed gives a prompt the
same completions whatever else is in the file.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := m.check(cmd); err != nil {
				return err
			}
			if err := checkSampling(o, limit); err != nil {
				return err
			}
			if err := checkOut(out); err != nil {
				return err
			}
			prompts, err := promptsFrom(cmd, inputArg(args))
			if err != nil {
				return err
			}
			p, err := newSession(cmd).OpenPolicy(cmd.Context(), m.path, m.dtype, m.chat)
			if err != nil {
				return err
			}
			if most := p.Model.Config.MaxPositions; limit == 0 {
				limit = most - o.MaxNewTokens
			} else if limit+o.MaxNewTokens > most {
				return fmt.Errorf("--max-prompt-tokens: %d and --max-new-tokens %d exceed the context of %d", limit, o.MaxNewTokens, most)
			}
			if limit < 1 {
				return fmt.Errorf("--max-new-tokens: %d leaves no room for a prompt in the context of %d", o.MaxNewTokens, p.Model.Config.MaxPositions)
			}
			rows, err := sampleAll(cmd, p, prompts, limit, o)
			if err != nil {
				return err
			}
			return writeCompletions(cmd, out, rows)
		},
	}
	m.add(cmd, "auto")
	f := cmd.Flags()
	f.StringVarP(&out, "out", "o", "", "file to write, .parquet or .jsonl")
	f.Float64VarP(&o.Temperature, "temperature", "t", o.Temperature, "0 is greedy")
	f.IntVar(&o.TopK, "top-k", 0, "only the k most likely tokens; 0 is all")
	f.Float64Var(&o.TopP, "top-p", o.TopP, "only the most likely tokens of this mass")
	f.IntVar(&o.MaxNewTokens, "max-new-tokens", o.MaxNewTokens, "of a completion")
	f.IntVar(&limit, "max-prompt-tokens", 0, "prompts keep their last tokens; 0 is what the context leaves")
	f.IntVarP(&o.N, "n", "n", o.N, "completions a prompt")
	f.IntVar(&o.Batch, "batch", o.Batch, "prompts a batch")
	f.Uint64Var(&o.Seed, "seed", 0, "of the samples")
	return cmd
}

// checkSampling refuses numbers that say nothing, some of which the sampler would take for its defaults.
func checkSampling(o sample.Options, limit int) error {
	for _, flag := range []struct {
		name         string
		value, least int
	}{{"top-k", o.TopK, 0}, {"max-new-tokens", o.MaxNewTokens, 1}, {"max-prompt-tokens", limit, 0}, {"n", o.N, 1}, {"batch", o.Batch, 1}} {
		if flag.value < flag.least {
			return fmt.Errorf("--%s: %d is not at least %d", flag.name, flag.value, flag.least)
		}
	}
	if !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0) {
		return fmt.Errorf("--temperature: %g is not 0 or more", o.Temperature)
	}
	if !(o.TopP > 0 && o.TopP <= 1) {
		return fmt.Errorf("--top-p: %g is not in (0, 1]", o.TopP)
	}
	return nil
}

// promptsFrom reads prompts from a file, or as JSONL from standard input for "-".
func promptsFrom(cmd *cobra.Command, path string) ([]data.Prompt, error) {
	if path != "-" {
		return data.LoadPrompts(path)
	}
	dir, err := os.MkdirTemp("", "bpo-stdin-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	spool := filepath.Join(dir, "stdin.jsonl")
	f, err := os.Create(spool)
	if err != nil {
		return nil, err
	}
	_, err = f.ReadFrom(cmd.InOrStdin())
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	prompts, err := data.LoadPrompts(spool)
	if err != nil {
		return nil, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), spool, "stdin"))
	}
	return prompts, nil
}

func sampleAll(cmd *cobra.Command, p *experiments.Policy, prompts []data.Prompt, limit int, o sample.Options) ([]data.Completion, error) {
	tokens, cut, err := p.Prompts(prompts, limit)
	if err != nil {
		return nil, err
	}
	if cut > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d prompts are longer than %d tokens and lost their start\n", cut, len(prompts), limit)
	}
	in := make([]sample.Prompt, len(prompts))
	for i, q := range tokens {
		in[i] = sample.Prompt{Key: experiments.Key(q.ID), Tokens: q.Tokens}
	}
	t := p.Model.Tokenizer
	o.Stop, o.Greedy = p.Stop(), o.Temperature == 0
	ui := newProgress(cmd.ErrOrStderr())
	defer ui.Close()
	work := ui.Trial("sample")
	drawn, err := p.Sampler.Sample(cmd.Context(), p.Policy, in, o, func(done, total int) { work.Doing("prompts", done, total) })
	if err != nil {
		return nil, err
	}
	var rows []data.Completion
	for i, q := range tokens {
		for k, c := range drawn[i] {
			rows = append(rows, data.Completion{
				ID: fmt.Sprintf("%s-%d", q.ID, k), PromptID: q.ID, Prompt: q.Text, Reference: q.Reference, Text: t.Decode(c.Tokens),
				PromptIDs: q.Tokens, IDs: c.Tokens, Logps: c.PolicyLogProbs, Stopped: c.Stopped, Policy: p.Policy.Name, Sample: k,
			})
		}
	}
	return rows, nil
}

// checkOut refuses a name that says no format.
func checkOut(out string) error {
	if out != "" && filepath.Ext(out) != ".parquet" && filepath.Ext(out) != ".jsonl" {
		return fmt.Errorf("--out: %s ends in neither .parquet nor .jsonl", out)
	}
	return nil
}

func writeCompletions(cmd *cobra.Command, out string, rows []data.Completion) error {
	if filepath.Ext(out) == ".parquet" {
		return data.Write(out, rows, nil)
	}
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	for _, r := range rows {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	if out != "" {
		return experiments.WriteFile(out, []byte(text.String()))
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), text.String())
	return err
}
