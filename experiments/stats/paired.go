package stats

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// SignTest is the two-sided exact test of two arms on the same comparisons: among the outcomes that differ, is x better
// as often as y? On wins and losses it is McNemar's exact test; a tie counts between them. x[i] and y[i] are outcomes for the
// same prompt. With no outcome that differs p is 1.
func SignTest(x, y []float64) (better, worse int, p float64) {
	for i := range x {
		if x[i] > y[i] {
			better++
		} else if x[i] < y[i] {
			worse++
		}
	}
	n := better + worse
	if n == 0 {
		return 0, 0, 1
	}
	b := distuv.Binomial{N: float64(n), P: 0.5}
	return better, worse, min(1, 2*b.CDF(float64(min(better, worse))))
}

// Holm adjusts the p-values of several tests so that at a level α the chance of any false rejection is at most α
// (Holm 1979). NaN stays NaN and counts as no test.
func Holm(p []float64) []float64 {
	order := make([]int, 0, len(p))
	for i, v := range p {
		if !math.IsNaN(v) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] < p[b]:
			return -1
		case p[a] > p[b]:
			return 1
		}
		return 0
	})
	out, most := slices.Clone(p), 0.0
	for rank, i := range order {
		most = max(most, min(1, float64(len(order)-rank)*p[i]))
		out[i] = most
	}
	return out
}

// SampleSizePaired is how many pairs tell an observed mean difference from zero at a level of 0.05 with 80 % power, if it
// and its 95 % interval come of n pairs.
func SampleSizePaired(n int, difference float64, i Interval) int {
	z := distuv.UnitNormal.Quantile
	error := (i.High - i.Low) / (2 * z(0.975))
	ratio := (z(0.975) + z(0.8)) * error / difference
	return int(math.Ceil(float64(n) * ratio * ratio))
}
