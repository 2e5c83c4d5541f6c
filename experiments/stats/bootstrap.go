package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Bootstrap settings of percentile intervals. The zero value draws 1000 resamples for a 95 % interval.
type Bootstrap struct {
	Resamples int     // 0 = 1000
	Level     float64 // 0 = 0.95
	Seed      uint64  // the same seed gives the same interval
}

// Mean is the mean over all values and its percentile bootstrap interval. groups[g][i] is the outcome of prompt i under
// training seed g. Every resample draws prompts with replacement and takes each in all groups: a prompt that is hard is so
// for all seeds, which makes the interval wider than as many prompts of their own would. Groups of unequal lengths
// have no prompts in common and are strata, each drawn from by itself. The interval covers the choice of prompts, not that
// of training seeds; for those see [OverSeeds]. It is NaN for no values at all.
func (b Bootstrap) Mean(groups [][]float64) (float64, Interval) {
	if b.Resamples == 0 {
		b.Resamples = 1000
	}
	if b.Level == 0 {
		b.Level = 0.95
	}
	all := slices.Concat(groups...)
	if len(all) == 0 {
		return math.NaN(), Interval{math.NaN(), math.NaN()}
	}
	strata := groups
	if sums := sumByPrompt(groups); sums != nil {
		strata = [][]float64{sums}
	}
	rng := rand.New(rand.NewPCG(b.Seed, 0x626f6f74))
	means := make([]float64, b.Resamples)
	for r := range means {
		sum := 0.0
		for _, group := range strata {
			for range group {
				sum += group[rng.IntN(len(group))]
			}
		}
		means[r] = sum / float64(len(all))
	}
	slices.Sort(means)
	tail := (1 - b.Level) / 2
	return stat.Mean(all, nil), Interval{
		stat.Quantile(tail, stat.LinInterp, means, nil),
		stat.Quantile(1-tail, stat.LinInterp, means, nil),
	}
}

// ByPrompt are the means over seeds of groups[seed][prompt], or nil where seeds have unequal numbers of prompts. Seeds with
// the same outcomes in another order give the same bits, so that two arms' means can be compared.
func ByPrompt(groups [][]float64) []float64 {
	out := sumByPrompt(groups)
	for i := range out {
		out[i] /= float64(len(groups))
	}
	return out
}

// sumByPrompt adds up first, which is exact for outcomes, multiples of one half.
func sumByPrompt(groups [][]float64) []float64 {
	if len(groups) == 0 {
		return nil
	}
	out := make([]float64, len(groups[0]))
	for _, group := range groups {
		if len(group) != len(out) {
			return nil
		}
		for i, v := range group {
			out[i] += v
		}
	}
	return out
}

// Difference is the mean of x−y and its interval, where x[g][i] and y[g][i] are two arms' values for the same prompt
// in the same group. Pairing removes what makes a prompt easy for both. It is an error if the shapes differ.
func (b Bootstrap) Difference(x, y [][]float64) (float64, Interval, error) {
	if len(x) != len(y) {
		return 0, Interval{}, fmt.Errorf("paired difference: %d groups against %d", len(x), len(y))
	}
	differences := make([][]float64, len(x))
	for g := range x {
		if len(x[g]) != len(y[g]) {
			return 0, Interval{}, fmt.Errorf("paired difference: group %d has %d values against %d", g, len(x[g]), len(y[g]))
		}
		differences[g] = make([]float64, len(x[g]))
		for i := range x[g] {
			differences[g][i] = x[g][i] - y[g][i]
		}
	}
	mean, interval := b.Mean(differences)
	return mean, interval, nil
}
