package sample

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/fetch"
	"gobpo/models/goldentest"
)

func golden(t *testing.T, into any, path ...string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		p := filepath.Join(append([]string{dir, "shared", "goldens"}, path...)...)
		raw, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		return filepath.Dir(p)
	}
	t.Skipf("no shared/goldens/%s beside the repository", filepath.Join(path...))
	return ""
}

func wantGreedy(t *testing.T, b compute.Backend, m *models.Model, prompts, want [][]int32) {
	t.Helper()
	s := New(b, m.Config, nil)
	defer s.Finalize()
	in := make([]Prompt, len(prompts))
	for i := range in {
		in[i].Tokens = prompts[i]
	}
	longest := 0
	for _, w := range want {
		longest = max(longest, len(w))
	}
	out := mustSample(t, s, models.Policy{Base: m.Base}, in, Options{Greedy: true, MaxNewTokens: longest, Batch: len(in)})
	for i := range out {
		if got := out[i][0].Tokens[:len(want[i])]; !slices.Equal(got, want[i]) {
			t.Errorf("row %d: greedy is %v, want %v", i, got, want[i])
		}
	}
}

// Every architecture continues greedily as transformers does, from a cache and a left-padded batch, and what the sampler
// says of its samples is what the scorer says, which has no cache: windows reach back across prompt and samples.
func TestGoldens(t *testing.T) {
	onXLA := []string{"gemma2-window", "gpt2-inner", "gpt_neox-sequential"} // what compiling leaves time for
	for _, g := range goldentest.All(t) {
		load := func(t *testing.T) *models.Model {
			m, err := models.Load(g.Dir, dtypes.Float32)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		t.Run(g.Name, func(t *testing.T) {
			b, m := backendtest.Go(t), load(t)
			wantGreedy(t, b, m, g.Rows, g.Greedy)
			wantScored(t, b, m, g.Rows)
			if slices.Contains(onXLA, g.Name) {
				t.Run("xla", func(t *testing.T) { wantScored(t, backendtest.XLA(t), load(t), g.Rows) })
			}
		})
	}
}

// wantScored samples two completions of each prompt and scores them.
func wantScored(t *testing.T, b compute.Backend, m *models.Model, prompts [][]int32) {
	t.Helper()
	width := func(n int) int { return (n + 39) / 40 * 40 }
	p, s, scorer := models.Policy{Base: m.Base}, New(b, m.Config, width), models.NewScorer(b, m.Config, width)
	defer s.Finalize()
	defer scorer.Finalize()
	in, rows := make([]Prompt, len(prompts)), make([]models.Row, len(prompts))
	for i, tokens := range prompts {
		in[i], rows[i].Prompt = Prompt{Key: uint64(i), Tokens: tokens}, tokens
	}
	out := mustSample(t, s, p, in, Options{Temperature: 1, MaxNewTokens: 13, N: 2, Batch: len(in)})
	for i := range out {
		for _, sample := range out[i] {
			rows[i].Completions = append(rows[i].Completions, sample.Tokens)
		}
	}
	want, err := scorer.LogProbs(context.Background(), p, rows, len(rows))
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		for j, sample := range out[i] {
			wantClose(t, "log-probs from the cache", sample.PolicyLogProbs, want[i][j], 1e-4)
		}
	}
}

func TestGreedySmolLM2(t *testing.T) {
	var want struct {
		Logps []struct {
			Prompt []int32 `json:"prompt_ids"`
		}
		Greedy []struct {
			Prompt string
			IDs    []int32
		}
	}
	golden(t, &want, "smollm2.json")
	path, ok := fetch.SmolLM2Path()
	if !ok {
		t.Skip("SmolLM2 is not here: run `go run ./tools/bpo fetch smollm2` or set GOBPO_SMOLLM2")
	}
	b := backendtest.XLA(t)
	m, err := models.Load(path, dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Base.Finalize()
	var prompts, ids [][]int32
	for _, g := range want.Greedy {
		prompts, ids = append(prompts, m.Tokenizer.Encode(g.Prompt)), append(ids, g.IDs)
	}
	wantGreedy(t, b, m, prompts, ids)
}
