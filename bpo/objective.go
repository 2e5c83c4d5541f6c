package bpo

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
)

// preferenceObjective is a DAP loss on pairs: completion 0 of a row is chosen, 1 rejected.
// Its extra inputs, [batch] float32 each, are the reference's sequence log-probs of both, β and, for soft labels, the
// probability that chosen is the better one.
// Metrics are named and defined as in TRL: rewards are β(log π_θ − log π_ref).
func preferenceObjective(c LossConfig) objective {
	key := c
	key.Beta, key.Schedule = 1, BetaSchedule{} // β is an input: all of a sweep's share one function
	return objective{
		Key:       fmt.Sprintf("%+v", key),
		Agreement: c.Weighting != "",
		Metrics:   []string{"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"},
		Fn: func(logps, lens, weight *Node, extra []*Node) (*Node, []*Node) {
			sums := ReduceSum(logps, -1) // [batch, 2]
			at := func(x *Node, k int) *Node { return Squeeze(SliceAxis(x, 1, AxisElem(k)), 1) }
			l := Logps{
				Chosen: at(sums, 0), Rejected: at(sums, 1),
				RefChosen: extra[0], RefRejected: extra[1],
				ChosenLen: at(lens, 0), RejectedLen: at(lens, 1), Weight: weight, Beta: extra[2],
			}
			if c.SoftLabels > 0 {
				l.Prob = extra[3]
			}
			if c.Weighting != "" {
				agreement := ReduceSum(extra[len(extra)-1], -1) // [batch, 2]
				l.ChosenAgreement, l.RejectedAgreement = at(agreement, 0), at(agreement, 1)
			}
			chosen := Mul(Sub(l.Chosen, l.RefChosen), l.Beta)
			rejected := Mul(Sub(l.Rejected, l.RefRejected), l.Beta)
			accuracy := ConvertDType(GreaterThan(chosen, rejected), chosen.DType())
			return c.Apply(l), []*Node{chosen, rejected, Sub(chosen, rejected), accuracy, l.Chosen, l.Rejected}
		},
	}
}

// nllObjective is supervised fine-tuning: the negative log-prob of completion 0, summed over its tokens.
// With row weights 1/(tokens of the batch) the step minimises the mean over tokens.
func nllObjective() objective {
	return objective{Key: "nll", Fn: func(logps, _, _ *Node, _ []*Node) (*Node, []*Node) {
		return Neg(ReduceSum(logps, 1, 2)), nil
	}}
}
