package experiments

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTableOverSeeds checks the numbers of an arm by hand: seeds 0, 1, 2 give 0.4, 0.5, 0.6, so the mean is 0.5, the
// standard deviation 0.1, and the half width t(0.975, 2)·0.1/√3 = 4.3027·0.057735 = 0.2484.
func TestTableOverSeeds(t *testing.T) {
	trials, out := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 1, 2], loss.beta: [0.1]}}"), t.TempDir()
	run := func(_ context.Context, tr Trial, _ *RunDir, _ UI) (Result, error) {
		win := 0.4 + 0.1*float64(tr.Config.Seed)
		return Result{Final: map[string]float64{"eval/win_rate": win, "eval/win_rate_low": win - 0.1, "eval/win_rate_high": win + 0.1, "eval/length": 12}}, nil
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
	for metric, want := range map[string]string{"eval/win_rate": "0.500 ± 0.248", "eval/length": "12.0 ± 0.0", "kl/initial": "–"} {
		if got := table.Rows[0].Cells[metric].String(); got != want {
			t.Errorf("%s: %s, want %s", metric, got, want)
		}
	}
	one, err := MakeTable(out, trials[:1])
	if err != nil {
		t.Fatal(err)
	}
	if got := one.Rows[0].Cells["eval/win_rate"].String(); got != "0.400 ± 0.100" {
		t.Errorf("one seed shows the bootstrap interval: %s", got)
	}

	study := StudyDir(out, trials[0].Config)
	if err := table.Save(study); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"results.md":   "| loss.beta | method | seeds | win rate | score | KL | words | distinct-2 | unique |\n|---|---|---|---|---|---|---|---|---|\n",
		"results.csv":  "loss.beta,method,seeds,failed,missing,eval/win_rate,eval/win_rate_half_width,",
		"results.json": `"rows": [`,
	} {
		raw, err := os.ReadFile(filepath.Join(study, name))
		if err != nil || !strings.Contains(string(raw), want) {
			t.Errorf("%s: %v\n%s", name, err, raw)
		}
	}
	var text strings.Builder
	if err := table.Print(&text); err != nil || !strings.Contains(text.String(), "0.500 ± 0.248") {
		t.Errorf("%v\n%s", err, &text)
	}
}
