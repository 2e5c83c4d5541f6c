package models

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend/backendtest"
	"gobpo/models/fetch"
)

// halved rounds every weight to bfloat16.
func halved(w Weights) Weights {
	out := Weights{}
	for name, t := range w {
		flat := tensors.MustCopyFlatData[float32](t)
		half := make([]bfloat16.BFloat16, len(flat))
		for i, v := range flat {
			half[i] = bfloat16.FromFloat32(v)
		}
		out[name] = tensors.FromFlatDataAndDimensions(half, t.Shape().Dimensions...)
	}
	return out
}

// A bfloat16 base with a float32 adapter scores as the float32 base does, within what 8 bits of mantissa lose: 0.05 nats a
// token. Norms, softmax and log-probs are float32, so that nothing accumulates in bfloat16.
func TestBFloat16Base(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		base, lora := InitWeights(tiny, 5), LoRA{Rank: 2, Alpha: 4, Targets: []string{AllLinear}}
		rows := randomRows(rand.New(rand.NewPCG(9, 9)), 5, 2, tiny.VocabSize)
		s := NewScorer(b, tiny, nil)
		defer s.Finalize()
		full, err := s.LogProbs(context.Background(), Policy{Base: base, Adapter: livelyAdapter(tiny, lora, 6)}, rows, 4)
		if err != nil {
			t.Fatal(err)
		}
		half, err := s.LogProbs(context.Background(), Policy{Base: halved(base), Adapter: livelyAdapter(tiny, lora, 6)}, rows, 4)
		if err != nil {
			t.Fatal(err)
		}
		same := true
		for i := range full {
			for k := range full[i] {
				wantClose(t, "bfloat16 log-probs", half[i][k], full[i][k], 0.05)
				same = same && maxDiff(half[i][k], full[i][k]) == 0
			}
		}
		if same {
			t.Error("the bfloat16 base gave float32's log-probs to the bit: it was not used")
		}
		a := NewAdapter(tiny, lora, 1)
		for name, w := range a.Weights {
			if w.DType() != dtypes.Float32 {
				t.Errorf("adapter tensor %s is %s", name, w.DType())
			}
		}
	})
}

// The same on the real model, against what transformers computes in float32.
func TestBFloat16SmolLM2(t *testing.T) {
	path, ok := fetch.SmolLM2Path()
	if !ok {
		t.Skip("SmolLM2 is not here: run `go run ./tools/bpo fetch smollm2` or set GOBPO_SMOLLM2")
	}
	var want struct {
		Logps []struct {
			Prompt     []int32   `json:"prompt_ids"`
			Completion []int32   `json:"completion_ids"`
			TokenLogps []float32 `json:"token_logps"`
		}
	}
	readJSON(t, shared(t, "goldens", "smollm2.json"), &want)
	b := backendtest.XLA(t)
	m, err := Load(path, dtypes.BFloat16)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Base.Finalize()
	var rows []Row
	for _, g := range want.Logps {
		rows = append(rows, Row{g.Prompt, [][]int32{g.Completion}})
	}
	s := NewScorer(b, m.Config, func(int) int { return 64 })
	defer s.Finalize()
	got, err := s.LogProbs(context.Background(), Policy{Base: m.Base}, rows, len(rows))
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range want.Logps {
		wantClose(t, "log-probs", got[i][0], g.TokenLogps, 0.05)
		t.Logf("row %d: off by at most %.2g", i, maxDiff(got[i][0], g.TokenLogps))
	}
}
