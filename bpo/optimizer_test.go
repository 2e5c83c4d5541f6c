package bpo

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

// optimizerTable is testdata/optimizers.json: what torch, transformers and Lion's formula give (testdata/optimizers.py).
type optimizerTable struct {
	Shapes  [][]int
	Weights [][]float32
	Grads   [][][]float32 // by step and tensor
	Cases   []struct {
		Name        string
		LR          float64
		WeightDecay float64 `json:"weight_decay"`
		Params      map[string]float64
		Steps       [][][]float64 // weights after each step, by tensor
	}
}

func readOptimizerTable(t *testing.T) (table optimizerTable) {
	t.Helper()
	raw, err := os.ReadFile("testdata/optimizers.json")
	if err == nil {
		err = json.Unmarshal(raw, &table)
	}
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// tensorsOf names a table's tensors t0, t1, ….
func (o optimizerTable) tensorsOf(values [][]float32) models.Weights {
	w := models.Weights{}
	for i, v := range values {
		w[fmt.Sprint("t", i)] = tensors.FromFlatDataAndDimensions(append([]float32(nil), v...), o.Shapes[i]...)
	}
	return w
}

// stepper is a trainer that takes gradients instead of making them.
func stepper(b compute.Backend, l *learner, opt OptimizerConfig, steps int) *trainer {
	return newTrainer(b, tinyConfig, l, nllObjective(), trainSpec{Optimizer: opt, Steps: steps, Batch: 1, Micro: 1})
}

func TestOptimizersMatchTorchAndTransformers(t *testing.T) {
	table := readOptimizerTable(t)
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		for _, c := range table.Cases {
			// One block, as an adapter, and a block a tensor, as a full model.
			for _, full := range []bool{false, true} {
				opt := OptimizerConfig{Name: c.Name, LR: c.LR, WeightDecay: c.WeightDecay, Schedule: "constant", Params: c.Params}
				if err := opt.validate("optimizer", 10); err != nil {
					t.Fatal(err)
				}
				start := models.Policy{Base: table.tensorsOf(table.Weights)}
				if !full {
					start.Adapter = &models.Adapter{LoRA: models.LoRA{Rank: 1, Alpha: 1}, Weights: start.Base}
				}
				l, err := newLearner(start, full, opt)
				if err != nil {
					t.Fatal(err)
				}
				tr := stepper(b, l, opt, 10)
				for step, want := range c.Steps {
					grads, sums := table.tensorsOf(table.Grads[step]), models.Weights{}
					for _, block := range l.blocks {
						if sums[block.name], err = block.pack(grads); err != nil {
							t.Fatal(err)
						}
					}
					if err := tr.apply(l, here(t, sums), step, 1); err != nil {
						t.Fatal(err)
					}
					p, err := l.policy(b, "")
					if err != nil {
						t.Fatal(err)
					}
					got := p.Override
					if !full {
						got = p.Adapter.Weights
					}
					for i, w := range want {
						values := tensors.MustCopyFlatData[float32](got[fmt.Sprint("t", i)])
						for j := range w {
							if diff := math.Abs(float64(values[j]) - w[j]); diff > 3e-6*max(1, math.Abs(w[j])) {
								t.Fatalf("%s %v full=%v: step %d, tensor %d: %v, want %v", c.Name, c.Params, full, step, i, values, w)
							}
						}
					}
				}
			}
		}
	})
}

// The first steps by hand, from gradients whose effect is plain.
func TestOptimizersByHand(t *testing.T) {
	b := backendtest.Go(t)
	first := func(opt OptimizerConfig, w, g []float32, dims ...int) []float32 {
		t.Helper()
		opt.Schedule = "constant"
		set := models.Weights{"w": tensors.FromFlatDataAndDimensions(w, dims...)}
		l, err := newLearner(models.Policy{Base: set}, true, opt)
		if err != nil {
			t.Fatal(err)
		}
		norm := 0.0
		for _, x := range g {
			norm += float64(x) * float64(x)
		}
		sums := models.Weights{"w": tensors.FromFlatDataAndDimensions(g, len(g))}
		if err := stepper(b, l, opt, 1).apply(l, here(t, sums), 0, math.Sqrt(norm)); err != nil {
			t.Fatal(err)
		}
		return tensors.MustCopyFlatData[float32](l.w["w"])
	}
	for what, c := range map[string]struct{ got, want []float32 }{
		// Bias correction makes AdamW's first step lr·sign(g), and Lion's is that by definition.
		"adamw": {first(OptimizerConfig{Name: "adamw", LR: 0.5}, []float32{1, 2}, []float32{3, -1e-2}, 1, 2), []float32{0.5, 2.5}},
		"lion":  {first(OptimizerConfig{Name: "lion", LR: 0.5}, []float32{1, 2}, []float32{3, 0}, 1, 2), []float32{0.5, 2}},
		// √(0.01·g²) = 0.1·|g|: ten times lr.
		"rmsprop": {first(OptimizerConfig{Name: "rmsprop", LR: 0.5}, []float32{1, 2}, []float32{3, -4}, 1, 2), []float32{-4, 7}},
		// A gradient of rank one is factored exactly: its root mean square is itself, the update its sign.
		"adafactor": {first(OptimizerConfig{Name: "adafactor", LR: 0.5}, []float32{1, 1, 1, 1}, []float32{2, -4, 6, -12}, 2, 2), []float32{0.5, 1.5, 0.5, 1.5}},
		// Decay takes lr·λ·w of matrices and leaves a norm alone; under RMSprop it is part of the gradient.
		"decay":        {first(OptimizerConfig{Name: "lion", LR: 0.5, WeightDecay: 0.1}, []float32{2}, []float32{0}, 1, 1), []float32{1.9}},
		"no decay":     {first(OptimizerConfig{Name: "lion", LR: 0.5, WeightDecay: 0.1}, []float32{2}, []float32{0}, 1), []float32{2}},
		"no decay (a)": {first(OptimizerConfig{Name: "adafactor", LR: 0.5, WeightDecay: 0.1}, []float32{2}, []float32{1}, 1), []float32{1.5}},
		"l2":           {first(OptimizerConfig{Name: "rmsprop", LR: 0.5, WeightDecay: 0.1}, []float32{2}, []float32{0}, 1, 1), []float32{-3}},
		// A gradient of norm 5 clipped to 0.5 halves nothing but its size: momentum 0.1·g/10 of it.
		"clip": {first(OptimizerConfig{Name: "rmsprop", LR: 1, MaxGradNorm: 0.5, Params: map[string]float64{"eps": 1}}, []float32{0, 0}, []float32{3, 4}, 1, 2),
			[]float32{-0.3 / 1.03, -0.4 / 1.04}},
	} {
		if maxDiff(c.got, c.want) > 2e-6 {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
}

// State is what the memory estimate and checkpoints count on: Adafactor keeps rows and columns, not matrices.
func TestOptimizerState(t *testing.T) {
	dims := [][]int{{30, 20}, {2, 5, 7}, {9}}
	for _, c := range []struct {
		opt  OptimizerConfig
		want map[string]int
	}{
		{OptimizerConfig{Name: "adamw"}, map[string]int{"m": 679, "v": 679}},
		{OptimizerConfig{Name: "lion"}, map[string]int{"m": 679}},
		{OptimizerConfig{Name: "rmsprop"}, map[string]int{"v": 679}},
		{OptimizerConfig{Name: "rmsprop", Params: map[string]float64{"centered": 1, "momentum": 0.5}}, map[string]int{"v": 679, "mean": 679, "momentum": 679}},
		{OptimizerConfig{Name: "adafactor"}, map[string]int{"rows": 30 + 10, "columns": 20 + 14, "v": 9}},
		{OptimizerConfig{Name: "adafactor", Params: map[string]float64{"beta1": 0.9}}, map[string]int{"rows": 40, "columns": 34, "v": 9, "m": 679}},
	} {
		state := optimizers[c.opt.Name].State(c.opt, dims)
		for name, n := range c.want {
			if product(state[name]) != n || len(state) != len(c.want) {
				t.Errorf("%v: state %v, want %v", c.opt, state, c.want)
				break
			}
		}
	}
}

func TestOptimizerConfigErrors(t *testing.T) {
	for want, change := range map[string]func(*OptimizerConfig){
		`optimizer.name: no optimizer "adam"; nearest is "adamw"`:                             func(o *OptimizerConfig) { o.Name = "adam" },
		`optimizer.params.beta3: optimizer "adamw" has no such parameter; nearest is "beta1"`: func(o *OptimizerConfig) { o.Params = map[string]float64{"beta3": 0} },
		"optimizer.params.beta2: must be in [0, 1), got 1":                                    func(o *OptimizerConfig) { o.Params = map[string]float64{"beta2": 1} },
		"optimizer.params.centered: must be 0 or 1, got 0.5":                                  func(o *OptimizerConfig) { o.Name, o.Params = "rmsprop", map[string]float64{"centered": 0.5} },
		"optimizer.params.decay_rate: must be in [-1, 0), got 0.8":                            func(o *OptimizerConfig) { o.Name, o.Params = "adafactor", map[string]float64{"decay_rate": 0.8} },
		"optimizer.weight_decay: must not be negative, got -1":                                func(o *OptimizerConfig) { o.WeightDecay = -1 },
		"optimizer.max_grad_norm: must not be negative (0 = no clipping), got -1":             func(o *OptimizerConfig) { o.MaxGradNorm = -1 },
		`optimizer.schedule: "step" is not one of constant, linear, cosine`:                   func(o *OptimizerConfig) { o.Schedule = "step" },
		"optimizer.warmup: must be in 0..9, got 10":                                           func(o *OptimizerConfig) { o.Warmup = 10 },
		"optimizer.lr: must be positive, got 0":                                               func(o *OptimizerConfig) { o.LR = 0 },
	} {
		o := DefaultOptimizer()
		if err := o.validate("optimizer", 10); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if err := o.validate("optimizer", 10); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestRegisteringTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a second adamw was taken")
		}
	}()
	RegisterOptimizer(Optimizer{Name: "adamw"})
}
