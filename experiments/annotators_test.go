package experiments

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobpo/bpo/annotate"
)

// A model's weights, its settings and a template's text count, wherever in a sum they stand; names and logs do not.
func TestAnnotatorFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("rm/member-0/adapter_model.safetensors", "weights")
	write("rm/reward.yaml", "max_tokens: 64")
	write("rm/metrics.jsonl", "{}")
	write("mine.tmpl", "{{.A}} or {{.B}}")
	c := annotate.Config{Name: "sum", Of: []annotate.Config{
		{Name: "length"},
		{Name: "reward", Params: map[string]any{"path": filepath.Join(dir, "rm")}},
		{Name: "logprob_judge", Params: map[string]any{"model": "smollm2", "template": filepath.Join(dir, "mine.tmpl")}},
	}}
	before, err := annotatorFiles("annotator", c, map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(before)); !slices.Equal(got, []string{"annotator.of[1].path", "annotator.of[2].template"}) {
		t.Fatalf("files of %q", got)
	}
	for _, change := range []struct{ file, text, key string }{
		{"rm/metrics.jsonl", "{}{}", ""},
		{"rm/member-0/adapter_model.safetensors", "Weights", "annotator.of[1].path"},
		{"rm/reward.yaml", "max_tokens: 65", "annotator.of[1].path"},
		{"mine.tmpl", "{{.B}} or {{.A}}", "annotator.of[2].template"},
	} {
		write(change.file, change.text)
		after, err := annotatorFiles("annotator", c, map[string]string{})
		if err != nil {
			t.Fatal(err)
		}
		for key := range before {
			if (before[key] != after[key]) != (key == change.key) {
				t.Errorf("after a change of %s, %s went from %s to %s", change.file, key, before[key], after[key])
			}
		}
		before = after
	}
}

// A run does not go on with another annotator under the same name.
func TestAnnotatorChangedUnderARun(t *testing.T) {
	file := writeFile(t, "mine.tmpl", "{{.Prompt}} {{.A}} {{.B}}")
	r := &trial{cfg: &Config{}, base: &base{}, corpus: &corpus{}, dir: &RunDir{Path: "runs/x"}}
	r.cfg.Annotator = annotate.Config{Name: "judge", Params: map[string]any{"template": file}}
	sums, err := annotatorFiles("annotator", r.cfg.Annotator, map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	sums["annotator.template"] = "another"
	sums["model"] = ""
	r.dir.Manifest.Data = sums
	if err := r.checkData(); err == nil || !strings.Contains(err.Error(), "annotator.template changed since this run started") {
		t.Errorf("error %v", err)
	}
}
