package stats

import (
	_ "embed"
	"encoding/json"
	"math"
	"testing"
)

// verdicts lays out a table of counts, rows and columns loss, tie, win.
func verdicts(table [3][3]int) (a, b []float64) {
	for i := range 3 {
		for j := range 3 {
			for range table[i][j] {
				a, b = append(a, float64(i)/2), append(b, float64(j)/2)
			}
		}
	}
	return a, b
}

func TestAgree(t *testing.T) {
	for _, c := range []struct {
		table      [3][3]int
		raw, kappa float64
	}{
		// The textbook's 20, 5, 10, 15: observed 0.7, by chance 0.5·0.6 + 0.5·0.4 = 0.5.
		{[3][3]int{{15, 0, 10}, {}, {5, 0, 20}}, 0.7, 0.4},
		// Observed 16/20; by chance (9·9 + 3·4 + 8·7)/400 = 149/400.
		{[3][3]int{{8, 0, 1}, {0, 3, 0}, {1, 1, 6}}, 0.85, (0.85 - 149.0/400) / (1 - 149.0/400)},
		{[3][3]int{{0, 0, 5}, {}, {5, 0, 0}}, 0, -1},
		{[3][3]int{{}, {}, {0, 0, 7}}, 1, 1},
	} {
		a, b := verdicts(c.table)
		got := Agree(a, b, Bootstrap{Resamples: 200})
		if math.Abs(got.Raw-c.raw) > 1e-12 || math.Abs(got.Kappa-c.kappa) > 1e-12 || got.Table != c.table {
			t.Errorf("%v: raw %v, κ %v, want %v and %v", c.table, got.Raw, got.Kappa, c.raw, c.kappa)
		}
		if !(got.RawInterval.Low <= got.Raw && got.Raw <= got.RawInterval.High && got.KappaInterval.Low <= got.Kappa+1e-12 && got.Kappa <= got.KappaInterval.High+1e-12) {
			t.Errorf("%v: intervals %+v", c.table, got)
		}
	}
}

// What scikit-learn's cohen_kappa_score says of random tables (tools/goldens/length_control.py).
//
//go:embed testdata/kappa.json
var kappas []byte

func TestAgreeAsScikitLearn(t *testing.T) {
	var cases []struct {
		Table [3][3]int
		Kappa float64
	}
	if err := json.Unmarshal(kappas, &cases); err != nil || len(cases) == 0 {
		t.Fatal(err)
	}
	for _, c := range cases {
		a, b := verdicts(c.Table)
		if got := Agree(a, b, Bootstrap{Resamples: 10}); math.Abs(got.Kappa-c.Kappa) > 1e-12 {
			t.Errorf("%v: %v, scikit-learn has %v", c.Table, got.Kappa, c.Kappa)
		}
	}
}

// The bootstrap interval of a share is as wide as the binomial says: 0.7 of 50 is ± 1.96·√(0.7·0.3/50) = ± 0.127.
func TestAgreeInterval(t *testing.T) {
	a, b := verdicts([3][3]int{{15, 0, 10}, {}, {5, 0, 20}})
	i := Agree(a, b, Bootstrap{Resamples: 4000}).RawInterval
	if half := (i.High - i.Low) / 2; math.Abs(half-0.127) > 0.015 {
		t.Errorf("interval %+v", i)
	}
}
