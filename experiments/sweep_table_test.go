package experiments

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A study has one table: two files of one study are refused, unless they are one experiment in two spellings.
func TestOneTable(t *testing.T) {
	files := []string{"a.yaml", "b.yaml"}
	a := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 1]}}")
	for text, want := range map[string]string{
		taskYAML + "sweep: {grid: {seed: [1, 0]}}":                           "",
		taskYAML + "sweep: {grid: {seed: [0]}}":                              "a.yaml and b.yaml: two experiments in one study, s, where the second's table would replace the first's; give each a study of its own",
		strings.Replace(taskYAML, "study: s", "study: other", 1) + "seed: 7": "",
	} {
		if err := OneTable(files, [][]Trial{a, trialsOf(t, text)}); err != nil && err.Error() != want || err == nil && want != "" {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A table with other arms is replaced, but not without a word.
func TestSaveTableSaysWhatItReplaces(t *testing.T) {
	out := t.TempDir()
	all := fakeStudy(t, out, taskYAML+"sweep: {grid: {loss.beta: [0.1, 0.2, 0.4], seed: [0, 1]}}")
	var said []string
	save := func(trials []Trial) {
		t.Helper()
		said = nil
		if _, err := SaveTable(out, trials, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }); err != nil {
			t.Fatal(err)
		}
	}
	line := func(arms int) []string {
		return []string{fmt.Sprintf("%s: a table with %d arms that are not in this sweep is replaced", filepath.Join(out, "s"), arms)}
	}
	for _, c := range []struct {
		trials []Trial
		want   []string
	}{{all[:3], nil}, {all, nil}, {all, nil}, {all[:3], line(3)}, {all[:1], line(2)}} { // all[:3] are the arms' first seed
		if save(c.trials); !slices.Equal(said, c.want) {
			t.Errorf("of %d trials: %q, want %q", len(c.trials), said, c.want)
		}
	}
	table := filepath.Join(out, "s", "results.json")
	if err := os.WriteFile(table, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if save(all); said != nil {
		t.Errorf("over a broken one: %q", said)
	}
	var back Table
	if err := readJSON(table, &back); err != nil || len(back.Rows) != 3 {
		t.Error(errors.Join(err, fmt.Errorf("%d rows", len(back.Rows))))
	}
}
