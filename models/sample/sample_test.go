package sample

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"

	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" && os.Getenv("XLA_FLAGS") == "" {
		os.Setenv("XLA_FLAGS", "--xla_backend_optimization_level=3") // backendtest takes 0, which is for tests
	}
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

// A seed gives the same tokens on both backends, in whatever batches and among whatever other prompts.
func TestSeedDecides(t *testing.T) {
	p, prompts := lively(tiny), somePrompts(7)
	o := Options{Temperature: 0.9, TopK: 20, TopP: 0.95, MaxNewTokens: 9, N: 2, Seed: 5, Stop: []int32{3}, Batch: 7}
	var want [][]Completion
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		p := models.Policy{Base: p.Base.Clone(), Adapter: p.Adapter.Clone()} // a tensor belongs to one backend
		s := New(b, tiny, nil)
		defer s.Finalize()
		same := func(what string, got, want []Completion) {
			t.Helper()
			for j := range want {
				if !slices.Equal(got[j].Tokens, want[j].Tokens) || got[j].Stopped != want[j].Stopped {
					t.Errorf("%s: sample %d is %v, want %v", what, j, got[j].Tokens, want[j].Tokens)
				}
				wantClose(t, what, got[j].SampleLogProbs, want[j].SampleLogProbs, 1e-4)
				wantClose(t, what, got[j].PolicyLogProbs, want[j].PolicyLogProbs, 1e-4)
			}
		}
		all := mustSample(t, s, p, prompts, o)
		if want == nil {
			want = all
		}
		small := o
		small.Batch = 2
		var told []int
		few, err := s.Sample(context.Background(), p, prompts, small, func(done, total int) { told = append(told, done, total) })
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(told, []int{2, 7, 4, 7, 6, 7, 7, 7}) {
			t.Errorf("progress was %v", told)
		}
		folded := o
		folded.Fold = true
		dense := mustSample(t, s, p, prompts, folded)
		alone := mustSample(t, s, p, prompts[2:3], o)
		for i := range want {
			same("backend", all[i], want[i])
			same("batches of two", few[i], want[i])
			same("folded", dense[i], want[i])
		}
		same("alone", alone[0], want[2])
		if p.Adapter.Weights["model.layers.0.mlp.up_proj.lora_A.weight"].CheckValid() != nil {
			t.Error("folding consumed the adapter")
		}
		other := o
		other.Seed++
		if again := mustSample(t, s, p, prompts, other); slices.EqualFunc(again, want, func(a, b []Completion) bool {
			return slices.Equal(a[0].Tokens, b[0].Tokens)
		}) {
			t.Error("another seed gave the same tokens")
		}
		if slices.Equal(want[0][0].Tokens, want[0][1].Tokens) {
			t.Error("both samples of a prompt are the same")
		}
	})
}

// A limit ends completions early, and lets what is compiled exceed the context.
func TestLimit(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		c := tiny
		c.MaxPositions = 16
		s := New(b, c, nil)
		defer s.Finalize()
		p, prompts := lively(c), somePrompts(3) // of at most 9 tokens
		o := Options{Temperature: 1, MaxNewTokens: 7, N: 2, Seed: 1, Stop: []int32{3, 9}}
		want := mustSample(t, s, p, prompts, o)
		o.MaxNewTokens, o.Limit = 16, 7
		for i, all := range mustSample(t, s, p, prompts, o) {
			for j, got := range all {
				if !slices.Equal(got.Tokens, want[i][j].Tokens) || got.Stopped != want[i][j].Stopped {
					t.Errorf("%v, want %v", got, want[i][j])
				}
				wantClose(t, "policy", got.PolicyLogProbs, want[i][j].PolicyLogProbs, 1e-4)
			}
		}
	})
}

func TestSampleRefuses(t *testing.T) {
	b := backendtest.Go(t)
	s := New(b, tiny, nil)
	prompt := []Prompt{{Tokens: []int32{1}}}
	good := Options{Temperature: 1, MaxNewTokens: 2}
	for name, f := range map[string]func(o *Options, p *[]Prompt){
		"temperature":     func(o *Options, _ *[]Prompt) { o.Temperature = 0 },
		"top_k":           func(o *Options, _ *[]Prompt) { o.TopK = -1 },
		"top_p":           func(o *Options, _ *[]Prompt) { o.TopP = 1.5 },
		"max_new_tokens":  func(o *Options, _ *[]Prompt) { o.MaxNewTokens = 0 },
		"batch":           func(o *Options, _ *[]Prompt) { o.Batch = -1 },
		"no tokens":       func(_ *Options, p *[]Prompt) { *p = []Prompt{{}} },
		"the model takes": func(o *Options, _ *[]Prompt) { o.MaxNewTokens = 512 },
		"limit":           func(o *Options, _ *[]Prompt) { o.Limit = 3 },
	} {
		o, prompts := good, prompt
		f(&o, &prompts)
		if _, err := s.Sample(context.Background(), models.Policy{}, prompts, o, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Sample(ctx, lively(tiny), prompt, good, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if out, err := s.Sample(context.Background(), models.Policy{}, nil, good, nil); err != nil || len(out) != 0 {
		t.Errorf("no prompts: %v, %v", out, err)
	}
}
