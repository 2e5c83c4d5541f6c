package models

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend/backendtest"
	"gobpo/models/fetch"
	"gobpo/models/goldentest"
)

// shared finds ../shared beside the repository, which holds reference outputs that are not part of it.
func shared(t testing.TB, path ...string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		p := filepath.Join(append([]string{dir, "shared"}, path...)...)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skipf("no shared/%s beside the repository", filepath.Join(path...))
	return ""
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// lastLogits is the naive forward pass: no cache, no padding, one row; [vocab] after the last token.
func lastLogits(t testing.TB, b compute.Backend, c Config, p Policy, tokens []int32) []float32 {
	t.Helper()
	base, adapter := p.Sets()
	e := naiveExec(b, c, p)
	defer e.Finalize()
	_, out, err := e.Call([]Arg{{Set: base}, {Set: adapter}}, tensors.FromFlatDataAndDimensions(tokens, 1, len(tokens)))
	if err != nil {
		t.Fatal(err)
	}
	defer finalize(out)
	return tensors.MustCopyFlatData[float32](out[0])
}

func naiveExec(b compute.Backend, c Config, p Policy) *Exec {
	return NewExec(b, "naive", func(sets []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
		n := in[0].Shape().Dim(1)
		g, params := in[0].Graph(), &Params{Base: sets[0], Adapter: sets[1], LoRA: p.LoRA()}
		h := c.Hidden(params, in[0], op.Iota(g, shapes.Make(dtypes.Int32, 1, n), 1), func(layer int, q, k, v *op.Node) *op.Node {
			return c.Attention(q, Span{Keys(k, 1), Values(v, 1), Causal(g, n, c.window(layer))})
		})
		return nil, []*op.Node{c.Logits(params, op.SliceAxis(h, 1, op.AxisElem(n-1)))}
	})
}

func maxDiff(a, b []float32) float64 {
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i]-b[i])))
	}
	return worst
}

// Every architecture scores as transformers does, with and without an adapter: with prompts of one token (right-padded
// batch), and with prompts cut where left padding, the border to the completion and windows all matter.
func TestGoldens(t *testing.T) {
	for _, g := range goldentest.All(t) {
		t.Run(g.Name, func(t *testing.T) {
			m, err := Load(g.Dir, dtypes.Float32)
			if err != nil {
				t.Fatal(err)
			}
			if g.Tensors != nil {
				if got := m.Config.Shapes(); !reflect.DeepEqual(got, g.Tensors) {
					t.Errorf("shapes are %v, want %v", got, g.Tensors)
				}
			}
			policies := func() map[string]Policy { // anew for each backend, to which tensors belong
				m, err := Load(g.Dir, dtypes.Float32)
				if err != nil {
					t.Fatal(err)
				}
				all := map[string]Policy{"base": {Base: m.Base}}
				if g.Adapter != "" {
					a, err := LoadAdapter(g.Adapter, m.Config)
					if err != nil {
						t.Fatal(err)
					}
					all["lora"] = Policy{Base: m.Base, Adapter: a}
				}
				return all
			}
			want := map[string][][]float32{"base": g.Logps, "lora": g.LoRALogps, "folded": g.LoRALogps}
			compare := func(t *testing.T, b compute.Backend, p Policy, which string, at func(row []int32) int, width int) {
				t.Helper()
				rows := make([]Row, len(g.Rows))
				for i, r := range g.Rows {
					n := at(r)
					rows[i] = Row{r[:n], [][]int32{r[n:], r[n : n+2]}}
				}
				s := NewScorer(b, m.Config, func(n int) int { return (n + width - 1) / width * width })
				defer s.Finalize()
				got, err := s.LogProbs(context.Background(), p, rows, len(rows))
				if err != nil {
					t.Fatal(err)
				}
				worst := 0.0
				for i, r := range g.Rows {
					tail := want[which][i][at(r)-1:]
					wantClose(t, which, got[i][0], tail, 1e-4)
					wantClose(t, which+", a shorter completion beside it", got[i][1], tail[:2], 1e-4)
					worst = max(worst, maxDiff(got[i][0], tail))
				}
				t.Logf("%s: log-probs off by at most %.2g", which, worst)
			}
			first := func([]int32) int { return 1 }
			middle := func(r []int32) int { return len(r)/2 + 1 }
			b, all := backendtest.Go(t), policies()
			if p, ok := all["lora"]; ok {
				if all["folded"], err = Fold(b, p); err != nil {
					t.Fatal(err)
				}
			}
			for which, p := range all {
				compare(t, b, p, which, first, 40)
				compare(t, b, p, which, middle, 24)
				compare(t, b, p, which, middle, 1)
			}
			logits := lastLogits(t, b, m.Config, all["base"], g.Rows[0])
			wantClose(t, "last logits", logits, g.LastLogits, 1e-4)
			if g.Adapter != "" { // XLA compiles for a second where Go takes none
				compare(t, backendtest.XLA(t), policies()["lora"], "lora", middle, 24)
			}
		})
	}
}

// smolLM2 is the real model, or a skip.
func smolLM2(t testing.TB) *Model {
	t.Helper()
	path, ok := fetch.SmolLM2Path()
	if !ok {
		t.Skip("SmolLM2 is not here: run `go run ./tools/bpo fetch smollm2` or set GOBPO_SMOLLM2")
	}
	m, err := Load(path, dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGoldenSmolLM2(t *testing.T) {
	var want struct {
		Logps []struct {
			Prompt      []int32   `json:"prompt_ids"`
			Completion  []int32   `json:"completion_ids"`
			TokenLogps  []float32 `json:"token_logps"`
			ChatMessage string    `json:"prompt"`
		}
		ChatTemplate string `json:"chat_template"`
	}
	readJSON(t, shared(t, "goldens", "smollm2.json"), &want)
	b, m := backendtest.XLA(t), smolLM2(t)
	defer m.Base.Finalize()
	var rows []Row
	for _, g := range want.Logps {
		if got := m.Tokenizer.Encode(g.ChatMessage); !slices.Equal(got, g.Prompt) {
			t.Fatalf("prompt ids are %v, want %v", got, g.Prompt)
		}
		rows = append(rows, Row{g.Prompt, [][]int32{g.Completion}})
	}
	if m.ChatTemplate != want.ChatTemplate {
		t.Errorf("chat template is %q", m.ChatTemplate)
	}
	s := NewScorer(b, m.Config, func(int) int { return 64 })
	defer s.Finalize()
	got, err := s.LogProbs(context.Background(), Policy{Base: m.Base}, rows, len(rows))
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range want.Logps {
		wantClose(t, "log-probs", got[i][0], g.TokenLogps, 2e-3)
		t.Logf("row %d: off by at most %.2g", i, maxDiff(got[i][0], g.TokenLogps))
	}
}
