package stats

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// KL estimates a divergence KL(π‖π0) in nats from samples of π.
type KL struct {
	Mean     float64 // over samples, of Σ_t log π − log π0
	StdErr   float64 // of Mean; NaN for fewer than two samples
	PerToken float64 // the sum over all samples / all tokens
	N        int     // samples
}

// EstimateKL takes per-token log-probs [sample][token] of completions sampled from π without truncation or tempering,
// under π and under π0. The estimate is unbiased, so near zero it can come out negative.
func EstimateKL(policy, initial [][]float32) (KL, error) {
	if len(policy) != len(initial) {
		return KL{}, fmt.Errorf("kl: %d samples under the policy, %d under the initial one", len(policy), len(initial))
	}
	sums, total, tokens := make([]float64, len(policy)), 0.0, 0
	for i := range policy {
		if len(policy[i]) != len(initial[i]) {
			return KL{}, fmt.Errorf("kl: sample %d has %d tokens under the policy, %d under the initial one", i, len(policy[i]), len(initial[i]))
		}
		for t := range policy[i] {
			sums[i] += float64(policy[i][t]) - float64(initial[i][t])
		}
		total += sums[i]
		tokens += len(policy[i])
	}
	mean, std := stat.MeanStdDev(sums, nil)
	return KL{mean, std / math.Sqrt(float64(len(sums))), total / float64(tokens), len(sums)}, nil
}

// Summary of one number measured in several runs that differ in their seed.
type Summary struct {
	N        int
	Mean     float64
	Std      float64  // sample standard deviation (n−1); NaN for one run
	Interval Interval // of the mean, by Student's t with n−1 degrees of freedom; NaN for one run
}

// OverSeeds summarises one value per run. With the usual three to five seeds a bootstrap over them would be far too
// narrow, hence Student's t, which takes the values for normal.
func OverSeeds(values []float64, level float64) Summary {
	nan := math.NaN()
	s := Summary{len(values), nan, nan, Interval{nan, nan}}
	if s.N > 0 {
		s.Mean = stat.Mean(values, nil)
	}
	if s.N > 1 {
		s.Std = stat.StdDev(values, nil)
		t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(s.N - 1)}.Quantile((1 + level) / 2)
		half := t * s.Std / math.Sqrt(float64(s.N))
		s.Interval = Interval{s.Mean - half, s.Mean + half}
	}
	return s
}
