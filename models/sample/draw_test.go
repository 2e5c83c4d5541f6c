package sample

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

// exactDistribution is the sampling distribution in float64, by sorting: temperature, then top k, then the nucleus,
// ties at the edges kept.
func exactDistribution(logits []float32, o Options) []float64 {
	p := make([]float64, len(logits))
	order := make([]int, len(logits))
	total, highest := 0.0, float64(slices.Max(logits))
	for i, l := range logits {
		order[i] = i
		p[i] = math.Exp((float64(l) - highest) / o.Temperature)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(logits[b], logits[a]) })
	keepFrom := func(edge float32) {
		total = 0
		for i := range p {
			if logits[i] < edge {
				p[i] = 0
			}
			total += p[i]
		}
	}
	keepFrom(float32(math.Inf(-1)))
	if o.TopK > 0 && o.TopK < len(p) {
		keepFrom(logits[order[o.TopK-1]])
	}
	if o.TopP < 1 {
		mass := 0.0
		for _, i := range order {
			if mass += p[i]; mass >= o.TopP*total {
				keepFrom(logits[i])
				break
			}
		}
	}
	for i := range p {
		p[i] /= total
	}
	return p
}

// drawn runs draw on the same logits for every u.
func drawn(t *testing.T, b compute.Backend, logits []float32, us []float32, o Options) (tokens []int32, sampled, policy []float32) {
	t.Helper()
	e := models.NewExec(b, "draw", func(_ []models.NodeSet, in []*op.Node) ([]models.NodeSet, []*op.Node) {
		columns := op.BroadcastToDims(op.InsertAxes(in[0], -1), len(logits), len(us))
		token, sampled, policy := o.draw(columns, in[1])
		return nil, []*op.Node{token, sampled, policy}
	})
	defer e.Finalize()
	_, out, err := e.Call(nil, tensors.FromFlatDataAndDimensions(logits, len(logits)), tensors.FromFlatDataAndDimensions(us, len(us)))
	if err != nil {
		t.Fatal(err)
	}
	defer finalize(out...)
	return tensors.MustCopyFlatData[int32](out[0]), tensors.MustCopyFlatData[float32](out[1]), tensors.MustCopyFlatData[float32](out[2])
}

// The drawn tokens are the exact inverse of the distribution function, their frequencies pass a chi-square test, cuts
// keep exactly the right set, and both log-probs are right; with vocabularies below, at and above a block's width.
func TestDraw(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		rng := rand.New(rand.NewPCG(1, 1))
		us := make([]float32, 4000)
		for i := range us {
			us[i] = uniform(7, 11, i, 0)
		}
		us[0], us[1] = 0, 1-1.0/(1<<24)
		for _, tc := range []struct {
			vocab int
			o     Options
		}{
			{6, Options{Temperature: 1, TopP: 1}},
			{128, Options{Temperature: 0.7, TopP: 1}},
			{131, Options{Temperature: 1.5, TopK: 5, TopP: 1}},
			{140, Options{Temperature: 1, TopP: 0.6}},
			{300, Options{Temperature: 0.8, TopK: 40, TopP: 0.9}},
			{6, Options{Temperature: 1, TopK: 1, TopP: 1}},
			{6, Options{Temperature: 1, TopP: 1e-6}},
		} {
			logits := make([]float32, tc.vocab)
			for i := range logits {
				logits[i] = float32(rng.NormFloat64() * 3)
			}
			logits[tc.vocab-1] = logits[0] // a tie
			logits[tc.vocab/2] = float32(math.Inf(-1))
			want := exactDistribution(logits, tc.o)
			tokens, sampled, policy := drawn(t, b, logits, us, tc.o)
			plain := exactDistribution(logits, Options{Temperature: 1, TopP: 1})
			counts := make([]float64, tc.vocab)
			cumulated := make([]float64, tc.vocab)
			sum := 0.0
			for i, p := range want {
				sum += p
				cumulated[i] = sum
			}
			for i, token := range tokens {
				counts[token]++
				if want[token] == 0 {
					t.Fatalf("%+v: token %d was drawn but is cut", tc.o, token)
				}
				if lo, hi, u := cumulated[token]-want[token], cumulated[token], float64(us[i]); u < lo-1e-5 || u > hi+1e-5 {
					t.Fatalf("%+v: u = %g drew token %d, whose interval is [%g, %g)", tc.o, u, token, lo, hi)
				}
				if d := math.Abs(float64(sampled[i]) - math.Log(want[token])); d > 1e-4 {
					t.Fatalf("%+v: sampling log-prob off by %g", tc.o, d)
				}
				if d := math.Abs(float64(policy[i]) - math.Log(plain[token])); d > 1e-4 {
					t.Fatalf("%+v: policy log-prob off by %g", tc.o, d)
				}
			}
			chi2, cells := 0.0, 0.0
			rest, restCount := 0.0, 0.0
			for i, p := range want {
				if e := p * float64(len(us)); e >= 10 {
					chi2 += (counts[i] - e) * (counts[i] - e) / e
					cells++
				} else {
					rest, restCount = rest+e, restCount+counts[i]
				}
			}
			if rest > 0 {
				chi2 += (restCount - rest) * (restCount - rest) / max(rest, 1)
				cells++
			}
			// mean cells−1, variance 2(cells−1): five standard deviations
			if limit := cells - 1 + 5*math.Sqrt(2*cells); chi2 > limit+5 {
				t.Errorf("%+v: χ² = %.1f for %g cells", tc.o, chi2, cells)
			}
		}
		logits := []float32{0.1, 3, 2, 3}
		tokens, sampled, policy := drawn(t, b, logits, []float32{0.99}, Options{Greedy: true, Temperature: 1, TopP: 1})
		if tokens[0] != 1 || sampled[0] != 0 || math.Abs(float64(policy[0])-math.Log(exactDistribution(logits, Options{Temperature: 1, TopP: 1})[1])) > 1e-6 {
			t.Errorf("greedy gives %d, %g, %g", tokens[0], sampled[0], policy[0])
		}
	})
}
