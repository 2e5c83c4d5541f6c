package bpo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"gobpo/data"
	"gobpo/models/sample"
)

// selfPlay collects pairs without an annotator (SAPO, arXiv 2405.20830 §3.1): chosen is a prompt's reference text, rejected
// the same text with one segment of it, drawn at random, written anew by the behavior LLM. Where that ends its text inside
// the segment, so does rejected.
func (c *collector) selfPlay(ctx context.Context, phase, from, to int, behavior versioned) ([]data.Preference, tally, error) {
	var (
		count   tally
		prompts []Prompt
		texts   [][]int32 // the references, with their end
		starts  []int     // of the segments
		queries []sample.Prompt
	)
	t, segment := c.setup.Model.Tokenizer, c.cfg.SelfPlay.Segment
	for g := from * c.cfg.Fresh(); g < to*c.cfg.Fresh(); g++ {
		p := c.prompt(g)
		if p.Reference == "" {
			return nil, count, fmt.Errorf("self-play: prompt %s has no reference text to vary", p.ID)
		}
		ids := append(t.EncodePlain(p.Reference), c.setup.End)
		if len(ids) > c.cfg.MaxCompletionTokens {
			ids, count.Truncated = ids[:c.cfg.MaxCompletionTokens], count.Truncated+1
		}
		at := int(mix(c.cfg.Seed^mix(uint64(g)^0x7365676d656e74)) % uint64(max(1, len(ids)-segment+1)))
		prompts, texts, starts = append(prompts, p), append(texts, ids), append(starts, at)
		queries = append(queries, sample.Prompt{Key: uint64(g), Tokens: slices.Concat(p.Tokens, ids[:at])})
	}
	start := time.Now()
	policy, done, err := rounded(c.setup.Backend, behavior.policy)
	if err != nil {
		return nil, count, err
	}
	defer done()
	s := c.cfg.Sample
	drawn, err := c.setup.Sampler.Sample(ctx, policy, queries, sample.Options{
		Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, N: 1, Batch: s.Batch,
		MaxNewTokens: segment, Seed: c.cfg.Seed, Stop: c.stop(), Fold: true,
	}, func(done, total int) { c.progress("sample", from+done*(to-from)/max(total, 1), c.cfg.Steps) })
	if err != nil {
		return nil, count, fmt.Errorf("sample: %w", err)
	}
	count.SampleSeconds = time.Since(start).Seconds()
	var rows []data.Preference
	for i, p := range prompts {
		y, at, ids := drawn[i][0], starts[i], texts[i]
		count.Prompts++
		count.sampled(y)
		varied := slices.Concat(ids[:at], y.Tokens)
		if !y.Stopped {
			varied = append(varied, ids[min(at+segment, len(ids)):]...)
		}
		if slices.Equal(varied, ids) {
			count.Identical++
			continue
		}
		row := data.Preference{
			PromptID: p.ID, Prompt: p.Text, Messages: p.Messages, Reference: p.Reference, Chosen: t.Decode(ids), Rejected: t.Decode(varied),
			PromptIDs: p.Tokens, ChosenIDs: ids, RejectedIDs: varied,
			Annotator: "self_play", BehaviorVersion: behavior.version, Phase: phase, Step: from + i/c.cfg.Fresh(),
		}
		row.ID = data.ID(strconv.Itoa(from*c.cfg.Fresh()+i), p.ID, row.Chosen, row.Rejected)
		rows = append(rows, row)
	}
	return rows, count, nil
}
