//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"

	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

const childEnv = "GOBPO_LOAD_CHILD" // "<dtype> <directory>", or "none" to load nothing

// reading is what a child process tells about itself; sizes in bytes.
type reading struct {
	Peak, Now int64 // resident
	Weights   int64
	Seconds   float64
	AfterHash int64 // peak, the weights having been hashed too
}

// resident reads the peak and the present resident set of this process.
func resident() (peak, now int64, err error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(raw)) {
		for key, to := range map[string]*int64{"VmHWM:": &peak, "VmRSS:": &now} {
			if rest, ok := strings.CutPrefix(line, key); ok {
				_, scanErr := fmt.Sscan(rest, to)
				err = errors.Join(err, scanErr)
				*to <<= 10 // they are in kB
			}
		}
	}
	return peak, now, err
}

// TestLoadChild is the process that TestPeakMemory measures.
func TestLoadChild(t *testing.T) {
	what := os.Getenv(childEnv)
	if what == "" {
		t.Skip("runs in a process of its own, for TestPeakMemory")
	}
	b := backendtest.XLA(t)
	var r reading
	var m *models.Model
	if dtype, dir, ok := strings.Cut(what, " "); ok {
		start := time.Now()
		var err error
		if m, err = models.LoadTo(b, dir, map[string]dtypes.DType{"float32": dtypes.Float32, "bfloat16": dtypes.BFloat16}[dtype]); err != nil {
			t.Fatal(err)
		}
		r.Seconds = time.Since(start).Seconds()
		for name, x := range m.Base {
			if r.Weights += x.ByteSize(); !x.IsOnAnyDevice() {
				t.Errorf("%s is not on the device", name)
			}
		}
	}
	var err error
	if r.Peak, r.Now, err = resident(); err != nil {
		t.Fatal(err)
	}
	if m != nil {
		m.Base.Hash()
		if r.AfterHash, _, err = resident(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nreading %s\n", out)
}

func measure(t *testing.T, what string) (r reading) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLoadChild$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "reading "); ok {
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Fatalf("no reading in\n%s", out)
	return r
}

// Loading takes little more than the weights: a process that loads peaks below 1.2 times their size above one that
// only opens the backend.
func TestPeakMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes and loads some hundred MB")
	}
	backendtest.XLA(t) // skips where there is none
	idle := measure(t, "none")
	t.Logf("idle: peak %d MB", idle.Peak>>20)
	for _, stored := range []string{"bfloat16", "float32"} {
		c := checkpoint{like: "llama-100m", dtype: stored, shardMB: 150, dir: t.TempDir()}
		if _, err := c.write(); err != nil {
			t.Fatal(err)
		}
		for _, as := range []string{"float32", "bfloat16"} {
			r := measure(t, as+" "+c.dir)
			factor := func(peak int64) float64 { return float64(peak-idle.Peak) / float64(r.Weights) }
			t.Logf("%s → %s: %d MB of weights in %.2f s; peak %.3f×, now %.3f×, peak with hashing %.3f×",
				stored, as, r.Weights>>20, r.Seconds, factor(r.Peak), factor(r.Now), factor(r.AfterHash))
			if f := factor(r.AfterHash); f > 1.2 || f < 0.9 {
				t.Errorf("%s → %s: peak of %.2f times the weights, want 1 to 1.2", stored, as, f)
			}
		}
	}
}
