package experiments

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A finished run is looked at without what it was trained with: the evaluator's model, where another evaluator judges, the
// policy that it started from, and the study that it took its pairs from.
func TestLookAtAFinishedRun(t *testing.T) {
	s := &Session{Offline: true}
	dir, out := rewardFiles(t), t.TempDir()
	rm := filepath.Join(dir, "rm")
	if _, err := s.TrainReward(t.Context(), rewardFile(t, dir, "steps=2"), rm, &silent{}); err != nil {
		t.Fatal(err)
	}
	one := strings.NewReplacer("BACKEND", "go", "study: tiny", "study: tiny-one", "learners: 2", "learners: 1").Replace(tinyYAML)
	two := strings.NewReplacer("study: tiny-one", "study: tiny-two", "sft: {steps: 2, batch_size: 4}", "start: checkpoint:study:tiny-one\nprompts: {select: {by: ask_llm, keep: 0.5}}",
		"bootstrap: 50}", "bootstrap: 50, annotator: {name: reward, path: "+rm+"}}").Replace(one)
	run := func(yaml string) string {
		t.Helper()
		path, _, err := RunOne(t.Context(), trialsOf(t, yaml)[0], out, s.Execute, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	run(one)
	path := run(two)
	evaluate := func(annotator string) (Evaluation, string, error) {
		var log strings.Builder
		fresh := &Session{Offline: true, Log: &log}
		e, err := fresh.EvaluateRun(t.Context(), path, false, func(c *Config) error {
			if annotator != "" {
				c.Eval.Annotator.Name, c.Eval.Annotator.Params = annotator, nil
			}
			return nil
		})
		return e, log.String(), err
	}
	before, log, err := evaluate("rouge_l")
	if _, ok := before.Metrics["kl/initial"]; err != nil || !ok || log != "" {
		t.Fatal(before.Metrics, log, err)
	}
	r, err := ReadResult(path)
	if err != nil {
		t.Fatal(err)
	}
	if e, _, err := evaluate(""); err != nil || e.Metrics["eval/score"] != r.Final["eval/score"] || e.Metrics["kl/initial"] != r.Final["kl/initial"] {
		t.Errorf("evaluated again: %v, %v; the result is %v", e.Metrics, err, r.Final)
	}

	other := filepath.Join(t.TempDir(), "other.jsonl") // of a task's run, too
	if err := os.WriteFile(other, []byte(`{"prompt": "Pack for Ben: tea.", "reference": "Packed: tea."}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, err := (&Session{Offline: true}).EvaluateRun(t.Context(), path, false, func(c *Config) error {
		c.Prompts.Test, c.Eval.Annotator.Name, c.Eval.Annotator.Params = other, "rouge_l", nil
		return nil
	})
	if err != nil || len(e.Outputs) != 1 || e.Outputs[0].Prompt != "Pack for Ben: tea." {
		t.Errorf("on other prompts: %+v, %v", e.Outputs, err)
	}

	for _, gone := range []string{rm, filepath.Join(out, "tiny-one")} {
		if err := os.Rename(gone, gone+"-moved"); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := (&Session{Offline: true}).OpenPolicy(t.Context(), path, "", ""); err != nil || p.Policy.Adapter == nil {
		t.Errorf("opened: %v", err)
	}
	after, log, err := evaluate("rouge_l")
	if _, ok := after.Metrics["kl/initial"]; err != nil || ok || after.Metrics["eval/win_rate"] != before.Metrics["eval/win_rate"] || !strings.HasPrefix(log, "without kl/initial: start: checkpoint:study:tiny-one is not done") {
		t.Errorf("%v, %q, %v", after.Metrics, log, err)
	}
	if _, _, err := evaluate(""); err == nil || !strings.HasPrefix(err.Error(), "eval.annotator.path: ") {
		t.Errorf("without the evaluator: %v", err)
	}
}
