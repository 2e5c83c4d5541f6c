package sample

import (
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

func TestGreedyLlama(t *testing.T) {
	var want struct {
		Rows, Greedy [][]int32
	}
	dir := golden(t, &want, "hf", "llama", "expected.json")
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		m, err := models.Load(dir, dtypes.Float32)
		if err != nil {
			t.Fatal(err)
		}
		wantGreedy(t, b, m, want.Rows, want.Greedy)
	})
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
