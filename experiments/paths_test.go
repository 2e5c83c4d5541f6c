package experiments

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever names a file or a directory is looked for, but for what a study is to make, and the model that is fetched.
func TestCheckPaths(t *testing.T) {
	file := writeFile(t, "here.jsonl", "{}")
	prompts := "study: s\nmodel: {path: smollm2}\nprompts: {train: " + file + ", eval: " + file + ", leakage: allow}\n"
	for _, c := range []struct{ text, set, key string }{
		{prompts, "prompts.train=/nope", "prompts.train"},
		{prompts, "prompts.sft=/nope", "prompts.sft"},
		{prompts, "prompts.eval=/nope", "prompts.eval"},
		{prompts, "prompts.test=/nope", "prompts.test"},
		{prompts, "model.path=/nope", "model.path"},
		{taskYAML, "start=checkpoint:/nope", "start"},
		{taskYAML, "reference=checkpoint:/nope", "reference"},
		{taskYAML, "data=offline:/nope", "data"},
		{taskYAML, "mix={pairs: /nope, share: 0.5}", "mix.pairs"},
		{taskYAML, "annotator={name: sum, of: [{name: length, max: 3}, {name: logprob_judge, model: /nope}]}", "annotator.of[1].model"},
		{taskYAML, "eval.annotator={name: logprob_judge, model: /nope}", "eval.annotator.model"},
		{taskYAML, "start=checkpoint:" + file, ""},
		{taskYAML, "data=offline:study:later", ""},
		{taskYAML, "reference=checkpoint:study:later/0123", ""},
		{taskYAML, "annotator={name: logprob_judge, model: smollm2, template: tldr}", ""},
		{prompts, "seed=1", ""},
	} {
		trials, msg := load(t, c.text, []string{c.set}, nil)
		if msg != "" {
			t.Fatalf("%s: %s", c.set, msg)
		}
		want := ""
		if c.key != "" {
			want = "x.yaml: " + c.key + ": stat /nope: no such file or directory"
		}
		if err := CheckPaths("x.yaml", trials, ""); err != nil && err.Error() != want || err == nil && want != "" {
			t.Errorf("%s: %v", c.set, err)
		}
	}
	swept := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 1], reference: [sft, 'checkpoint:/nope']}}")
	if err := CheckPaths("x.yaml", swept, ""); err == nil || !strings.HasPrefix(err.Error(), "x.yaml: at seed=0 reference=checkpoint:/nope: reference: ") {
		t.Errorf("a swept path: %v", err)
	}
}

// Trials that are done need nothing any more, and those of later files may need what an earlier one makes.
func TestReady(t *testing.T) {
	out := t.TempDir()
	from := filepath.Join(out, "one")
	one := trialsOf(t, strings.Replace(taskYAML, "study: s", "study: one", 1))
	two := trialsOf(t, taskYAML+"reference: checkpoint:"+from)
	elsewhere := trialsOf(t, taskYAML+"reference: checkpoint:/nope")
	o := SweepOptions{Out: out, Retry: true, Run: fakeRun, UI: &silent{}}
	for _, c := range []struct {
		sweeps [][]Trial
		ready  bool
	}{{[][]Trial{one, two}, true}, {[][]Trial{two, one}, false}, {[][]Trial{two}, false}, {[][]Trial{one, elsewhere}, false}} {
		err := Ready([]string{"x.yaml", "y.yaml"}, c.sweeps, o)
		if c.ready && err != nil || !c.ready && (err == nil || !strings.Contains(err.Error(), ".yaml: reference: stat /")) {
			t.Errorf("%v", err)
		}
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 0 {
		t.Errorf("to look was to make %v, %v", entries, err)
	}
	if failed, err := Sweep(t.Context(), two, o); err != nil || failed != 0 {
		t.Fatal(failed, err)
	}
	if err := Ready([]string{"y.yaml"}, [][]Trial{two}, o); err != nil {
		t.Errorf("when it is done: %v", err)
	}
}
