package bpo

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"gobpo/models"
	"gobpo/models/backend"
	"gobpo/models/backend/backendtest"
)

// here is a set on the one device that most tests have.
func here(t *testing.T, w models.Weights) models.Sharded {
	t.Helper()
	s, err := models.Shard(models.Mesh{}, w)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Twenty steps on a mesh of emulated devices have the losses of one device, for adapters and for full weights, with data
// parallelism, sharded weights and both.
func TestMeshEqualsOneDevice(t *testing.T) {
	backendtest.XLA(t) // skips without a plugin
	b, err := backend.Open(backend.Options{Name: "xla:cpu,devices=4"})
	if err != nil {
		t.Fatal(err)
	}
	for _, train := range []string{"lora", "full"} {
		var want []float64
		for _, mesh := range []models.Mesh{{Data: 1, Model: 1}, {Data: 2, Model: 1}, {Data: 1, Model: 2}, {Data: 2, Model: 2}} {
			s := testSetup(t)
			s.Backend, s.Sampler, s.Scorer = b, nil, nil
			c := &s.Config
			c.Train, c.Mesh, c.Steps, c.BatchSize, c.MicroBatch, c.Refresh, c.Optimizer.LR = train, mesh, 20, 4, 4, 2, 0.01
			if train == "full" {
				c.LoRA = models.LoRA{}
			}
			_, m := mustRecord(t, s)
			name := fmt.Sprintf("%s, mesh %+v", train, mesh)
			for step := 1; step <= c.Steps; step++ {
				loss := m[step]["loss"]
				if mesh.Devices() == 1 {
					want = append(want, loss)
				} else if math.Abs(loss-want[step-1]) > 1e-5 {
					t.Fatalf("%s: loss %.7f at step %d, %.7f on one device", name, loss, step, want[step-1])
				}
			}
			if last := want[len(want)-1]; math.Abs(last-want[0]) < 1e-4 {
				t.Fatalf("%s: the loss stays at %v", name, last)
			}
		}
	}
}

func TestMeshErrors(t *testing.T) {
	s := testSetup(t)
	s.Backend = backendtest.Go(t)
	s.Config.Mesh = models.Mesh{Data: 2, Model: 1}
	s.Config.BatchSize, s.Config.MicroBatch = 4, 4
	if _, _, err := record(t, s); err == nil || !strings.Contains(err.Error(), "mesh: data 2 × model 1 are 2 devices, the backend shows 1") {
		t.Errorf("error %v", err)
	}
	s.Config.MicroBatch = 1
	if err := s.Config.Validate(); err == nil || !strings.HasPrefix(err.Error(), "mesh: the 1 pairs of a gradient call") {
		t.Errorf("error %v", err)
	}
}
