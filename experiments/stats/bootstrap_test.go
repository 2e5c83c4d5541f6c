package stats_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
	"pgregory.net/rapid"

	"gobpo/experiments/stats"
)

func TestBootstrapByHand(t *testing.T) {
	// Without spread there is none in the interval, and each stratum keeps its mean however it is resampled.
	for _, groups := range [][][]float64{{{0.5, 0.5, 0.5}}, {{1}}, {{1, 1}, {0, 0}}, {{1}, nil, {0}}} {
		mean, ci := stats.Bootstrap{}.Mean(groups)
		if ci.Low != mean || ci.High != mean {
			t.Errorf("%v: mean %v, interval %+v", groups, mean, ci)
		}
	}
	// Two values 0 and 1: the resampled mean is 0, ½ or 1 with probability ¼, ½, ¼, so a 95 % interval is [0, 1]
	// and a 40 % interval [½, ½].
	mean, ci := stats.Bootstrap{Resamples: 4000}.Mean([][]float64{{0, 1}})
	if mean != 0.5 || ci != (stats.Interval{Low: 0, High: 1}) {
		t.Errorf("95 %%: %v, %+v", mean, ci)
	}
	if _, ci = (stats.Bootstrap{Resamples: 4000, Level: 0.4}).Mean([][]float64{{0, 1}}); ci != (stats.Interval{Low: 0.5, High: 0.5}) {
		t.Errorf("40 %%: %+v", ci)
	}
	mean, ci = stats.Bootstrap{}.Mean(nil)
	if !math.IsNaN(mean) || !math.IsNaN(ci.Low) || !math.IsNaN(ci.High) {
		t.Errorf("of nothing: %v, %+v", mean, ci)
	}
}

// The mean is over values, not over group means: groups keep their size.
func TestBootstrapWeighsByValue(t *testing.T) {
	if mean, _ := (stats.Bootstrap{}).Mean([][]float64{{1, 1, 1}, {0}}); mean != 0.75 {
		t.Errorf("got %v, want 0.75", mean)
	}
}

func TestBootstrapIsDeterministic(t *testing.T) {
	groups := [][]float64{{0, 1, 1, 0.5, 0, 1}, {1, 1, 0, 0.5}}
	_, a := stats.Bootstrap{Seed: 7}.Mean(groups)
	_, b := stats.Bootstrap{Seed: 7, Resamples: 1000, Level: 0.95}.Mean(groups) // the defaults, spelled out
	if a != b {
		t.Errorf("%+v and %+v", a, b)
	}
	normal := draws(1, 200, func(r *rand.Rand) float64 { return r.NormFloat64() })
	_, a = stats.Bootstrap{Seed: 7}.Mean(normal)
	if _, b = (stats.Bootstrap{Seed: 8}).Mean(normal); a == b {
		t.Error("another seed gives the same interval")
	}
}

func draws(seed uint64, n int, draw func(*rand.Rand) float64) [][]float64 {
	rng := rand.New(rand.NewPCG(seed, 99))
	values := make([]float64, n)
	for i := range values {
		values[i] = draw(rng)
	}
	return [][]float64{values}
}

// A large normal sample has a standard error of 1/√n, and so an interval of about ±1.96 of it.
func TestBootstrapWidth(t *testing.T) {
	const n = 2000
	mean, ci := stats.Bootstrap{Resamples: 2000}.Mean(draws(3, n, func(r *rand.Rand) float64 { return r.NormFloat64() }))
	half := 1.96 / math.Sqrt(n)
	if !near(mean-ci.Low, half, 0.12*half) || !near(ci.High-mean, half, 0.12*half) {
		t.Errorf("mean %v, interval %+v; want ±%v", mean, ci, half)
	}
}

// Where strata differ, stratifying removes what is between them from the width.
func TestStrataNarrowTheInterval(t *testing.T) {
	low, high := make([]float64, 100), make([]float64, 100)
	for i := range low {
		low[i], high[i] = float64(i%2)*0.1, 10+float64(i%2)*0.1
	}
	_, apart := stats.Bootstrap{}.Mean([][]float64{low, high})
	_, pooled := stats.Bootstrap{}.Mean([][]float64{slices.Concat(low, high)})
	if a, p := apart.High-apart.Low, pooled.High-pooled.Low; a > p/20 {
		t.Errorf("stratified width %v, pooled %v", a, p)
	}
}

// A prompt is as hard under every seed: five seeds of the same outcomes are no more prompts than one.
func TestPromptsAreDrawnTogetherWithAllTheirSeeds(t *testing.T) {
	one := draws(4, 100, func(r *rand.Rand) float64 { return float64(r.IntN(2)) })
	_, alone := stats.Bootstrap{Seed: 1}.Mean(one)
	_, five := stats.Bootstrap{Seed: 1}.Mean([][]float64{one[0], one[0], one[0], one[0], one[0]})
	if !near(alone.Low, five.Low, 1e-12) || !near(alone.High, five.High, 1e-12) {
		t.Errorf("one seed %+v, five that say the same %+v", alone, five)
	}
	if got := stats.ByPrompt([][]float64{{1, 0}, {0, 0.5}}); !slices.Equal(got, []float64{0.5, 0.25}) {
		t.Errorf("by prompt %v", got)
	}
	if got := stats.ByPrompt([][]float64{{1, 0}, {0}}); got != nil {
		t.Errorf("of unequal lengths %v", got)
	}
}

// Every pattern of outcomes over five to seven seeds meets one with the same sum: neither is better, to the last bit.
func TestEqualSumsByPromptAreNotDifferences(t *testing.T) {
	for seeds := 5; seeds <= 7; seeds++ {
		patterns := int(math.Pow(3, float64(seeds)))
		x, plain := make([][]float64, seeds), make([][]float64, seeds) // plain has the same halves, filled up from the first seed
		for pattern := range patterns {
			halves := 0
			for g, rest := 0, pattern; g < seeds; g, rest = g+1, rest/3 {
				x[g] = append(x[g], float64(rest%3)/2)
				halves += rest % 3
			}
			for g := range plain {
				plain[g] = append(plain[g], float64(min(2, max(0, halves-2*g)))/2)
			}
		}
		if better, worse, p := stats.SignTest(stats.ByPrompt(x), stats.ByPrompt(plain)); better+worse > 0 || p != 1 {
			t.Errorf("%d seeds: of %d equal patterns %d better, %d worse, p = %v", seeds, patterns, better, worse, p)
		}
		if mean, ci, err := (stats.Bootstrap{}).Difference(x, plain); err != nil || mean != 0 || ci != (stats.Interval{}) {
			t.Errorf("%d seeds: difference %v, %+v, %v", seeds, mean, ci, err)
		}
	}
}

func TestBootstrapProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SliceOfN(outcomes(), 1, 4).Draw(t, "groups")
		mean, ci := stats.Bootstrap{Resamples: 200}.Mean(groups)
		if !(0 <= ci.Low && ci.Low <= ci.High && ci.High <= 1 && 0 <= mean && mean <= 1) {
			t.Fatalf("mean %v, interval %+v", mean, ci)
		}
		if want := stats.Count(slices.Concat(groups...)).Rate(); !near(mean, want, 1e-12) {
			t.Fatalf("mean %v, win rate %v", mean, want)
		}
	})
}

// The claim of a 95 % interval, on simulated evaluations: 120 prompts in two seeds, wins, ties and losses with known
// probabilities. 600 trials have a standard error of 0.009; percentile intervals are known to run slightly short.
func TestBootstrapCoverage(t *testing.T) {
	for _, p := range []struct{ win, tie float64 }{{0.5, 0.1}, {0.8, 0.05}} {
		truth, covered, wilson := p.win+p.tie/2, 0, 0
		const trials = 600
		rng := rand.New(rand.NewPCG(11, 12))
		for trial := range uint64(trials) {
			groups := make([][]float64, 2)
			for g := range groups {
				for range 60 {
					u, o := rng.Float64(), 0.0
					if u < p.win {
						o = 1
					} else if u < p.win+p.tie {
						o = 0.5
					}
					groups[g] = append(groups[g], o)
				}
			}
			mean, ci := stats.Bootstrap{Resamples: 400, Seed: trial}.Mean(groups)
			if ci.Low <= truth && truth <= ci.High {
				covered++
			}
			if w := stats.Wilson(mean, 120, 0.95); w.Low <= truth && truth <= w.High {
				wilson++
			}
		}
		got, check := float64(covered)/trials, float64(wilson)/trials
		t.Logf("win rate %.3f: bootstrap covers %.3f, Wilson %.3f", truth, got, check)
		if got < 0.915 || got > 0.98 || check < 0.93 {
			t.Errorf("win rate %v: coverage %v (Wilson %v), want about 0.95", truth, got, check)
		}
	}
}

func TestDifferenceByHand(t *testing.T) {
	x, y := [][]float64{{1, 0.5}, {1}}, [][]float64{{0, 0.5}, {1}}
	mean, ci, err := stats.Bootstrap{Resamples: 4000}.Difference(x, y)
	// Differences 1, 0 | 0: the second stratum is constant, the first as in TestBootstrapByHand over 3 values.
	if err != nil || !near(mean, 1.0/3, 1e-15) || ci.Low != 0 || !near(ci.High, 2.0/3, 1e-15) {
		t.Errorf("%v, %+v, %v", mean, ci, err)
	}
	if mean, ci, err = (stats.Bootstrap{}).Difference(x, x); err != nil || mean != 0 || ci != (stats.Interval{}) {
		t.Errorf("an arm against itself: %v, %+v, %v", mean, ci, err)
	}
}

func TestDifferenceRefusesOtherShapes(t *testing.T) {
	for want, y := range map[string][][]float64{
		"1 groups against 2":                  {{1, 2}, {3}},
		"group 0 has 2 values against 1":      {{1}},
		"paired difference: 1 groups against": nil,
	} {
		if _, _, err := (stats.Bootstrap{}).Difference([][]float64{{1, 2}}, y); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Two arms that share hard and easy prompts: pairing sees a small steady gap that the arms' own spread would hide.
func TestPairingFindsASmallGap(t *testing.T) {
	prompts := draws(5, 300, func(r *rand.Rand) float64 { return 10 * r.Float64() })
	x := [][]float64{slices.Clone(prompts[0])}
	for i := range x[0] {
		x[0][i] += 0.1 + 0.05*distuv.UnitNormal.Quantile((float64(i)+0.5)/300)
	}
	_, paired, err := stats.Bootstrap{}.Difference(x, prompts)
	if err != nil || paired.Low < 0.08 || paired.High > 0.12 {
		t.Errorf("paired %+v, %v; want about 0.1 ± 0.006", paired, err)
	}
	_, alone := stats.Bootstrap{}.Mean(x)
	if alone.High-alone.Low < 10*(paired.High-paired.Low) {
		t.Errorf("one arm's interval %+v should be far wider than the paired %+v", alone, paired)
	}
}
