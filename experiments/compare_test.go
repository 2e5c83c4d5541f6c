package experiments

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func studyOf(t *testing.T, arms map[string][][]float64) string {
	t.Helper()
	study := t.TempDir()
	table := Table{Study: "s", Keys: []string{"reference", "refresh"}}
	for _, reference := range []string{"sft", "behavior"} {
		row := Row{Point: map[string]any{"reference": reference, "refresh": 2}, Method: "m"}
		for i, outcomes := range arms[reference] {
			run := reference + string(rune('0'+i))
			row.Runs, row.Seeds = append(row.Runs, run), row.Seeds+1
			dir := filepath.Join(study, run)
			if err := errors.Join(os.MkdirAll(dir, 0o755), Result{Outcomes: outcomes, Final: map[string]float64{}}.Save(dir)); err != nil {
				t.Fatal(err)
			}
		}
		table.Rows = append(table.Rows, row)
	}
	if err := writeJSON(filepath.Join(study, "results.json"), table); err != nil {
		t.Fatal(err)
	}
	return study
}

func TestCompareArms(t *testing.T) {
	study := studyOf(t, map[string][][]float64{
		"sft":      {{0, 0, 1, 0.5}, {0, 1, 1, 0}},
		"behavior": {{1, 0, 1, 1}, {1, 1, 0, 1}},
	})
	against, all, err := CompareArms(study, "reference=sft")
	if err != nil {
		t.Fatal(err)
	}
	if against != "reference=sft refresh=2" || len(all) != 1 {
		t.Fatalf("against %q: %+v", against, all)
	}
	c := all[0]
	// By seed (1 + 0 + 0 + ½)/4 and (1 + 0 − 1 + 1)/4: their mean 0.3125, standard deviation 0.0883883, so the half width is
	// 12.7062·0.0883883/√2 = 0.794138. The prompts' means over seeds are 0, ½, 1, ¼ and 1, ½, ½, 1: two better, one worse.
	if c.Arm != "reference=behavior refresh=2" || c.Difference != 0.3125 || c.Better != 2 || c.Worse != 1 || c.P != 1 || c.Holm != c.P {
		t.Errorf("%+v", c)
	}
	if math.Abs(c.Seeds.Low-(0.3125-0.794138)) > 1e-4 || math.Abs(c.Seeds.High-(0.3125+0.794138)) > 1e-4 {
		t.Errorf("over seeds %+v", c.Seeds)
	}
	var out strings.Builder
	if err := PrintComparisons(&out, against, all); err != nil || !strings.Contains(out.String(), "+0.312") {
		t.Errorf("%v\n%s", err, out.String())
	}
	for baseline, want := range map[string]string{"refresh=2": "fits 2 arms", "refresh=3": "no arm has", "reference=sft refresh=9": "no arm has"} {
		if _, _, err := CompareArms(study, baseline); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", baseline, err, want)
		}
	}
}

// One seed has no interval over seeds: null in JSON, which has no NaN.
func TestComparisonOfOneSeedAsJSON(t *testing.T) {
	study := studyOf(t, map[string][][]float64{"sft": {{0, 1, 0}}, "behavior": {{1, 1, 0}}})
	_, all, err := CompareArms(study, "reference=sft")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"arm":"reference=behavior refresh=2"`, `"prompts":{"high":`, `"seeds":null`, `"better":1,"worse":0`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s lacks %s", raw, want)
		}
	}
}

func TestCompareArmsOfUnequalSeeds(t *testing.T) {
	study := studyOf(t, map[string][][]float64{"sft": {{0, 1}}, "behavior": {{0, 1}, {1, 1}}})
	if _, _, err := CompareArms(study, ""); err == nil || !strings.Contains(err.Error(), "finish the sweep first") {
		t.Errorf("error %v", err)
	}
}

// As many runs, but of other seeds, are no pairs.
func TestCompareArmsOfOtherSeeds(t *testing.T) {
	study := studyOf(t, map[string][][]float64{"sft": {{0, 1}, {1, 1}}, "behavior": {{0, 1}, {1, 1}}})
	table, err := studyTable(study)
	if err != nil {
		t.Fatal(err)
	}
	table.Rows[0].RunSeeds, table.Rows[1].RunSeeds = []uint64{0, 1}, []uint64{1, 2}
	if err := writeJSON(filepath.Join(study, "results.json"), table); err != nil {
		t.Fatal(err)
	}
	if _, _, err := CompareArms(study, ""); err == nil || !strings.Contains(err.Error(), "has the seeds [1 2]") {
		t.Errorf("error %v", err)
	}
	table.Rows[1].RunSeeds = []uint64{0, 1}
	if err := writeJSON(filepath.Join(study, "results.json"), table); err != nil {
		t.Fatal(err)
	}
	if _, _, err := CompareArms(study, ""); err != nil {
		t.Errorf("the same seeds: %v", err)
	}
}

// Outcomes are paired by the prompts' order, so that the prompts must be the same.
func TestCompareArmsOnOtherPrompts(t *testing.T) {
	study := studyOf(t, map[string][][]float64{"sft": {{0, 1}}, "behavior": {{1, 1}}})
	for run, prompts := range map[string]string{"sft0": "aa (2)", "behavior0": "bb (2)"} {
		if err := writeJSON(filepath.Join(study, run, "manifest.json"), Manifest{Data: map[string]string{"prompts/test": prompts}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := CompareArms(study, ""); err == nil || !strings.Contains(err.Error(), "measured on different prompts") {
		t.Errorf("error %v", err)
	}
}
