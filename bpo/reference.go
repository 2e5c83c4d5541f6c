package bpo

import (
	"context"
	"fmt"

	"gobpo/data"
	"gobpo/models"
)

// reference is whom the loss stays close to. Between two changes of its version its log-probs of a pair are
// constants, so they are computed once and kept with the pair.
type reference struct {
	kind string // sft | behavior | ema | checkpoint
	versioned
}

// of is the reference at a time when b is the behavior policy.
func (r *reference) of(b versioned) versioned {
	if r.kind == "behavior" {
		return b
	}
	return r.versioned
}

// isBehavior reports that the reference is the policy that sampled, so that its log-probs are the sampler's own:
// always in BPO, and before the first refresh also for a reference that starts where the behavior starts.
func (r *reference) isBehavior(b versioned) bool {
	return r.kind == "behavior" || (r.kind != "checkpoint" && r.version == 0 && b.version == 0)
}

// fill computes the reference's log-probs of pairs that lack them or hold those of another policy, by one scorer call.
func (r *reference) fill(ctx context.Context, s *models.Scorer, p models.Policy, pairs []*data.Preference, batch int) error {
	rows := make([]models.Row, len(pairs))
	for i, pair := range pairs {
		rows[i] = rowOf(pair)
	}
	logps, err := s.LogProbs(ctx, p, rows, batch)
	if err != nil {
		return fmt.Errorf("reference %s log-probs: %w", r.kind, err)
	}
	for i, pair := range pairs {
		pair.RefChosenLogps, pair.RefRejectedLogps = logps[i][0], logps[i][1]
	}
	return nil
}

func rowOf(p *data.Preference) models.Row {
	return models.Row{Prompt: p.PromptIDs, Completions: [][]int32{p.ChosenIDs, p.RejectedIDs}}
}

func sum(logps []float32) float64 {
	total := 0.0
	for _, l := range logps {
		total += float64(l)
	}
	return total
}
