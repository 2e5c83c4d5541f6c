package sample

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/gomlx/compute"

	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if testing.Verbose() {
		for _, c := range models.Compilations() {
			fmt.Printf("compiled %s %s in %.2f s\n", c.Name, c.Shapes, c.Seconds)
		}
	}
	os.Exit(code)
}

var tiny = models.Config{Architecture: "llama", VocabSize: 37, HiddenSize: 16, IntermediateSize: 24, NumLayers: 2, NumHeads: 4,
	NumKVHeads: 2, HeadDim: 4, MaxPositions: 512, RopeTheta: 10000, RMSNormEps: 1e-6}

// lively is a policy with an adapter whose distributions are far from uniform.
func lively(c models.Config) models.Policy {
	w := models.InitWeights(c, 1)
	a := models.NewAdapter(c, models.LoRA{Rank: 3, Alpha: 6, Targets: []string{models.AllLinear}}, 2)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range a.Weights.Names() {
		a.Weights[name].MustMutableFlatData(func(flat any) {
			for i := range flat.([]float32) {
				flat.([]float32)[i] = float32(rng.NormFloat64() * 0.2)
			}
		})
	}
	for _, t := range w {
		if t.Rank() == 2 {
			t.MustMutableFlatData(func(flat any) {
				for i := range flat.([]float32) {
					flat.([]float32)[i] *= 20
				}
			})
		}
	}
	return models.Policy{Base: w, Adapter: a}
}

func somePrompts(n int) []Prompt {
	rng := rand.New(rand.NewPCG(5, 6))
	prompts := make([]Prompt, n)
	for i := range prompts {
		prompts[i].Key = rng.Uint64()
		for range 1 + rng.IntN(9) {
			prompts[i].Tokens = append(prompts[i].Tokens, int32(rng.IntN(tiny.VocabSize)))
		}
	}
	return prompts
}

func mustSample(t testing.TB, s *Sampler, p models.Policy, prompts []Prompt, o Options) [][]Completion {
	t.Helper()
	out, err := s.Sample(context.Background(), p, prompts, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantClose(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= tol) {
			t.Fatalf("%s: value %d is %g, want %g (off by %g)", what, i, got[i], want[i], d)
		}
	}
}

// The sampler's log-probs are the scorer's on the same tokens: a test of cache, masks, positions and stopping at once.
func TestLogProbsAreTheScorers(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		p, prompts := lively(tiny), somePrompts(5)
		s := New(b, tiny, nil)
		defer s.Finalize()
		out := mustSample(t, s, p, prompts, Options{Temperature: 1, MaxNewTokens: 11, N: 3, Seed: 1, Stop: []int32{3, 9}, Batch: 3})
		rows := make([]models.Row, len(prompts))
		stopped := 0
		for i, cs := range out {
			rows[i].Prompt = prompts[i].Tokens
			for _, c := range cs {
				rows[i].Completions = append(rows[i].Completions, c.Tokens)
				if c.Stopped {
					stopped++
				}
				last := c.Tokens[len(c.Tokens)-1]
				if c.Stopped != (last == 3 || last == 9) || !c.Stopped && len(c.Tokens) != 11 {
					t.Errorf("stopped %v with %v", c.Stopped, c.Tokens)
				}
			}
		}
		if stopped == 0 || stopped == 15 {
			t.Errorf("%d of 15 stopped: this tests nothing", stopped)
		}
		scorer := models.NewScorer(b, tiny, nil)
		defer scorer.Finalize()
		want, err := scorer.LogProbs(context.Background(), p, rows, 5)
		if err != nil {
			t.Fatal(err)
		}
		for i := range out {
			for j, c := range out[i] {
				wantClose(t, "policy", c.PolicyLogProbs, want[i][j], 1e-4)
				if !slices.Equal(c.PolicyLogProbs, c.SampleLogProbs) {
					t.Errorf("sampling at temperature 1 without cuts must give the policy's log-probs")
				}
			}
		}
	})
}
