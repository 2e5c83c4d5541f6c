package bpo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/sample"
	"gobpo/models/weights"
)

// fullSetup is testSetup with every weight trained.
func fullSetup(t *testing.T) Setup {
	s := testSetup(t)
	s.Config.Train, s.Config.LoRA = "full", models.LoRA{}
	s.Config.Optimizer.LR = 0.01
	return s
}

// inBFloat16 rounds a setup's model.
func inBFloat16(t *testing.T, s *Setup) {
	t.Helper()
	base := models.Weights{}
	for name, w := range s.Model.Base {
		values := tensors.MustCopyFlatData[float32](w)
		base[name] = tensors.FromFlatDataAndDimensions(bfloat16.FromFloat32s(values...), w.Shape().Dimensions...)
	}
	m := *s.Model
	m.Base = base
	s.Model = &m
}

// stoppedAndResumed is a run that dies in the log of step at and is started again.
func stoppedAndResumed(t *testing.T, s Setup, at int) (models.Policy, map[int]Metrics) {
	t.Helper()
	s.Dir = t.TempDir()
	all := map[int]Metrics{}
	s.Log = func(step int, m Metrics) error {
		all[step] = maps.Clone(m)
		if step == at {
			return errKilled
		}
		return nil
	}
	if _, err := Train(context.Background(), s); !errors.Is(err, errKilled) {
		t.Fatalf("stop at %d: %v", at, err)
	}
	resumedAt := -1
	s.Log = func(step int, m Metrics) error { all[step] = maps.Clone(m); return nil }
	s.Resumed = func(step int) error { resumedAt = step; return nil }
	p, err := Train(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if at > 1 && resumedAt != at-1 { // before that there is nothing to resume from
		t.Errorf("stopped in step %d, resumed after %d", at, resumedAt)
	}
	return p, all
}

// Full training goes through the same machinery: it starts at the identity, its policies sample what they score
// (checkSampler runs in every phase), and a resumed run is the uninterrupted one.
func TestFullTrainingResumesBitEqual(t *testing.T) {
	for name, change := range map[string]func(*Setup){
		"float32":  func(*Setup) {},
		"ensemble": func(s *Setup) { s.Config.Learners, s.Config.Reference = 2, "sft"; s.Start = apart(t, s) },
		"bfloat16": func(s *Setup) { inBFloat16(t, s) },
		"ema":      func(s *Setup) { inBFloat16(t, s); s.Config.Reference, s.Config.EMAAlpha = "ema", 0.5 },
	} {
		t.Run(name, func(t *testing.T) {
			s := fullSetup(t)
			change(&s)
			s.Config.CheckpointEvery = 1
			want, wantMetrics := mustRecord(t, s)
			if got := wantMetrics[1]["loss"]; name != "ensemble" && math.Abs(got-math.Ln2) > 0.02 {
				t.Errorf("first loss %v, want ln 2", got)
			}
			if name != "ensemble" && wantMetrics[4]["behavior/version"] != 1 {
				t.Errorf("the behavior policy was not refreshed: %v", wantMetrics[4])
			}
			for n, w := range want.Override {
				if w.DType() != s.Model.Base[n].DType() || !slices.Equal(w.Shape().Dimensions, s.Model.Base[n].Shape().Dimensions) {
					t.Errorf("%s of the policy is %s, of the model %s", n, w.Shape(), s.Model.Base[n].Shape())
				}
			}
			got, gotMetrics := stoppedAndResumed(t, s, 3)
			if got.Hash() != want.Hash() {
				t.Error("another policy")
			}
			sameMetrics(t, "stopped at 3", gotMetrics, wantMetrics)

			back, err := LoadPolicy(filepath.Join(s.Dir, PolicyFile), s.Model)
			if err != nil || back.Hash() != want.Hash() || len(back.Override) != len(s.Model.Base) {
				t.Errorf("a saved policy came back different: %v, %d tensors", err, len(back.Override))
			}
			f, err := weights.Open(filepath.Join(s.Dir, checkpointsDir, "step-000004", "learner-0.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			master, err := f.Tensor("override.model.norm.weight")
			if err != nil || master.DType() != dtypes.Float32 {
				t.Errorf("the checkpoint holds no float32 master: %v", err)
			}
		})
	}
}

// apart are two full models that differ.
func apart(t *testing.T, s *Setup) []models.Policy {
	out := make([]models.Policy, 2)
	for i := range out {
		out[i] = models.Policy{Name: "sft", Base: s.Model.Base, Override: models.InitWeights(s.Model.Config, uint64(10+i))}
	}
	return out
}

// Every optimizer's state is in the checkpoint, whole: on the Go backend, adapters and full models.
func TestEveryOptimizerResumesBitEqual(t *testing.T) {
	pairs := filepath.Join(t.TempDir(), "pairs.parquet")
	var rows []data.Preference
	for i := range 6 {
		rows = append(rows, data.Preference{Prompt: fmt.Sprint("pack ", i), Chosen: "tea jam", Rejected: "no"})
	}
	if err := data.Write(pairs, rows, nil); err != nil {
		t.Fatal(err)
	}
	b := backendtest.Go(t)
	for _, opt := range []OptimizerConfig{
		{Name: "adamw", WeightDecay: 0.1}, {Name: "lion"}, {Name: "rmsprop", Params: map[string]float64{"centered": 1, "momentum": 0.5}},
		{Name: "adafactor"}, {Name: "adafactor", Params: map[string]float64{"beta1": 0.9, "scale_parameter": 1}},
	} {
		for _, train := range []string{"lora", "full"} {
			s := testSetup(t)
			s.Backend, s.Sampler, s.Scorer = b, nil, nil
			s.Config.Train, s.Config.Data, s.Config.Reference = train, "offline:"+pairs, "sft"
			s.Config.Refresh = 1
			opt.LR, opt.Schedule, opt.MaxGradNorm = 1e-3, "linear", 1
			s.Config.Optimizer, s.Config.CheckpointEvery = opt, 1
			want, wantMetrics := mustRecord(t, s)
			if first, last := wantMetrics[1]["loss"], wantMetrics[4]["loss"]; !(last < first) {
				t.Errorf("%s, %s: loss %v at first, %v at last", opt.Name, train, first, last)
			}
			got, gotMetrics := stoppedAndResumed(t, s, 3)
			if got.Hash() != want.Hash() {
				t.Errorf("%s, %s: another policy", opt.Name, train)
			}
			sameMetrics(t, opt.Name+" "+train, gotMetrics, wantMetrics)
		}
	}
}

// A checkpoint of one optimizer is not state for another.
func TestCheckpointOfAnotherOptimizerIsRefused(t *testing.T) {
	s := testSetup(t)
	mustRecord(t, s)
	s.Config.Optimizer.Name = "lion"
	if _, _, err := record(t, s); err == nil || !strings.Contains(err.Error(), `state of optimizer "adamw", the run has "lion"`) {
		t.Errorf("error %v", err)
	}
}

// Steps too small for bfloat16 add up in the float32 master, and reach the policy when they amount to a bfloat16 step.
func TestMastersKeepSmallSteps(t *testing.T) {
	b := backendtest.Go(t)
	opt := OptimizerConfig{Name: "lion", LR: 1e-3, Schedule: "constant"}
	base := models.Weights{"w": tensors.FromFlatDataAndDimensions(bfloat16.FromFloat32s(1, -1), 1, 2)}
	l, err := newLearner(models.Policy{Base: base}, true, opt)
	if err != nil {
		t.Fatal(err)
	}
	tr := stepper(b, l, opt, 100)
	for step := range 8 {
		p, err := l.policy(b, "")
		if err != nil {
			t.Fatal(err)
		}
		// 1 − 0.001·step; the bfloat16 below 1 is 1 − 1/256 = 0.99609375, reached past half the way.
		want := bfloat16.FromFloat32(1 - 1e-3*float32(step))
		if got := tensors.MustCopyFlatData[bfloat16.BFloat16](p.Override["w"]); got[0] != want || got[1].Float32() != -want.Float32() {
			t.Errorf("step %d: policy %v, want ±%v", step, got, want)
		}
		if err := tr.apply(l, here(t, models.Weights{"w": tensors.FromFlatDataAndDimensions([]float32{1, -1}, 2)}), step, 1); err != nil {
			t.Fatal(err)
		}
	}
}

// Adapters over dense weights, as of a run that trained all of them: the learners share them, and whoever is done with a policy of
// theirs leaves them. Each kind of run is its uninterrupted self when it is resumed.
func TestAdaptersOverDenseStart(t *testing.T) {
	for name, change := range map[string]func(*Setup){
		"evaluated":      func(s *Setup) { s.EvalEvery = 2 },
		"ema reference":  func(s *Setup) { s.Config.Reference, s.Config.EMAAlpha, s.Config.EMAEvery = "ema", 0.3, 1 },
		"ema behavior":   func(s *Setup) { s.Config.Behavior, s.Config.EMAAlpha = "ema", 0.3 },
		"two learners":   func(s *Setup) { s.Config.Learners, s.EvalEvery = 2, 2 },
		"behavior alone": func(*Setup) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := testSetup(t)
			s.Config.Refresh = 4
			s.Config.CheckpointEvery = 1
			change(&s)
			s.Evaluate = func(context.Context, int, models.Policy) (Metrics, error) { return Metrics{}, nil }
			dense := models.InitWeights(s.Model.Config, 11)
			s.Start = nil
			for i := range s.Config.Learners {
				s.Start = append(s.Start, models.Policy{Name: "sft", Base: s.Model.Base, Override: dense, Adapter: models.NewAdapter(s.Model.Config, s.Config.LoRA, uint64(i))})
			}
			_, want := mustRecord(t, s)
			if _, got := stoppedAndResumed(t, s, 3); !maps.EqualFunc(untimed(got), untimed(want), maps.Equal) {
				t.Errorf("resumed: %v, uninterrupted: %v", untimed(got), untimed(want))
			}
		})
	}
}

// An EMA reference over a bfloat16 model moves by steps far below bfloat16's.
func TestEMAOfABFloat16Model(t *testing.T) {
	b := backendtest.XLA(t)
	tensor := func(v float32) *tensors.Tensor {
		return tensors.FromFlatDataAndDimensions([]bfloat16.BFloat16{bfloat16.FromFloat32(v)}, 1, 1)
	}
	base := models.Weights{"w": tensor(1)}
	ref, p := models.Policy{Base: base}, models.Policy{Base: base, Override: models.Weights{"w": tensor(2)}}
	for range 10 {
		var err error
		if ref, err = models.EMA(b, ref, p, 1e-3); err != nil {
			t.Fatal(err)
		}
	}
	want := 2 - math.Pow(1-1e-3, 10)
	if got := tensors.MustCopyFlatData[float32](ref.Override["w"]); math.Abs(float64(got[0])-want) > 1e-6 {
		t.Errorf("reference %v after ten steps of 0.001, want %v", got, want)
	}
	q, done, err := rounded(b, ref)
	if err != nil {
		t.Fatal(err)
	}
	if got := q.Override["w"]; got.DType() != dtypes.BFloat16 || tensors.MustCopyFlatData[bfloat16.BFloat16](got)[0] != bfloat16.FromFloat32(float32(want)) {
		t.Errorf("scored as %s", got)
	}
	done()
	if !ref.Override["w"].Ok() {
		t.Error("scoring freed the reference")
	}
}

// The merge of full models is the mean of their weights, and of one model that model.
func TestMergeOfFullModels(t *testing.T) {
	s := fullSetup(t)
	start := apart(t, &s)
	p, err := Merge(s.Backend, s.Config, start)
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range p.Override {
		a, b, got := tensors.MustCopyFlatData[float32](start[0].Override[name]), tensors.MustCopyFlatData[float32](start[1].Override[name]), tensors.MustCopyFlatData[float32](w)
		for i := range got {
			if got[i] != (a[i]+b[i])/2 {
				t.Fatalf("%s[%d]: %v is not the mean of %v and %v", name, i, got[i], a[i], b[i])
			}
		}
	}
	one, err := Merge(s.Backend, s.Config, start[:1])
	if err != nil || one.Hash() != start[0].Hash() {
		t.Errorf("one model merges to another: %v", err)
	}
	if _, ok := p.Override["model.norm.weight"]; !ok || p.Adapter != nil {
		t.Error("the merge is not a full model")
	}
}

// Gradient checkpointing changes when things are computed, not what: both backends, adapters and full models.
func TestCheckpointingGivesTheSameGradients(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		for _, full := range []bool{false, true} {
			var want []float32
			var wantResult stepResult
			for _, checkpoints := range []bool{false, true} {
				opt := OptimizerConfig{Name: "rmsprop", LR: 1e-2, Schedule: "constant", Params: map[string]float64{"eps": 1}} // nearly linear in the gradient
				l, err := newLearner(tinyPolicy(1), full, opt)
				if err != nil {
					t.Fatal(err)
				}
				rows := tinyPairs(3, 5)
				tr := newTrainer(b, tinyConfig, l, dpoPairs, trainSpec{Optimizer: opt, Steps: 10, Batch: 3, Micro: 3, Checkpoints: checkpoints})
				res, err := tr.step(l, rows, 0, 1)
				if err != nil {
					t.Fatal(err)
				}
				if !checkpoints {
					want, wantResult = flatten(l), res
					continue
				}
				if d := maxDiff(flatten(l), want); d > 1e-7 || math.Abs(res.gradNorm-wantResult.gradNorm) > 1e-5*wantResult.gradNorm || math.Abs(res.loss-wantResult.loss) > 1e-6 {
					t.Errorf("full=%v: weights differ by %g, norm %v and %v, loss %v and %v", full, d, res.gradNorm, wantResult.gradNorm, res.loss, wantResult.loss)
				}
			}
		}
	})
}

// A full run needs no sampler or scorer of its own kind: what it returns samples as it scores.
func TestAFullPolicySamples(t *testing.T) {
	s := fullSetup(t)
	p, _ := mustRecord(t, s)
	o := sample.Options{Temperature: 1, TopP: 1, N: 1, MaxNewTokens: 6, Stop: []int32{s.Model.Tokenizer.EOS()}}
	prompts := []sample.Prompt{{Key: 1, Tokens: s.Prompts[0].Tokens}}
	drawn, err := s.Sampler.Sample(context.Background(), p, prompts, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	score := func(p models.Policy) float64 {
		logps, err := s.Scorer.LogProbs(context.Background(), p, []models.Row{{Prompt: s.Prompts[0].Tokens, Completions: [][]int32{drawn[0][0].Tokens}}}, 1)
		if err != nil {
			t.Fatal(err)
		}
		return sum(logps[0][0])
	}
	if got, want := sum(drawn[0][0].PolicyLogProbs), score(p); math.Abs(got-want) > 1e-3 {
		t.Errorf("sampled at log-prob %v, scored %v", got, want)
	}
	if got := score(models.Policy{Base: s.Model.Base}); math.Abs(got-score(p)) < 1e-3 {
		t.Errorf("training left the log-prob at %v", got)
	}
}
