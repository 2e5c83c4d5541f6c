package stats_test

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"gobpo/experiments/stats"
)

func near(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance }

func TestOutcome(t *testing.T) {
	for comparison, want := range map[int]float64{-7: 0, -1: 0, 0: 0.5, 1: 1, 3: 1} {
		if got := stats.Outcome(comparison); got != want {
			t.Errorf("Outcome(%d) = %v, want %v", comparison, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	w := stats.Count([]float64{1, 0, 0.5, 1, 0.5, 1})
	if w != (stats.WinRate{Wins: 3, Losses: 1, Ties: 2}) || w.N() != 6 {
		t.Errorf("got %+v", w)
	}
	if want := 4.0 / 6; !near(w.Rate(), want, 1e-15) {
		t.Errorf("rate %v, want %v", w.Rate(), want)
	}
	if r := stats.Count(nil).Rate(); !math.IsNaN(r) {
		t.Errorf("the rate of nothing is %v", r)
	}
}

func outcomes() *rapid.Generator[[]float64] {
	return rapid.SliceOfN(rapid.SampledFrom([]float64{0, 0.5, 1}), 1, 60)
}

// Seen from the other side wins are losses, and the rates add up to one.
func TestCountIsSymmetric(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mine := outcomes().Draw(t, "outcomes")
		theirs := make([]float64, len(mine))
		for i, o := range mine {
			theirs[i] = 1 - o
		}
		a, b := stats.Count(mine), stats.Count(theirs)
		if a.Wins != b.Losses || a.Losses != b.Wins || a.Ties != b.Ties || !near(a.Rate()+b.Rate(), 1, 1e-12) {
			t.Fatalf("%+v and %+v", a, b)
		}
	})
}

// Literals: 8 of 10 by hand with z = 1.959964 (z² = 3.841459): centre (0.8+0.19207)/1.38415 = 0.71674,
// half-width 1.959964/1.38415·√(0.016+0.0096036) = 0.22658. The others are limits that follow from the formula.
func TestWilson(t *testing.T) {
	for _, c := range []struct {
		rate      float64
		n         int
		low, high float64
	}{
		{0.8, 10, 0.490162, 0.943318},
		{0.5, 1, 0.5 - 0.445380, 0.5 + 0.445380}, // half = z/(1+z²)·√(1/4+z²/4) = z/(2√(1+z²))
		{0, 10, 0, 3.841459 / 13.841459},
		{1, 10, 10 / 13.841459, 1},
	} {
		got := stats.Wilson(c.rate, c.n, 0.95)
		if !near(got.Low, c.low, 2e-5) || !near(got.High, c.high, 2e-5) {
			t.Errorf("%v of %d: %+v, want %v to %v", c.rate, c.n, got, c.low, c.high)
		}
	}
	if got := stats.Wilson(0, 0, 0.95); !math.IsNaN(got.Low) || !math.IsNaN(got.High) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestWilsonProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate, n := rapid.Float64Range(0, 1).Draw(t, "rate"), rapid.IntRange(1, 5000).Draw(t, "n")
		narrow, wide, more := stats.Wilson(rate, n, 0.9), stats.Wilson(rate, n, 0.99), stats.Wilson(rate, 4*n, 0.9)
		width := func(i stats.Interval) float64 { return i.High - i.Low }
		if narrow.Low < -1e-12 || narrow.High > 1+1e-12 || narrow.Low > rate+1e-12 || narrow.High < rate-1e-12 {
			t.Fatalf("%+v is outside [0, 1] or does not hold %v", narrow, rate)
		}
		if width(wide) <= width(narrow) || width(more) >= width(narrow) {
			t.Fatalf("widths: 90 %% %v, 99 %% %v, four times the data %v", width(narrow), width(wide), width(more))
		}
		if other := stats.Wilson(1-rate, n, 0.9); !near(other.Low, 1-narrow.High, 1e-9) {
			t.Fatalf("%+v is not the mirror of %+v", other, narrow)
		}
	})
}

func TestLengthMatched(t *testing.T) {
	won := []float64{1, 1, 1, 0, 0.5, 1, 0}
	words, opponent := []int{10, 11, 12, 9, 100, 0, 0}, []int{10, 10, 10, 10, 91, 0, 1}
	for tolerance, want := range map[float64]stats.WinRate{
		0:    {Wins: 2},                     // 10:10 and 0:0
		0.1:  {Wins: 3, Losses: 1, Ties: 1}, // and 11:10, 9:10, 100:91
		0.17: {Wins: 4, Losses: 1, Ties: 1}, // and 12:10
		1:    {Wins: 4, Losses: 2, Ties: 1}, // all
	} {
		if got := stats.LengthMatched(won, words, opponent, tolerance); got != want {
			t.Errorf("tolerance %v: %+v, want %+v", tolerance, got, want)
		}
	}
}

// Where only length decides, matching lengths finds nothing but chance.
func TestLengthMatchedRemovesLengthBias(t *testing.T) {
	var won []float64
	var words, opponent []int
	for i := range 1000 {
		a, b := 20+i%31, 20+(i*7)%31
		words, opponent = append(words, a+10), append(opponent, b) // verbose by ten words
		o := 0.5
		if d := a + 10 - b; d > 1 {
			o = 1
		} else if d < -1 {
			o = 0
		}
		won = append(won, o)
	}
	raw, matched := stats.Count(won).Rate(), stats.LengthMatched(won, words, opponent, 0.02)
	if raw < 0.7 || matched.N() < 10 || matched.Rate() != 0.5 {
		t.Errorf("raw %v, matched %v of %d", raw, matched.Rate(), matched.N())
	}
}

func ExampleCount() {
	w := stats.Count([]float64{1, 1, 0.5, 0})
	fmt.Println(w.Wins, w.Ties, w.Losses, w.Rate())
	// Output: 2 1 1 0.625
}
