package models

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/gomlx/compute"

	"gobpo/models/backend/backendtest"
)

// tiny is a model small enough for the Go backend, with grouped queries and an untied head.
var tiny = Config{Architecture: "llama", VocabSize: 37, HiddenSize: 16, IntermediateSize: 24, NumLayers: 2, NumHeads: 4,
	NumKVHeads: 2, HeadDim: 4, MaxPositions: 512, RopeTheta: 10000, RMSNormEps: 1e-6, Activation: "silu"}

var tinyLoRA = LoRA{Rank: 3, Alpha: 6, Targets: []string{AllLinear}}

// lively scales a fresh model up so that its distributions are far from uniform.
func lively(c Config, seed uint64) Weights {
	w := InitWeights(c, seed)
	for _, t := range w {
		if t.Rank() == 2 {
			t.MustMutableFlatData(func(flat any) {
				for i := range flat.([]float32) {
					flat.([]float32)[i] *= 20
				}
			})
		}
	}
	return w
}

// livelyAdapter has a B that is not zero.
func livelyAdapter(c Config, l LoRA, seed uint64) *Adapter {
	a := NewAdapter(c, l, seed)
	rng := rand.New(rand.NewPCG(seed, 7))
	for _, name := range a.Weights.Names() {
		a.Weights[name].MustMutableFlatData(func(flat any) {
			for i := range flat.([]float32) {
				flat.([]float32)[i] = float32(rng.NormFloat64() * 0.2)
			}
		})
	}
	return a
}

func randomTokens(rng *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	return ids
}

func randomRows(rng *rand.Rand, n, k, vocab int) []Row {
	rows := make([]Row, n)
	for i := range rows {
		rows[i].Prompt = randomTokens(rng, 1+rng.IntN(9), vocab)
		for range k {
			rows[i].Completions = append(rows[i].Completions, randomTokens(rng, 1+rng.IntN(7), vocab))
		}
	}
	return rows
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

// Padding, batch mates, the number of completions in a row and the order of rows change nothing.
func TestLogProbsInvariance(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		ctx := context.Background()
		p := Policy{Base: lively(tiny, 1), Adapter: livelyAdapter(tiny, tinyLoRA, 2)}
		rows := randomRows(rand.New(rand.NewPCG(3, 4)), 5, 2, tiny.VocabSize)
		rows[1].Prompt = rows[1].Prompt[:1]
		score := func(width int, rows []Row, batch int) [][][]float32 {
			t.Helper()
			s := NewScorer(b, tiny, func(n int) int { return (n + width - 1) / width * width })
			defer s.Finalize()
			out, err := s.LogProbs(ctx, p, rows, batch)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		want := score(16, rows, 5)
		wide, ragged := score(40, rows, 2), score(1, rows, 3)
		var single []Row
		for _, row := range rows {
			single = append(single, Row{row.Prompt, row.Completions[:1]}, Row{row.Prompt, row.Completions[1:]})
		}
		alone := score(16, single, 1)
		for i, row := range rows {
			for k := range row.Completions {
				wantClose(t, "wider", wide[i][k], want[i][k], 2e-5)
				wantClose(t, "exact widths", ragged[i][k], want[i][k], 2e-5)
				wantClose(t, "alone", alone[2*i+k][0], want[i][k], 2e-5)
			}
		}
	})
}

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" && os.Getenv("XLA_FLAGS") == "" {
		os.Setenv("XLA_FLAGS", "--xla_backend_optimization_level=3") // backendtest takes 0, which is for tests
	}
	code := m.Run()
	if testing.Verbose() {
		for _, c := range Compilations() {
			fmt.Printf("compiled %s %s in %.2f s\n", c.Name, c.Shapes, c.Seconds)
		}
	}
	os.Exit(code)
}
