package bpo

import (
	"fmt"
	"maps"

	"gobpo/models"
)

// versioned is a policy and how often it has been refreshed since the start of the run.
type versioned struct {
	policy  models.Policy
	version int
}

// merged is the one policy that an ensemble of learners stands for, in tensors of its own: one learner is itself,
// adapters merge by op.
func merged(op, name string, learners []*learner) (models.Policy, error) {
	adapters := make([]*models.Adapter, len(learners))
	var policy models.Policy
	for i, l := range learners {
		var err error
		if policy, err = l.policy(name); err != nil {
			return policy, err
		}
		adapters[i] = policy.Adapter
	}
	if len(learners) == 1 {
		return policy, nil
	}
	adapter, err := models.Merge(op, adapters) // shares nothing with its inputs
	for _, a := range adapters {
		a.Weights.Finalize()
	}
	if err != nil {
		return policy, fmt.Errorf("merge %d learners: %w", len(learners), err)
	}
	policy.Adapter = adapter
	return policy, nil
}

// release frees a policy's own tensors, all but those of keep, and never the base.
func release(p models.Policy, keep ...models.Policy) {
	kept := map[any]bool{}
	for _, k := range keep {
		for t := range maps.Values(ownTensors(k)) {
			kept[t] = true
		}
	}
	for t := range maps.Values(ownTensors(p)) {
		if !kept[t] {
			t.MustFinalizeAll()
		}
	}
}

// ownTensors are a policy's overrides and adapter weights; adapter names never clash with weight names.
func ownTensors(p models.Policy) models.Weights {
	out := models.Weights{}
	maps.Copy(out, p.Override)
	if p.Adapter != nil {
		maps.Copy(out, p.Adapter.Weights)
	}
	return out
}
