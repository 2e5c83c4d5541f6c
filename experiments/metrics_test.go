package experiments

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMetricsRewind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	l, err := OpenMetrics(path)
	if err != nil {
		t.Fatal(err)
	}
	for step := range 5 {
		if err := l.Append(step, map[string]float64{"loss": float64(step), "rewards/margins": math.NaN()}); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	// A crash in the middle of a line.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"step": 5, "lo`)
	f.Close()
	steps := func() []int {
		rows, err := ReadMetrics(path)
		if err != nil {
			t.Fatal(err)
		}
		var out []int
		for _, r := range rows {
			out = append(out, r.Step)
			if _, ok := r.Values["rewards/margins"]; ok || r.Values["loss"] != float64(r.Step) {
				t.Errorf("step %d: %v", r.Step, r.Values)
			}
		}
		return out
	}
	if got := steps(); !slices.Equal(got, []int{0, 1, 2, 3, 4}) {
		t.Errorf("a cut line: %v", got)
	}
	if l, err = OpenMetrics(path); err != nil {
		t.Fatal(err)
	}
	if err := l.Rewind(2); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(3, map[string]float64{"loss": 3}); err != nil {
		t.Fatal(err)
	}
	if got := steps(); !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("after rewinding to 2 and a step: %v", got)
	}
	if err := l.Rewind(-1); err != nil || len(steps()) != 0 {
		t.Errorf("rewound to the start: %v, %v", steps(), err)
	}
	l.Close()
	os.WriteFile(path, []byte("{\"step\": 1}\nnonsense\n{\"step\": 2}\n"), 0o644)
	if _, err := ReadMetrics(path); err == nil || !strings.HasSuffix(err.Error(), "metrics.jsonl:2: not a line of metrics") {
		t.Errorf("a damaged log: %v", err)
	}
}

func TestWriteFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if raw, _ := os.ReadFile(path); string(raw) != text {
			t.Errorf("got %q", raw)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("temporary files are left: %v", entries)
	}
	if err := WriteFile(filepath.Join(dir, "no", "x"), nil); err == nil || !strings.HasPrefix(err.Error(), "write "+dir) {
		t.Errorf("a missing directory: %v", err)
	}
}
