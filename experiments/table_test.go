package experiments

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTableOverSeeds checks the numbers of an arm by hand: seeds 0, 1, 2 win 4, 5, 6 of 10 prompts, so the mean is 0.5 and
// the standard deviation over seeds 0.1. The bootstrap draws prompts: their means are four times 1, ⅔, ⅓ and four times 0,
// whose mean has the deviation √(0.2056/10) = 0.143, a half width of about 1.96·0.143 = 0.281.
func TestTableOverSeeds(t *testing.T) {
	trials, out := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 1, 2], loss.beta: [0.1]}}"), t.TempDir()
	run := func(_ context.Context, tr Trial, _ *RunDir, _ UI) (Result, error) {
		win := 0.4 + 0.1*float64(tr.Config.Seed)
		outcomes := make([]float64, 10)
		for i := range 4 + int(tr.Config.Seed) {
			outcomes[i] = 1
		}
		return Result{Final: map[string]float64{"eval/win_rate": win, "eval/length": 12}, Outcomes: outcomes}, nil
	}
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: run, UI: &silent{}}); failed != 0 || err != nil {
		t.Fatal(failed, err)
	}
	table, err := MakeTable(out, trials)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 || table.Rows[0].Seeds != 3 || len(table.Rows[0].Runs) != 3 {
		t.Fatalf("%+v", table.Rows)
	}
	for metric, want := range map[string]string{"eval/length": "12.0", "kl/initial": "–"} {
		if got := table.Rows[0].Cells[metric].String(); got != want {
			t.Errorf("%s: %s, want %s", metric, got, want)
		}
	}
	win := table.Rows[0].Cells["eval/win_rate"]
	if math.Abs(*win.Mean-0.5) > 1e-12 || math.Abs(*win.SD-0.1) > 1e-12 || math.Abs(*win.Half-0.281) > 0.03 {
		t.Errorf("win rate %v ± %v, sd %v", *win.Mean, *win.Half, *win.SD)
	}
	one, err := MakeTable(out, trials[:1])
	if err != nil {
		t.Fatal(err)
	}
	if got := one.Rows[0].Cells["eval/win_rate"]; got.SD != nil || math.Abs(*got.Half-0.3) > 0.05 { // 1.96·√(0.24/10)
		t.Errorf("one seed: %s, sd %v", got, got.SD)
	}

	study := StudyDir(out, trials[0].Config)
	if err := table.Save(study); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"results.md":   "| loss.beta | method | seeds | win rate | seed sd | LC win rate | score | KL | words | distinct-2 | unique |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
		"results.tex":  "0.1 & BPO (DPO), F=2 & 3 & 0.500 $\\pm$ 0.267 & 0.100 & -- &",
		"results.csv":  "loss.beta,method,seeds,failed,missing,eval/win_rate,eval/win_rate_half_width,eval/win_rate_sd,eval/win_rate_length_controlled,eval/win_rate_length_controlled_sd,eval/score,eval/score_sd,",
		"results.json": `"rows": [`,
	} {
		raw, err := os.ReadFile(filepath.Join(study, name))
		if err != nil || !strings.Contains(string(raw), want) {
			t.Errorf("%s: %v\n%s", name, err, raw)
		}
	}
	var text strings.Builder
	if err := table.Print(&text); err != nil || !strings.Contains(text.String(), "0.500 ± 0.2") {
		t.Errorf("%v\n%s", err, &text)
	}
}

// Arms that start from different policies have no one start policy: the row says of how many it is the mean, and has no interval.
func TestTableOfSeveralStartPolicies(t *testing.T) {
	trials, out := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0], loss.beta: [0.1, 0.2, 0.4]}}"), t.TempDir()
	run := func(_ context.Context, tr Trial, _ *RunDir, _ UI) (Result, error) {
		win, dir := 0.3, "initial-a"
		if tr.Config.Loss.Beta == 0.4 {
			win, dir = 0.5, "initial-b"
		}
		initial := map[string]float64{"eval/win_rate": win, "eval/win_rate_low": win - 0.1, "eval/win_rate_high": win + 0.1}
		return Result{Final: map[string]float64{"eval/win_rate": 0.6}, Outcomes: []float64{1, 0}, Initial: initial, InitialDir: dir}, nil
	}
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: run, UI: &silent{}}); failed != 0 || err != nil {
		t.Fatal(failed, err)
	}
	for n, c := range map[int]struct{ text, csv string }{
		2: {"start policy 0.300 ± 0.100 –", ",start policy,,,,0.3,0.1"},
		3: {"start policies, mean of 2 0.400 0.141", `,"start policies, mean of 2",,,,0.4,,0.1414`},
	} {
		table, err := MakeTable(out, trials[:n])
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := table.Print(&text); err != nil || !strings.Contains(strings.Join(strings.Fields(text.String()), " "), c.text) {
			t.Errorf("%v: no %q in\n%s", err, c.text, &text)
		}
		dir := t.TempDir()
		if err := table.Save(dir); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "results.csv"))
		if lines := strings.Split(string(raw), "\n"); err != nil || !strings.HasPrefix(lines[1], c.csv) || !strings.HasPrefix(lines[2], "0.1,") || strings.Count(lines[0], "half_width") != 1 {
			t.Errorf("%v: no %q in\n%s", err, c.csv, raw)
		}
	}
}

// Runs of one arm that saw different data are told under the table, and a run that two points come to counts once.
func TestTableOfUnlikeRuns(t *testing.T) {
	trials, out := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 0, 1]}}\n"), t.TempDir()
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: fakeRun, UI: &silent{}}); err != nil || failed != 0 {
		t.Fatal(failed, err)
	}
	note := func(i int, data map[string]string) {
		t.Helper()
		dir := filepath.Join(StudyDir(out, trials[i].Config), trials[i].Hash)
		m, err := ReadManifest(dir)
		if err != nil {
			t.Fatal(err)
		}
		m.Data = data
		if err := writeJSON(filepath.Join(dir, "manifest.json"), m); err != nil {
			t.Fatal(err)
		}
	}
	note(0, map[string]string{"prompts/test": "old", "start": "a"})
	note(2, map[string]string{"prompts/test": "old", "start": "b"})
	table, err := MakeTable(out, trials)
	if err != nil || len(table.Notes) != 0 || table.Rows[0].Seeds != 2 || len(table.Rows[0].Runs) != 2 {
		t.Fatalf("%+v, %v", table, err)
	}
	note(2, map[string]string{"prompts/test": "new"})
	if table, err = MakeTable(out, trials); err != nil || len(table.Notes) != 1 || !strings.Contains(table.Legend(), "different prompts/test (old and new)") {
		t.Errorf("%q, %v", table.Notes, err)
	}
	if tex := string(table.latex()); !strings.Contains(tex, "\n% Note: ") {
		t.Error(tex)
	}
}
