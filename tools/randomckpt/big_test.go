//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
	"gobpo/models"
	"gobpo/models/backend"
)

// bigEnv runs the test below: "1", or the name of another model (--like).
const bigEnv = "GOBPO_BIG"

// A model of Gemma-2B's size loads in bfloat16 and takes a LoRA preference step, samples included, within 24 GiB.
func TestBigModelTrains(t *testing.T) {
	like := os.Getenv(bigEnv)
	if like == "" || testing.Short() {
		t.Skipf("takes minutes, 6 GB of disk and up to 24 GiB of memory: set %s=1", bigEnv)
	}
	if like == "1" {
		like = "gemma-2b"
	}
	c := checkpoint{like: like, dtype: "bfloat16", shardMB: 2000, dir: cmp.Or(os.Getenv("GOBPO_BIG_DIR"), t.TempDir())}
	start := time.Now()
	lap := func(what string) {
		peak, now, err := resident()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%-10s %6.1f s   resident %5.2f GiB, peak %5.2f GiB\n", what, time.Since(start).Seconds(), gib(now), gib(peak))
		start = time.Now()
	}
	if _, err := c.write(); err != nil {
		t.Fatal(err)
	}
	lap("write")
	b, err := backend.Open(backend.Options{Name: "xla:cpu", Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	idle, _, _ := resident()
	lap("backend")
	m, err := models.LoadTo(b, c.dir, dtypes.BFloat16)
	if err != nil {
		t.Fatal(err)
	}
	lap("load")
	var size int64
	for _, x := range m.Base {
		size += x.ByteSize()
	}
	if peak, _, _ := resident(); float64(peak-idle) > 1.2*float64(size) {
		t.Errorf("loading peaks at %.2f GiB, the weights are %.2f GiB", gib(peak-idle), gib(size))
	}
	cfg := bpo.DefaultConfig()
	cfg.Steps, cfg.Refresh, cfg.BatchSize, cfg.MicroBatch = 1, 1, 1, 1
	cfg.LoRA = models.LoRA{Rank: 8, Alpha: 16, Targets: []string{"q_proj", "v_proj"}}
	cfg.MaxPromptTokens, cfg.MaxCompletionTokens = 16, 8
	cfg.Sample.Batch = 1
	cfg.Ties = "random" // noise may tie; the step is taken all the same
	var metrics bpo.Metrics
	doing := "begin"
	policy, err := bpo.Train(context.Background(), bpo.Setup{
		Config: cfg, Backend: b, Model: m, Dir: t.TempDir(),
		Prompts:   []bpo.Prompt{{ID: "0", Text: "bak dem fin", Tokens: m.Tokenizer.EncodePlain("bak dem fin")}},
		Annotator: annotate.FromScore("length", func(_ annotate.Request, y string) (float64, error) { return float64(len(y)), nil }),
		Log:       func(_ int, v bpo.Metrics) error { metrics = v; return nil },
		Progress: func(what string, _, _ int) {
			if what != doing {
				lap(doing)
				doing = what
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	lap(doing)
	for _, done := range models.Compilations() {
		fmt.Printf("compiled %s %s in %.1f s\n", done.Name, done.Shapes, done.Seconds)
	}
	fmt.Println(metrics)
	if loss := metrics["loss"]; math.Abs(loss-math.Ln2) > 0.02 { // policy and reference are one: only rounding differs
		t.Errorf("the first DPO loss is %g, want ln 2", loss)
	}
	if policy.Adapter == nil || policy.Adapter.Weights.Hash() == models.NewAdapter(m.Config, cfg.LoRA, cfg.Seed).Weights.Hash() {
		t.Error("the step left the adapter as it was")
	}
	if peak, _, _ := resident(); peak > 24<<30 {
		t.Errorf("peak of %.1f GiB", gib(peak))
	}
}

func gib(n int64) float64 { return float64(n) / (1 << 30) }
