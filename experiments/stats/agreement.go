package stats

import (
	"math/rand/v2"
	"slices"
)

// Agreement says how far two judges give the same verdicts on the same pairs.
type Agreement struct {
	N             int       `json:"n"`
	Table         [3][3]int `json:"table"` // of pairs: rows the first judge's loss, tie, win, columns the second's
	Raw           float64   `json:"raw"`   // share of equal verdicts
	RawInterval   Interval  `json:"raw_interval"`
	Kappa         float64   `json:"kappa"` // Cohen's κ over the three verdicts: (Raw − chance)/(1 − chance); 1 where chance alone is 1
	KappaInterval Interval  `json:"kappa_interval"`
}

// Agree compares verdicts, 1 win, ½ tie, 0 loss, pair by pair. Intervals are 95 % bootstrap percentiles over pairs.
func Agree(a, b []float64, boot Bootstrap) Agreement {
	var out Agreement
	out.N = len(a)
	cells := make([][2]int, len(a))
	for i := range a {
		cells[i] = [2]int{int(2 * a[i]), int(2 * b[i])}
		out.Table[cells[i][0]][cells[i][1]]++
	}
	out.Raw, out.Kappa = kappa(out.Table, out.N)
	n := boot.Resamples
	if n == 0 {
		n = 1000
	}
	raws, kappas := make([]float64, n), make([]float64, n)
	rng := rand.New(rand.NewPCG(boot.Seed, 0x6167726565))
	for i := range raws {
		var t [3][3]int
		for range cells {
			c := cells[rng.IntN(len(cells))]
			t[c[0]][c[1]]++
		}
		raws[i], kappas[i] = kappa(t, out.N)
	}
	middle := func(x []float64) Interval {
		slices.Sort(x)
		return Interval{x[int(0.025*float64(n-1))], x[int(0.975*float64(n-1)+0.5)]}
	}
	out.RawInterval, out.KappaInterval = middle(raws), middle(kappas)
	return out
}

func kappa(t [3][3]int, n int) (raw, k float64) {
	chance := 0.0
	for i := range 3 {
		raw += float64(t[i][i]) / float64(n)
		row, column := 0, 0
		for j := range 3 {
			row, column = row+t[i][j], column+t[j][i]
		}
		chance += float64(row) / float64(n) * float64(column) / float64(n)
	}
	if chance == 1 {
		return raw, 1
	}
	return raw, (raw - chance) / (1 - chance)
}
