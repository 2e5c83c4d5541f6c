package bpo

import (
	"context"
	"fmt"
	"maps"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph"
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

// rounded is p with its overrides in the dtypes of its base, as the learner computes with them: the float32 ones of an
// EMA over a bfloat16 model are new tensors, which done frees.
func rounded(b compute.Backend, p models.Policy) (out models.Policy, done func(), err error) {
	odd := models.Weights{}
	for name, t := range p.Override {
		if base := p.Base[name]; base != nil && base.DType() != t.DType() {
			odd[name] = t
		}
	}
	if len(odd) == 0 {
		return p, func() {}, nil
	}
	dtype := p.Base[odd.Names()[0]].DType()
	cast := models.Shared(b, "round", dtype.String(), func(sets []models.NodeSet, _ []*Node) ([]models.NodeSet, []*Node) {
		out := models.NodeSet{}
		for name, x := range sets[0] {
			out[name] = ConvertDType(x, dtype)
		}
		return []models.NodeSet{out}, nil
	})
	sets, _, err := cast.Call([]models.Arg{{Set: odd}})
	if err != nil {
		return p, nil, fmt.Errorf("reference: %w", err)
	}
	made := sets[0]
	p.Override = maps.Clone(p.Override)
	maps.Copy(p.Override, made)
	return p, made.Finalize, nil
}

// fill computes the reference's log-probs of pairs that lack them or hold those of another policy, by one scorer call.
func (r *reference) fill(ctx context.Context, b compute.Backend, s *models.Scorer, p models.Policy, pairs []*data.Preference, batch int) error {
	rows := make([]models.Row, len(pairs))
	for i, pair := range pairs {
		rows[i] = rowOf(pair)
	}
	p, done, err := rounded(b, p)
	if err != nil {
		return err
	}
	defer done()
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
