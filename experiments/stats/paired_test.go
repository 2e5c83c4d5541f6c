package stats

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSignTestByHand(t *testing.T) {
	x, y := make([]float64, 20), make([]float64, 20)
	for i := range 10 {
		x[i] = 1
	}
	x[10], y[10], y[11] = 0.5, 1, 1 // worse twice, once from a tie
	// 2·P(X ≤ 2) for X ~ Binomial(12, ½) is 2·(1 + 12 + 66)/2¹².
	if better, worse, p := SignTest(x, y); better != 10 || worse != 2 || math.Abs(p-2*79.0/4096) > 1e-12 {
		t.Errorf("%d better, %d worse, p = %v", better, worse, p)
	}
	if _, _, p := SignTest(x, x); p != 1 {
		t.Errorf("an arm differs from itself with p = %v", p)
	}
	if _, _, p := SignTest([]float64{1, 0}, []float64{0, 1}); p != 1 {
		t.Errorf("one better and one worse: p = %v", p)
	}
}

// As R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
func TestHolmByHand(t *testing.T) {
	got := Holm([]float64{0.01, 0.04, math.NaN(), 0.03, 0.005})
	for i, want := range []float64{0.03, 0.06, math.NaN(), 0.06, 0.02} {
		if math.Abs(got[i]-want) > 1e-12 || math.IsNaN(got[i]) != math.IsNaN(want) {
			t.Errorf("p[%d] becomes %v, want %v", i, got[i], want)
		}
	}
}

func TestPairedProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		outcome := rapid.SampledFrom([]float64{0, 0.5, 1})
		x := rapid.SliceOfN(outcome, 1, 40).Draw(t, "x")
		y := rapid.SliceOfN(outcome, len(x), len(x)).Draw(t, "y")
		b, w, p := SignTest(x, y)
		b2, w2, q := SignTest(y, x)
		if b != w2 || w != b2 || p != q || p < 0 || p > 1 {
			t.Fatalf("%d %d %v against %d %d %v", b, w, p, b2, w2, q)
		}
		ps := rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 12).Draw(t, "p")
		adjusted := Holm(ps)
		for i := range ps {
			if adjusted[i] < ps[i] || adjusted[i] > 1 {
				t.Fatalf("%v becomes %v", ps, adjusted)
			}
		}
		if i := slices.Index(ps, slices.Min(ps)); adjusted[i] != slices.Min(adjusted) {
			t.Fatalf("%v becomes %v: the order changed", ps, adjusted)
		}
	})
}

// 100 pairs with a standard error of 0.1 tell 0.1 from zero with (z(0.975) + z(0.8))² = (1.959964 + 0.841621)² = 7.84888
// times as many; twice the difference takes a quarter.
func TestSampleSizePaired(t *testing.T) {
	i := Interval{0.1 - 0.1959964, 0.1 + 0.1959964}
	for difference, want := range map[float64]int{0.1: 785, -0.1: 785, 0.2: 197} {
		if n := SampleSizePaired(100, difference, i); n != want {
			t.Errorf("%v: %d pairs, want %d", difference, n, want)
		}
	}
}
