package bpo

import (
	"fmt"
	"maps"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

// versioned is a policy and how often it has been refreshed since the start of the run.
type versioned struct {
	policy  models.Policy
	version int
}

// merged is the one policy that an ensemble of learners stands for, in tensors of its own: one learner is itself,
// adapters merge by op, full models are averaged.
func merged(b compute.Backend, op, name string, learners []*learner) (models.Policy, error) {
	first := learners[0]
	if len(learners) == 1 {
		return first.policy(b, name)
	}
	if first.full {
		mean, err := meanWeights(b, learners)
		if err != nil {
			return models.Policy{}, err
		}
		defer mean.Finalize()
		return first.policyOf(b, name, mean)
	}
	adapters := make([]*models.Adapter, len(learners))
	var policy models.Policy
	for i, l := range learners {
		var err error
		if policy, err = l.policy(b, name); err != nil {
			return policy, err
		}
		adapters[i] = policy.Adapter
	}
	adapter, err := models.Merge(op, adapters, nil) // shares nothing with its inputs
	for _, a := range adapters {
		a.Weights.Finalize()
	}
	if err != nil {
		return policy, fmt.Errorf("merge %d learners: %w", len(learners), err)
	}
	policy.Adapter = adapter
	return policy, nil
}

// Merge is what a run with these starting policies begins as: the merge of adapters, or the mean of full models. It has
// tensors of its own.
func Merge(b compute.Backend, c Config, start []models.Policy) (models.Policy, error) {
	learners := make([]*learner, len(start))
	for i, p := range start {
		var err error
		if learners[i], err = newLearner(p, c.full(), OptimizerConfig{}); err != nil {
			return models.Policy{}, err
		}
		defer learners[i].finalize()
	}
	return merged(b, c.Merge, "sft", learners)
}

// meanWeights averages the learners' vectors, block by block: [n] float32 each.
func meanWeights(b compute.Backend, learners []*learner) (models.Weights, error) {
	e := models.Shared(b, "mean", "", func(sets []models.NodeSet, _ []*Node) ([]models.NodeSet, []*Node) {
		sum := sets[0]["w"]
		for _, s := range sets[1:] {
			sum = Add(sum, s["w"])
		}
		return []models.NodeSet{{"w": DivScalar(sum, len(sets))}}, nil
	})
	mean := models.Weights{}
	for _, block := range learners[0].blocks {
		args := make([]models.Arg, len(learners))
		for i, l := range learners {
			if err := l.settle(); err != nil {
				return nil, err
			}
			args[i].Set = models.Weights{"w": l.w[block.name]}
		}
		sets, _, err := e.Call(args)
		if err != nil {
			mean.Finalize()
			return nil, fmt.Errorf("mean of %d learners: %w", len(learners), err)
		}
		mean[block.name] = sets[0]["w"]
	}
	return mean, nil
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

// MemberSeed is the seed of an ensemble's member i: the run's own of the first, and of the others what no run of a neighbouring
// seed has, so that ensembles over seeds 0, 1, 2, … share no member.
func MemberSeed(seed uint64, i int) uint64 {
	if i == 0 {
		return seed
	}
	return mix(seed ^ mix(uint64(i)))
}
