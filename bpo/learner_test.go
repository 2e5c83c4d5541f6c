package bpo

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

var tinyConfig = models.Config{
	Architecture: "llama", VocabSize: 23, HiddenSize: 16, IntermediateSize: 24, NumLayers: 2, NumHeads: 4, NumKVHeads: 2,
	HeadDim: 4, MaxPositions: 128, RopeTheta: 10000, RMSNormEps: 1e-5, TieEmbeddings: true,
}

// tinyPolicy has an adapter whose B is not zero, so that every gradient is alive.
func tinyPolicy(seed uint64) models.Policy {
	lora := models.LoRA{Rank: 2, Alpha: 4, Targets: []string{"all-linear"}}
	a := models.NewAdapter(tinyConfig, lora, seed)
	rng := rand.New(rand.NewPCG(seed, 7))
	for _, name := range a.Weights.Names() {
		if strings.Contains(name, "lora_B") {
			tensors.MustMutableFlatData(a.Weights[name], func(flat []float32) {
				for i := range flat {
					flat[i] = float32(rng.NormFloat64()) * 0.05
				}
			})
		}
	}
	return models.Policy{Name: "tiny", Base: models.InitWeights(tinyConfig, 1), Adapter: a}
}

// tinyPairs are random pairs with made-up reference log-probs, weights 1/n.
func tinyPairs(n int, seed uint64) []example {
	rng := rand.New(rand.NewPCG(seed, 3))
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = int32(rng.IntN(tinyConfig.VocabSize))
		}
		return out
	}
	rows := make([]example, n)
	for i := range rows {
		w, l := 1+rng.IntN(9), 1+rng.IntN(9)
		rows[i] = example{
			id: string(rune('a' + i)), row: models.Row{Prompt: ids(1 + rng.IntN(12)), Completions: [][]int32{ids(w), ids(l)}},
			weight: 1 / float64(n), extra: []float32{-3 * float32(w), -3 * float32(l), 0.5},
		}
	}
	return rows
}

func maxDiff(a, b []float32) float64 {
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i]-b[i])))
	}
	return worst
}

var dpoPairs = preferenceObjective(LossConfig{Name: "dpo", Beta: 0.5})

// flatten is all of a learner's weights.
func flatten(l *learner) (all []float32) {
	for _, name := range l.w.Names() {
		all = append(all, tensors.MustCopyFlatData[float32](l.w[name])...)
	}
	return all
}

// trained runs steps optimizer steps at a micro-batch size and returns the adapter and the last result.
func trained(t *testing.T, b compute.Backend, rows []example, micro, steps int, full bool) ([]float32, stepResult) {
	t.Helper()
	start := tinyPolicy(1)
	opt := DefaultOptimizer()
	opt.LR = 1e-2
	l, err := newLearner(start, full, opt)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrainer(b, tinyConfig, l, dpoPairs, trainSpec{Optimizer: opt, Steps: 10, Batch: len(rows), Micro: micro})
	var res stepResult
	for step := range steps {
		if res, err = tr.step(l, rows, step, 1); err != nil {
			t.Fatal(err)
		}
	}
	return flatten(l), res
}

func TestAccumulationEqualsTheLargeBatch(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		rows := tinyPairs(8, 5)
		large, want := trained(t, b, rows, 8, 2, false)
		for _, micro := range []int{1, 3, 4} {
			small, got := trained(t, b, rows, micro, 2, false)
			if d := maxDiff(large, small); d > 2e-5 {
				t.Errorf("micro-batches of %d: weights differ by %g", micro, d)
			}
			if math.Abs(got.loss-want.loss) > 1e-5 || math.Abs(got.gradNorm-want.gradNorm) > 1e-4*want.gradNorm {
				t.Errorf("micro-batches of %d: loss %v and norm %v, large batch %v and %v", micro, got.loss, got.gradNorm, want.loss, want.gradNorm)
			}
		}
	})
}

func TestBatchOrderDoesNotMatter(t *testing.T) {
	b := backendtest.XLA(t)
	rows := tinyPairs(6, 6)
	a, _ := trained(t, b, rows, 6, 1, false)
	rows[0], rows[5], rows[2] = rows[5], rows[2], rows[0]
	c, _ := trained(t, b, rows, 6, 1, false)
	if d := maxDiff(a, c); d > 2e-5 {
		t.Errorf("permuted batch: weights differ by %g", d)
	}
}

func TestTrainingLowersTheLoss(t *testing.T) {
	b := backendtest.XLA(t)
	for _, full := range []bool{false, true} {
		rows := tinyPairs(4, 8)
		_, first := trained(t, b, rows, 4, 1, full)
		_, last := trained(t, b, rows, 4, 10, full)
		if !(last.loss < first.loss-0.01) {
			t.Errorf("full=%v: loss %v after 1 step, %v after 10", full, first.loss, last.loss)
		}
		if m := last.metrics; math.Abs(m["rewards/margins"]-(m["rewards/chosen"]-m["rewards/rejected"])) > 1e-4 {
			t.Errorf("rewards do not add up: %v", m)
		}
	}
}

// A loss that isn't finite names the pairs and leaves the learner as it was.
func TestNonFiniteLossNamesThePairs(t *testing.T) {
	b := backendtest.XLA(t)
	start := tinyPolicy(1)
	l, err := newLearner(start, false, DefaultOptimizer())
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrainer(b, tinyConfig, l, dpoPairs, trainSpec{Optimizer: DefaultOptimizer(), Steps: 10, Batch: 5, Micro: 2})
	rows := tinyPairs(5, 9)
	rows[3].extra[0] = float32(math.NaN())
	before := flatten(l)
	_, err = tr.step(l, rows, 0, 1)
	var bad *nonFinite
	if !errors.As(err, &bad) || len(bad.ids) != 1 || bad.ids[0] != "d" {
		t.Fatalf("error %v, want one that names pair d", err)
	}
	if d := maxDiff(before, flatten(l)); d != 0 {
		t.Errorf("the failed step moved the weights by %g", d)
	}
	rows[3].extra[0] = -1
	if _, err := tr.step(l, rows, 0, 1); err != nil {
		t.Errorf("the learner is unusable after a failed step: %v", err)
	}
}

func TestLearningRateSchedules(t *testing.T) {
	for _, c := range []struct {
		o    OptimizerConfig
		want []float64 // of 6 steps
	}{
		{OptimizerConfig{LR: 6, Schedule: "constant"}, []float64{6, 6, 6, 6, 6, 6}},
		{OptimizerConfig{LR: 6, Schedule: "linear"}, []float64{6, 5, 4, 3, 2, 1}},
		{OptimizerConfig{LR: 8, Schedule: "linear", Warmup: 2}, []float64{4, 8, 8, 6, 4, 2}},
		{OptimizerConfig{LR: 4, Schedule: "cosine", Warmup: 2}, []float64{2, 4, 4, 2 + math.Sqrt2, 2, 2 - math.Sqrt2}},
	} {
		for step, want := range c.want {
			if got := c.o.rate(step, 6); math.Abs(got-want) > 1e-12 {
				t.Errorf("%+v: rate of step %d is %v, want %v", c.o, step, got, want)
			}
		}
	}
}
