package experiments

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"gobpo/bpo/annotate"
	"gobpo/bpo/annotate/annotatetest"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/tokenizer"
)

// rewardFiles makes a small language model and pairs whose chosen texts are polite.
func rewardFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	words := []string{"thanks", "please", "kindly", "shut", "up", "fool", "what", "is", "it", "tea", "rug"}
	tok, err := tokenizer.FromWords(words)
	if err != nil {
		t.Fatal(err)
	}
	m := &models.Model{Tokenizer: tok, Config: models.Config{
		Architecture: "llama", VocabSize: tok.VocabSize(), HiddenSize: 16, IntermediateSize: 24, NumLayers: 1, NumHeads: 2, NumKVHeads: 1,
		HeadDim: 8, MaxPositions: 128, RopeTheta: 10000, RMSNormEps: 1e-5,
	}}
	m.Base = models.InitWeights(m.Config, 1)
	if err := m.Save(filepath.Join(dir, "base")); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	pick := func(from []string) string {
		var s string
		for range 2 + rng.IntN(3) {
			s += " " + from[rng.IntN(len(from))]
		}
		return s
	}
	for _, split := range []struct {
		file string
		n    int
	}{{"train", 64}, {"eval", 40}} {
		file, pairs := split.file, make([]data.Preference, split.n)
		for i := range pairs {
			p := &pairs[i]
			p.Prompt, p.Chosen, p.Rejected = fmt.Sprintf("what is it %s %d?", file, i), pick(words[:3])+pick(words[9:]), pick(words[3:6])+pick(words[9:])
			p.ID = data.ID(p.Prompt, p.Chosen, p.Rejected)
		}
		if err := data.Write(filepath.Join(dir, file+".parquet"), pairs, nil); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const rewardYAML = `backend: go
model: {path: DIR/base, chat: none}
pairs: {train: DIR/train.parquet, eval: DIR/eval.parquet}
batch_size: 8
micro_batch: 4
steps: 24
lora: {rank: 2, alpha: 4}
optimizer: {lr: 0.02}
`

func rewardFile(t *testing.T, dir string, sets ...string) RewardConfig {
	t.Helper()
	path := filepath.Join(dir, "reward-test.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(rewardYAML, "DIR", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := LoadReward(path, sets)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A reward model of each kind learns the pairs, is the same after a kill, and is found in the directory it leaves.
func TestTrainReward(t *testing.T) {
	dir := rewardFiles(t)
	for name, sets := range map[string][]string{"lora": nil, "full": {"train=full", "optimizer.lr=0.01"}, "ensemble": {"members=2"}} {
		t.Run(name, func(t *testing.T) {
			c := rewardFile(t, dir, sets...)
			s := &Session{Offline: true}
			whole := filepath.Join(t.TempDir(), "model")
			r, err := s.TrainReward(t.Context(), c, whole, &silent{})
			if err != nil {
				t.Fatal(err)
			}
			m := r.Metrics
			if m["rewards/accuracies"] < 0.95 || m["rewards/accuracies_low"] > m["rewards/accuracies"] || m["nll"] > 0.3 || m["n"] != 40 || m["n_train"] != 64 {
				t.Errorf("%v", m)
			}
			if name == "ensemble" && len(r.Members) != 2 || name != "ensemble" && r.Members != nil {
				t.Errorf("members %v", r.Members)
			}
			// Again: it is there, and measured alike. Another configuration does not overwrite it.
			again, err := s.TrainReward(t.Context(), c, whole, &killer{at: "reward"})
			if err != nil || !reflect.DeepEqual(again.Metrics, m) {
				t.Errorf("measured again %v, %v", again.Metrics, err)
			}
			other := c
			other.Seed++
			if _, err := s.TrainReward(t.Context(), other, whole, &silent{}); err == nil || !strings.Contains(err.Error(), "another configuration") {
				t.Errorf("error %v", err)
			}
			lock, err := lockDir(whole)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.TrainReward(t.Context(), c, whole, &silent{}); !errors.Is(err, ErrLocked) {
				t.Errorf("a directory that another process trains into: %v", err)
			}
			if err := lock.Close(); err != nil {
				t.Fatal(err)
			}
			// Nor does the same configuration, when what its names stand for has changed.
			for _, change := range []struct{ file, key string }{{"train.parquet", "pairs.train"}, {"eval.parquet", "pairs.eval"}, {"base/model.safetensors", "model.path"}} {
				file := filepath.Join(dir, change.file)
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(file, ".parquet") {
					pairs, _ := data.Read[data.Preference](file)
					err = data.Write(file, pairs[1:], nil)
				} else {
					changed := slices.Clone(raw)
					changed[len(raw)-1] ^= 1
					err = os.WriteFile(file, changed, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
				_, err = (&Session{Offline: true}).TrainReward(t.Context(), c, whole, &silent{})
				if named := strings.TrimSuffix(file, "/model.safetensors"); err == nil || !strings.HasPrefix(err.Error(), change.key+": "+named+" changed since the training in "+whole+" started (") {
					t.Errorf("with another %s: %v", change.file, err)
				}
				if err := os.WriteFile(file, raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if name == "ensemble" {
				return
			}
			killed := filepath.Join(t.TempDir(), "model")
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := s.TrainReward(ctx, c, killed, &canceller{cancel: cancel, at: "reward", after: 5}); err == nil {
				t.Fatal("a cancelled training ended well")
			}
			resumed, err := s.TrainReward(t.Context(), c, killed, &silent{})
			if err != nil || !reflect.DeepEqual(resumed.Metrics, m) {
				t.Errorf("resumed %v, %v; uninterrupted %v", resumed.Metrics, err, m)
			}
			steps, err := ReadMetrics(filepath.Join(killed, "metrics.jsonl"))
			if err != nil || len(steps) != 24 || steps[23].Values["rewards/accuracies"] < 0.9 {
				t.Errorf("%d steps of metrics, %v", len(steps), err)
			}
		})
	}
}

// A reward model trained a step further, and hardly moved, judges as it did, whatever is trained.
func TestTrainRewardFurther(t *testing.T) {
	dir := rewardFiles(t)
	s := &Session{Offline: true}
	first := filepath.Join(dir, "first")
	r, err := s.TrainReward(t.Context(), rewardFile(t, dir, "train=full", "optimizer.lr=0.01"), first, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for _, train := range []string{"lora", "full"} {
		c := rewardFile(t, dir, "model.path="+first, "train="+train, "steps=1", "optimizer.lr=1e-9", "seed=7")
		again, err := s.TrainReward(t.Context(), c, filepath.Join(dir, train), &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if was, is := r.Metrics["nll"], again.Metrics["nll"]; math.Abs(was-is) > 1e-4 {
			t.Errorf("%s: nll %g, before %g", train, is, was)
		}
	}
}

// A training that was stopped is no reward model yet, of an ensemble no smaller one; the command that the error names goes on.
func TestRewardHalfTrained(t *testing.T) {
	dir := rewardFiles(t)
	s := &Session{Offline: true}
	for name, c := range map[string]struct{ members, at, want string }{
		"one":  {"members=1", "reward", "0 of 1 members"},
		"some": {"members=3", "reward, member 2 of 3", "1 of 3 members"},
	} {
		out := filepath.Join(dir, name)
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := s.TrainReward(ctx, rewardFile(t, dir, c.members, "steps=2"), out, &canceller{cancel: cancel, at: c.at, after: 1}); err == nil {
			t.Fatal("a cancelled training ended well")
		}
		if err := os.RemoveAll(filepath.Join(out, memberDir(1))); err != nil { // as if it had been killed before that began
			t.Fatal(err)
		}
		want := fmt.Sprintf("%s: %s are trained; bpo reward train %s/reward.yaml -o %s goes on", out, c.want, out, out)
		if _, err := s.OpenReward(t.Context(), out, RewardOptions{Backend: "go"}); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		again, err := LoadReward(filepath.Join(out, "reward.yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.TrainReward(t.Context(), again, out, &silent{}); err != nil {
			t.Errorf("gone on: %v", err)
		}
	}
}

// A directory that holds something else's model is left as it is.
func TestRewardClaims(t *testing.T) {
	dir := rewardFiles(t)
	for _, name := range []string{"config.json", "adapter_config.json", "manifest.json", "member-0"} {
		out := filepath.Join(t.TempDir(), "model")
		if err := os.MkdirAll(filepath.Join(out, name), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := (&Session{Offline: true}).TrainReward(t.Context(), rewardFile(t, dir), out, &silent{})
		if want := out + " holds " + name + " and no reward.yaml: bpo reward train did not make it; choose another directory"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if _, err := os.Stat(filepath.Join(out, "reward.yaml")); err == nil {
			t.Errorf("beside %s there is a reward.yaml now", name)
		}
	}
}

// rewardAdapters saves adapters with drawn heads over the model of rewardFiles.
func rewardAdapters(t *testing.T, dir string, change func(i int, head []float32), into ...string) {
	t.Helper()
	base := filepath.Join(dir, "base")
	m, err := models.Load(base, dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	m.Config.Reward = true
	for i, path := range into {
		a, err := m.RewardAdapter(models.LoRA{Rank: 1, Alpha: 1, Targets: []string{"q_proj"}}, uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		a.Weights[models.RewardHead].MustMutableFlatData(func(flat any) { change(i, flat.([]float32)) })
		if err := a.Save(path, base); err != nil {
			t.Fatal(err)
		}
	}
}

// Members stand in the order of their numbers, and their accuracies are shares of the pairs.
func TestRewardManyMembers(t *testing.T) {
	dir := rewardFiles(t)
	var into []string
	for i := range 12 {
		into = append(into, filepath.Join(dir, "many", memberDir(i)))
	}
	rewardAdapters(t, dir, func(int, []float32) {}, into...)
	s, o := &Session{Offline: true}, RewardOptions{Backend: "go", Chat: "none"}
	open := func(path string) *RewardModel {
		t.Helper()
		r, err := s.OpenReward(t.Context(), path, o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	pairs, err := data.LoadPreferences(filepath.Join(dir, "eval.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	measure := func(r *RewardModel) RewardResult {
		t.Helper()
		m, err := r.Measure(t.Context(), pairs, func(int, int) {})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	many := measure(open(filepath.Join(dir, "many"))).Members
	if len(many) != len(into) {
		t.Fatalf("%d members", len(many))
	}
	for i, path := range into {
		one := measure(open(path)).Metrics["rewards/accuracies"]
		if share := math.Round(one*80) / 80; many[i] != share {
			t.Errorf("member %d is right in %v of the pairs, alone in %v", i, many[i], share)
		}
	}
	if err := os.RemoveAll(into[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenReward(t.Context(), filepath.Join(dir, "many"), o); err == nil || !strings.Contains(err.Error(), into[1]) {
		t.Errorf("without member-1: error %v", err)
	}
}

// A reward that is no number is an error that names the model and the texts, whoever asks for it.
func TestRewardNotFinite(t *testing.T) {
	dir := rewardFiles(t)
	many := filepath.Join(dir, "many")
	broken := filepath.Join(many, "member-1")
	pair := data.Preference{Prompt: "what is it?", Chosen: " thanks tea", Rejected: " shut up"}
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		rewardAdapters(t, dir, func(i int, head []float32) {
			if i == 1 {
				head[0] = float32(v)
			}
		}, filepath.Join(many, "member-0"), broken)
		s := &Session{Offline: true}
		m, err := s.OpenReward(t.Context(), many, RewardOptions{Backend: "go"})
		if err != nil {
			t.Fatal(err)
		}
		_, measured := m.Measure(t.Context(), []data.Preference{pair}, func(int, int) {})
		a, err := s.newAnnotator(annotate.Config{Name: "reward", Params: map[string]any{"path": many}}, nil, "go")
		if err != nil {
			t.Fatal(err)
		}
		_, annotated := a.Annotate(t.Context(), []annotate.Request{{Prompt: pair.Prompt, Completions: []string{pair.Chosen, pair.Rejected}}}, 0)
		for what, err := range map[string]error{"measure": measured, "annotate": annotated} {
			if want := broken + `: the reward of completion " thanks tea" of prompt "what is it?" is `; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s with %g: error %v, want %s", what, v, err, want)
			}
		}
	}
}

// canceller cancels after so many reports of one kind of work.
type canceller struct {
	silent
	cancel func()
	at     string
	after  int
}

func (c *canceller) Doing(what string, done, _ int) {
	if what == c.at && done == c.after {
		c.cancel()
	}
}

// The annotator keeps its promises, says what its model says, and combines members as asked.
func TestRewardAnnotator(t *testing.T) {
	dir := rewardFiles(t)
	model := filepath.Join(dir, "model")
	s := &Session{Offline: true}
	if _, err := s.TrainReward(t.Context(), rewardFile(t, dir, "members=2", "steps=4"), model, &silent{}); err != nil {
		t.Fatal(err)
	}
	open := func(params map[string]any) annotate.Annotator {
		t.Helper()
		params["path"] = model
		a, err := s.newAnnotator(annotate.Config{Name: "reward", Params: params}, nil, "go")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	annotatetest.Run(t, func() annotate.Annotator { return open(map[string]any{}) })

	req := []annotate.Request{{Prompt: "what is it?", Completions: []string{" thanks tea", " shut up", " thanks tea"}}}
	score := func(params map[string]any) []float64 {
		t.Helper()
		j, err := open(params).Annotate(t.Context(), req, 0)
		if err != nil {
			t.Fatal(err)
		}
		return j[0].Scores
	}
	m, err := s.OpenReward(t.Context(), model, RewardOptions{Backend: "go"})
	if err != nil {
		t.Fatal(err)
	}
	each, err := m.Rewards(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	mean, least, wary := score(map[string]any{}), score(map[string]any{"combine": "min"}), score(map[string]any{"uncertainty": 2.0})
	for k := range mean {
		a, b := each[0][0][k], each[1][0][k]
		if a == b {
			t.Error("the members are one")
		}
		for what, v := range map[string][2]float64{"mean": {mean[k], (a + b) / 2}, "min": {least[k], min(a, b)}, "uncertainty": {wary[k], (a+b)/2 - math.Abs(a-b)}} {
			if math.Abs(v[0]-v[1]) > 1e-9 {
				t.Errorf("%s of %g and %g is %g, want %g", what, a, b, v[0], v[1])
			}
		}
	}
	if mean[0] != mean[2] {
		t.Error("equal texts differ")
	}
	for _, c := range []struct {
		params map[string]any
		want   string
	}{
		{map[string]any{}, "path: reward needs the directory"},
		{map[string]any{"path": filepath.Join(dir, "none")}, "path: stat "},
		{map[string]any{"path": model, "combine": "max"}, `combine: "max" is not mean or min`},
		{map[string]any{"path": model, "combine": "min", "uncertainty": 1.0}, "uncertainty: 1"},
		{map[string]any{"path": model, "chat": "foo"}, `chat: "foo" is not auto or none`},
		{map[string]any{"path": model, "dtype": "int8"}, `dtype: "int8" is not float32 or bfloat16`},
		{map[string]any{"path": model, "max_tokens": 1.0}, "max_tokens: 1 is neither 0 nor at least 2"},
		{map[string]any{"path": model, "batch": 0.0}, "batch: 0 is not at least 1"},
	} {
		if _, err := s.newAnnotator(annotate.Config{Name: "reward", Params: c.params}, nil, "go"); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.params, err, c.want)
		}
	}
	lm, err := s.newAnnotator(annotate.Config{Name: "reward", Params: map[string]any{"path": filepath.Join(dir, "base")}}, nil, "go")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lm.Annotate(t.Context(), req, 0); err == nil || !strings.Contains(err.Error(), "is a language model, not a reward model") {
		t.Errorf("error %v", err)
	}
}

// A run is annotated by one reward model and measured by another.
func TestTrialWithRewardModels(t *testing.T) {
	dir := rewardFiles(t)
	s := &Session{Offline: true}
	for i, name := range []string{"train", "judge"} {
		c := rewardFile(t, dir, "steps=4", fmt.Sprintf("seed=%d", i))
		if _, err := s.TrainReward(t.Context(), c, filepath.Join(dir, "rm-"+name), &silent{}); err != nil {
			t.Fatal(err)
		}
	}
	yaml := strings.Replace(tinyYAML, "BACKEND", "go", 1) + fmt.Sprintf("annotator: {name: reward, path: %s/rm-train}\n", dir)
	yaml = strings.Replace(yaml, "bootstrap: 50}", fmt.Sprintf("bootstrap: 50, annotator: {name: reward, path: %s/rm-judge}}", dir), 1)
	run, r, err := RunOne(t.Context(), trialsOf(t, yaml)[0], t.TempDir(), s.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Final["eval/score"]; !ok {
		t.Errorf("no score in %v", r.Final)
	}
	files, _ := filepath.Glob(filepath.Join(run, "pairs", "*", "*.parquet"))
	pairs, err := data.Read[data.Preference](files[0])
	if err != nil || len(pairs) == 0 || pairs[0].ChosenScore == nil || !strings.HasPrefix(pairs[0].Annotator, "reward(path=") {
		t.Errorf("pairs %+v, %v", pairs, err)
	}
	// A reward model is no policy.
	full := filepath.Join(dir, "rm-full")
	if _, err := s.TrainReward(t.Context(), rewardFile(t, dir, "train=full", "steps=1"), full, &silent{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenPolicy(t.Context(), full, "float32", "none"); err == nil || !strings.Contains(err.Error(), "is a reward model, which writes no texts") {
		t.Errorf("error %v", err)
	}
}

func TestRewardConfigErrors(t *testing.T) {
	dir := rewardFiles(t)
	path := filepath.Join(dir, "reward-test.yaml")
	rewardFile(t, dir)
	for set, want := range map[string]string{
		"members=0":                "members: must be at least 1",
		"max_tokens=1":             "max_tokens: must be at least 2",
		"loss.center=-1":           "loss.center: -1 is negative",
		"loss.label_smoothing=0.5": "loss.label_smoothing: 0.5",
		"train=most":               `train: "most" is not one of [lora full]`,
		"lora.rank=0":              "lora.rank: 0",
		"batch_size=6":             ": micro_batch: 4 does not divide",
		"batch_size=0":             ": batch_size: must be at least 1, got 0",
		"optimizer.lr=-1":          ": optimizer.lr: ",
		"lossy=1":                  "unknown key lossy; did you mean loss?",
		"loss.beta=0":              "unknown key loss.beta; docs/reward.md lists the keys",
		"pairs.leakage=maybe":      `pairs.leakage: "maybe"`,
		"model.path=":              "model.path: no base model",
	} {
		if _, err := LoadReward(path, []string{set}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", set, err, want)
		}
	}
	// What only the files can tell.
	for set, want := range map[string]string{
		"pairs.eval=" + filepath.Join(dir, "train.parquet"): "prompts are also trained on",
		"pairs.train=" + filepath.Join(dir, "none.parquet"): "none.parquet",
		"lora.targets=[c_attn]":                             "lora.targets:",
	} {
		c := rewardFile(t, dir, set)
		if _, err := new(Session).TrainReward(t.Context(), c, filepath.Join(t.TempDir(), "m"), &silent{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", set, err, want)
		}
	}
	c := rewardFile(t, dir, "pairs.eval=", "pairs.share=0.25")
	train, eval, err := c.pairsOf()
	if err != nil || len(train)+len(eval) != 64 || len(eval) < 8 || len(eval) > 26 {
		t.Errorf("%d to train, %d to measure, %v", len(train), len(eval), err)
	}
}

// An exported reward model, its adapter folded, says what it said, and so does one that was merged.
func TestExportReward(t *testing.T) {
	dir := rewardFiles(t)
	s := &Session{Offline: true}
	if _, err := s.TrainReward(t.Context(), rewardFile(t, dir, "members=2", "steps=4"), filepath.Join(dir, "models"), &silent{}); err != nil {
		t.Fatal(err)
	}
	one, two := filepath.Join(dir, "models", "member-0"), filepath.Join(dir, "models", "member-1")
	export := func(a *Artifact, name string, o ExportOptions) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := a.Export(path, o); err != nil {
			t.Fatal(err)
		}
		return path
	}
	req := []annotate.Request{{Prompt: "what is it?", Completions: []string{" thanks tea", " shut up"}}}
	rewards := func(path string) []float64 {
		t.Helper()
		m, err := s.OpenReward(t.Context(), path, RewardOptions{Backend: "go", Chat: "none"})
		if err != nil {
			t.Fatal(err)
		}
		v, err := m.Rewards(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return v[0][0]
	}
	same := func(what, path string, want []float64) {
		t.Helper()
		for k, v := range rewards(path) {
			if math.Abs(v-want[k]) > 1e-5 {
				t.Errorf("%s: reward %d is %g, want %g", what, k, v, want[k])
			}
		}
	}
	same("exported", export(open(t, one, ""), "whole", ExportOptions{}), rewards(one))
	for _, op := range []string{"mean_delta", "peft_linear"} {
		merged, err := Merge([]*Artifact{open(t, one, ""), open(t, two, "")}, nil, MergeOptions{Op: op})
		if err != nil {
			t.Fatal(err)
		}
		same(op, export(merged, op, ExportOptions{}), rewards(export(merged, op+"-adapter", ExportOptions{Adapter: true})))
	}
	copies, err := Merge([]*Artifact{open(t, one, ""), open(t, one, "")}, nil, MergeOptions{Op: "mean_delta"})
	if err != nil {
		t.Fatal(err)
	}
	same("copies merged", export(copies, "copies", ExportOptions{Adapter: true}), rewards(one))
}

// The examples beside this file load.
func TestRewardExamples(t *testing.T) {
	for _, file := range []string{"reward.yaml", "reward-made.yaml", "reward-picnic.yaml"} {
		if _, err := LoadReward(file, nil); err != nil {
			t.Error(err)
		}
	}
}
