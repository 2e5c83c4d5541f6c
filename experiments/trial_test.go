package experiments

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobpo/data"
)

// tinyYAML is a real experiment that takes seconds.
const tinyYAML = `study: tiny
backend: BACKEND
task: {name: picnic, sft_n: 64, train_n: 32}
model: {scratch: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, intermediate: 32}}
pretrain: {steps: 3, batch_size: 8}
sft: {steps: 2, batch_size: 4}
steps: 4
batch_size: 4
refresh: 2
ties: random
learners: 2
lora: {rank: 2, alpha: 4, targets: [q_proj]}
optimizer: {lr: 0.01}
sample: {n: 2, batch: 8}
max_prompt_tokens: 16
max_completion_tokens: 8
eval: {n: 8, kl_samples: 4, every: 2, bootstrap: 50}
`

// errKilled stands for kill -9 at a place that UI calls let a test choose.
var errKilled = errors.New("killed")

type killer struct {
	silent
	at string
}

func (k *killer) Doing(what string, done, _ int) {
	if what == k.at && done == 3 {
		panic(errKilled)
	}
}

// TestTrialEndToEnd runs the thinnest complete path: train a model, fine-tune two adapters, sample, annotate, align,
// evaluate; kill it in the third step, resume it, and compare with an uninterrupted run bit by bit.
func TestTrialEndToEnd(t *testing.T) {
	name := "go"
	if b := os.Getenv("GOMLX_BACKEND"); b != "" {
		name = b
	}
	trial := trialsOf(t, strings.Replace(tinyYAML, "BACKEND", name, 1))[0]
	session := &Session{Offline: true, Log: t.Output()}
	ctx := context.Background()
	dir, whole, err := RunOne(ctx, trial, t.TempDir(), session.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eval/win_rate", "eval/win_rate_low", "eval/length", "eval/unique", "kl/initial", "eval/score"} {
		if _, ok := whole.Final[name]; !ok {
			t.Errorf("the result lacks %s: %v", name, whole.Final)
		}
		if _, ok := whole.Initial[name]; !ok {
			t.Errorf("the start policy's result lacks %s", name)
		}
	}
	if kl := whole.Initial["kl/initial"]; kl < -1e-4 || kl > 1e-4 {
		t.Errorf("KL of the start policy to itself: %g", kl)
	}
	if len(whole.Outcomes) != 8 {
		t.Errorf("%d outcomes", len(whole.Outcomes))
	}
	steps, err := ReadMetrics(filepath.Join(dir, "metrics.jsonl"))
	if err != nil || len(steps) != 5 { // step 0 is the evaluation before training
		t.Fatalf("%d steps of metrics, %v", len(steps), err)
	}
	for _, name := range []string{"loss", "rewards/margins", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected", "grad_norm", "learning_rate", "behavior/version", "reference/version", "tokens_per_second", "padding_share", "compile/count", "time/learn"} {
		if _, ok := steps[1].Values[name]; !ok {
			t.Errorf("step 1 lacks %s", name)
		}
	}
	outputs, err := data.Read[data.Completion](filepath.Join(dir, "samples", "final.parquet"))
	if err != nil || len(outputs) != 8 || outputs[0].Score == nil || outputs[0].Reference == "" {
		t.Errorf("samples: %d, %v", len(outputs), err)
	}

	out := t.TempDir()
	_, _, err = RunOne(ctx, trial, out, session.Execute, &killer{at: "train"})
	if !errors.Is(err, errKilled) {
		t.Fatalf("the killed run ended with %v", err)
	}
	again, resumed, err := RunOne(ctx, trial, out, session.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range whole.Final {
		if resumed.Final[k] != v {
			t.Errorf("%s is %v after a resume, %v without", k, resumed.Final[k], v)
		}
	}
	resumedSteps, err := ReadMetrics(filepath.Join(again, "metrics.jsonl"))
	if err != nil || len(resumedSteps) != len(steps) {
		t.Fatalf("%d steps after a resume, %v", len(resumedSteps), err)
	}
	for i, s := range steps {
		if got, want := resumedSteps[i].Values["loss"], s.Values["loss"]; got != want || resumedSteps[i].Step != s.Step {
			t.Errorf("step %d: loss %v after a resume, %v without", s.Step, got, want)
		}
	}
	a, _ := os.ReadFile(filepath.Join(dir, "policy.safetensors"))
	b, _ := os.ReadFile(filepath.Join(again, "policy.safetensors"))
	if len(a) == 0 || !slices.Equal(a, b) {
		t.Error("the resumed run ends with another policy")
	}

	e, err := session.EvaluateRun(ctx, dir, true, func(c *Config) error { c.Eval.Annotator.Name = "rouge_l"; return nil })
	if err != nil || e.Metrics["eval/n"] != 8 {
		t.Errorf("another evaluator: %v, %v", e.Metrics, err)
	}
	if _, err := session.EvaluateRun(ctx, t.TempDir(), false, func(*Config) error { return nil }); err == nil || !strings.Contains(err.Error(), "is not a run directory") {
		t.Errorf("no run: %v", err)
	}
}

// The start policy's numbers are those of the policy, not of the trial that comes first.
func TestStartPolicyIsMeasuredAlike(t *testing.T) {
	s := &Session{Offline: true}
	yaml := strings.NewReplacer("BACKEND", "go", "sft: {steps: 2, batch_size: 4}\n", "", "eval: {n: 8,", "eval: {n: 8, temperature: 1,").Replace(tinyYAML)
	initial := func(out, seed string) (map[string]float64, string) {
		t.Helper()
		_, r, err := RunOne(context.Background(), trialsOf(t, yaml+"seed: "+seed+"\n")[0], out, s.Execute, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Initial, r.InitialDir
	}
	a, b := t.TempDir(), t.TempDir()
	three, dir := initial(a, "3")
	zero, other := initial(b, "0")
	again, shared := initial(b, "3")
	if dir != other || dir != shared {
		t.Errorf("one start policy is measured in %s, %s and %s", dir, other, shared)
	}
	for name, v := range zero {
		if three[name] != v || again[name] != v {
			t.Errorf("%s: %v first by seed 3, %v by seed 0", name, three[name], v)
		}
	}
}

func TestLeakage(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, prompts ...string) string {
		text := ""
		for _, p := range prompts {
			text += `{"prompt": "` + p + `", "label": "ref"}` + "\n"
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := DefaultConfig()
	c.Prompts.Train, c.Prompts.Eval = file("train.jsonl", "a", "b", "c"), file("eval.jsonl", "c", "d", "e")
	if _, err := loadCorpus(&c); err == nil || err.Error() != `prompts.eval: 1 of 3 prompts are also trained on, such as "c"; set prompts.leakage to drop or allow, or evaluate on held-out prompts` {
		t.Errorf("leakage: %v", err)
	}
	c.Prompts.Leakage = "drop"
	if s, err := loadCorpus(&c); err != nil || len(s.eval) != 2 || s.dropped != 1 {
		t.Errorf("drop: %+v, %v", s, err)
	}
	c.Prompts.Leakage = "allow"
	if s, err := loadCorpus(&c); err != nil || len(s.eval) != 3 {
		t.Errorf("allow: %+v, %v", s, err)
	}
	pairs := filepath.Join(dir, "pairs.parquet")
	if err := data.Write(pairs, []data.Preference{{Prompt: "d", Chosen: "x", Rejected: "y"}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(c *Config){
		func(c *Config) { c.Prompts.Train, c.Data = "", "offline:"+pairs },
		func(c *Config) { c.Prompts.Train, c.Mix.Pairs = "", pairs },
	} {
		given := c
		change(&given)
		given.Prompts.Leakage = "error"
		if _, err := loadCorpus(&given); err == nil || !strings.Contains(err.Error(), `1 of 3 prompts are also trained on, such as "d"`) {
			t.Errorf("leakage into given pairs: %v", err)
		}
		given.Prompts.Leakage = "drop"
		if s, err := loadCorpus(&given); err != nil || len(s.eval) != 2 || s.dropped != 1 {
			t.Errorf("drop what is in given pairs: %+v, %v", s, err)
		}
	}
	c.Prompts.Eval = filepath.Join(dir, "none.jsonl")
	if _, err := loadCorpus(&c); err == nil || !strings.HasPrefix(err.Error(), "prompts.eval: ") {
		t.Errorf("a missing file: %v", err)
	}
}
