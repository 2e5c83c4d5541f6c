// Package stats summarises evaluations: win rates with their uncertainty, lengths, diversity and divergence.
//
// An outcome is what one comparison of an output with its opponent (the reference text, another arm) gave: 1 for a
// win, 0.5 for a tie, 0 for a loss. Quantities that do not exist (a rate of nothing, the spread of one seed) are NaN,
// never a made-up number.
package stats

import (
	"encoding/json"
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// Outcome turns a comparison (positive: preferred, 0: tied, negative: not) into 1, 0.5 or 0.
func Outcome(comparison int) float64 {
	switch {
	case comparison > 0:
		return 1
	case comparison < 0:
		return 0
	}
	return 0.5
}

// WinRate counts comparisons.
type WinRate struct {
	Wins, Losses, Ties int
}

// Count sorts outcomes (1, 0.5 or 0) into wins, ties and losses. Anything above 0.5 is a win, below it a loss.
func Count(outcomes []float64) (w WinRate) {
	for _, o := range outcomes {
		switch {
		case o > 0.5:
			w.Wins++
		case o < 0.5:
			w.Losses++
		default:
			w.Ties++
		}
	}
	return w
}

// N is the number of comparisons.
func (w WinRate) N() int { return w.Wins + w.Losses + w.Ties }

// Rate is the share of wins, a tie counting one half; NaN if nothing was compared.
func (w WinRate) Rate() float64 { return (float64(w.Wins) + float64(w.Ties)/2) / float64(w.N()) }

// Interval holds an estimate at some level of confidence. Its JSON is {"low": …, "high": …}, or null where it is not known (NaN).
type Interval struct{ Low, High float64 }

// MarshalJSON implements json.Marshaler.
func (i Interval) MarshalJSON() ([]byte, error) {
	if math.IsNaN(i.Low) || math.IsNaN(i.High) {
		return []byte("null"), nil
	}
	return json.Marshal(map[string]float64{"low": i.Low, "high": i.High})
}

// Wilson is the score interval (Wilson 1927) of a share that was observed as rate among n; a check on the bootstrap
// that needs no draws. For win rates with ties it is conservative: half points vary less than wins and losses.
func Wilson(rate float64, n int, level float64) Interval {
	if n == 0 {
		return Interval{math.NaN(), math.NaN()}
	}
	z := distuv.UnitNormal.Quantile((1 + level) / 2)
	m := float64(n)
	centre := (rate + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(rate*(1-rate)/m+z*z/(4*m*m))
	return Interval{centre - half, centre + half}
}

// LengthMatched counts only the comparisons of texts of like length: lengths differ by at most tolerance (0.1, say)
// of the longer one. Read its N with it: where a policy has grown verbose few comparisons are left, and the rate
// then speaks of those few. The three slices run in parallel.
func LengthMatched(outcomes []float64, words, opponentWords []int, tolerance float64) WinRate {
	var matched []float64
	for i, o := range outcomes {
		a, b := float64(words[i]), float64(opponentWords[i])
		if math.Abs(a-b) <= tolerance*max(a, b) {
			matched = append(matched, o)
		}
	}
	return Count(matched)
}
