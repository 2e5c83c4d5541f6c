package stats_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"gobpo/experiments/stats"
)

func TestEstimateKLByHand(t *testing.T) {
	// Sums 0.5+0.5 = 1, 3, and an empty completion 0: mean 4/3, deviations −1/3, 5/3, −4/3, variance 42/18 = 7/3.
	got, err := stats.EstimateKL(
		[][]float32{{-1, -2}, {-1, -1, -0.5}, {}},
		[][]float32{{-1.5, -2.5}, {-2, -2, -1.5}, {}},
	)
	if err != nil {
		t.Fatal(err)
	}
	if got.N != 3 || !near(got.Mean, 4.0/3, 1e-6) || !near(got.StdErr, math.Sqrt(7.0/9), 1e-6) || !near(got.PerToken, 4.0/5, 1e-6) {
		t.Errorf("got %+v", got)
	}
}

func TestEstimateKLEdges(t *testing.T) {
	same := [][]float32{{-1, -2}, {-3}}
	if got, err := stats.EstimateKL(same, same); err != nil || got != (stats.KL{N: 2}) {
		t.Errorf("a policy against itself: %+v, %v", got, err)
	}
	if got, err := stats.EstimateKL([][]float32{{-1}}, [][]float32{{-2}}); err != nil || got.Mean != 1 || !math.IsNaN(got.StdErr) {
		t.Errorf("one sample: %+v, %v", got, err)
	}
	if got, err := stats.EstimateKL(nil, nil); err != nil || !math.IsNaN(got.Mean) || !math.IsNaN(got.PerToken) {
		t.Errorf("no sample: %+v, %v", got, err)
	}
	for want, initial := range map[string][][]float32{
		"kl: 1 samples under the policy, 2":           {{1, 2}, {3}},
		"kl: sample 0 has 2 tokens under the policy,": {{1}},
	} {
		if _, err := stats.EstimateKL([][]float32{{1, 2}}, initial); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Two-token sequences of independent coins with known bias: the estimate is within four standard errors of the truth.
func TestEstimateKLFindsTheTruth(t *testing.T) {
	const p, q, n = 0.7, 0.4, 4000
	rng := rand.New(rand.NewPCG(1, 2))
	var policy, initial [][]float32
	for range n {
		var a, b []float32
		for range 2 {
			if rng.Float64() < p {
				a, b = append(a, float32(math.Log(p))), append(b, float32(math.Log(q)))
			} else {
				a, b = append(a, float32(math.Log(1-p))), append(b, float32(math.Log(1-q)))
			}
		}
		policy, initial = append(policy, a), append(initial, b)
	}
	got, err := stats.EstimateKL(policy, initial)
	if err != nil {
		t.Fatal(err)
	}
	truth := 2 * (p*math.Log(p/q) + (1-p)*math.Log((1-p)/(1-q)))
	if !near(got.Mean, truth, 4*got.StdErr) || got.StdErr > 0.02 || !near(got.PerToken, got.Mean/2, 1e-9) {
		t.Errorf("got %+v, truth %v", got, truth)
	}
}

// t quantiles of the tables: 4.30265 for 2 degrees of freedom, 12.7062 for 1.
func TestOverSeeds(t *testing.T) {
	s := stats.OverSeeds([]float64{0.7, 0.8, 0.9}, 0.95)
	half := 4.30265 * 0.1 / math.Sqrt(3)
	if s.N != 3 || !near(s.Mean, 0.8, 1e-12) || !near(s.Std, 0.1, 1e-12) ||
		!near(s.Interval.Low, 0.8-half, 1e-5) || !near(s.Interval.High, 0.8+half, 1e-5) {
		t.Errorf("got %+v", s)
	}
	s = stats.OverSeeds([]float64{1, 3}, 0.95) // std √2, standard error 1
	if !near(s.Std, math.Sqrt2, 1e-12) || !near(s.Interval.High, 2+12.7062, 1e-3) {
		t.Errorf("got %+v", s)
	}
	s = stats.OverSeeds([]float64{0.6}, 0.95)
	if s.N != 1 || s.Mean != 0.6 || !math.IsNaN(s.Std) || !math.IsNaN(s.Interval.Low) || !math.IsNaN(s.Interval.High) {
		t.Errorf("one seed has no spread: %+v", s)
	}
	if s = stats.OverSeeds(nil, 0.95); s.N != 0 || !math.IsNaN(s.Mean) {
		t.Errorf("no seed: %+v", s)
	}
}

// Three normal seeds at a time: Student's t covers as it says, which a bootstrap of three values cannot.
func TestOverSeedsCoverage(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	const trials = 4000
	covered := 0
	for range trials {
		values := []float64{rng.NormFloat64(), rng.NormFloat64(), rng.NormFloat64()}
		if s := stats.OverSeeds(values, 0.95); s.Interval.Low <= 0 && 0 <= s.Interval.High {
			covered++
		}
	}
	if got := float64(covered) / trials; !near(got, 0.95, 0.014) { // four standard errors
		t.Errorf("covers %v, want 0.95", got)
	}
}
