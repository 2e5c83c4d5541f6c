package bpo

import (
	"context"
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"gobpo/data"
	"gobpo/models"
)

// logpTolerance is how far the log-probs of one sequence may differ between the cached sampler and the learner.
func (r *run) logpTolerance() float64 {
	for _, t := range r.setup.Model.Base {
		if t.DType() != dtypes.Float32 {
			return 0.5
		}
	}
	return 0.02
}

// checkSampler scores the first pairs of a phase with the learner's forward pass under π_β: the sampler's log-probs
// must be the same. It is the standing test of cache, masks and positions.
func (r *run) checkSampler(ctx context.Context, pairs map[int][]*data.Preference, behavior versioned) error {
	var some []*data.Preference
	for step := 0; step < r.cfg.Steps && len(some) == 0; step++ {
		some = pairs[step][:min(len(pairs[step]), r.cfg.Micro())]
	}
	if len(some) == 0 {
		return nil
	}
	if len(some[0].ChosenLogps) == 0 { // self-play: the texts are not the sampler's
		return nil
	}
	rows := make([]models.Row, len(some))
	for i, p := range some {
		rows[i] = rowOf(p)
	}
	logps, err := r.setup.Scorer.LogProbs(ctx, behavior.policy, rows, r.cfg.Micro())
	if err != nil {
		return fmt.Errorf("check the sampler: %w", err)
	}
	for i, p := range some {
		for k, want := range [][]float32{p.ChosenLogps, p.RejectedLogps} {
			if diff := math.Abs(sum(want) - sum(logps[i][k])); !(diff <= r.logpTolerance()) {
				return fmt.Errorf("pair %s: the sampler gave log-prob %.5f, the learner's forward pass %.5f: the behavior policy and its record disagree", p.ID, sum(want), sum(logps[i][k]))
			}
		}
	}
	return nil
}

// checkIdentity refuses a run whose policy should equal its reference at step 0 and does not: the wrong weights are
// the reference. Ensembles start apart from their merge by design, and dropout moves the policy.
func (r *run) checkIdentity(m Metrics) error {
	if r.cfg.Learners > 1 || r.cfg.LoRA.Dropout > 0 || r.loss.Identity == nil || r.cfg.ReferencePath() != "" || m["num_pairs"] == 0 {
		return nil
	}
	if got, most := m["rewards/margins"], 2*r.cfg.Loss.Beta*r.logpTolerance(); math.Abs(got) > most {
		return fmt.Errorf("step 1: policy and reference should be equal, but the reward margin is %g (loss %g, identity value %g)", got, m["loss"], r.loss.Identity(r.cfg.Loss))
	}
	return nil
}
