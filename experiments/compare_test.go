package experiments

import (
	"encoding/json"
	"errors"
	"fmt"
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
	for _, reference := range []string{"sft", "behavior", "a", "b", "c"} {
		if arms[reference] == nil {
			continue
		}
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

// Four arms against one, by prompts better : worse. Exact p: 2·(1 + 9)/2⁹, 2/2⁸, 2·(1 + 5 + 10)/2⁵ and 2/2⁶. Holm's: the
// smallest fourfold, the next (b) thrice, behavior's twofold is less than that and so takes b's, the last as it is.
func TestCompareArmsHolm(t *testing.T) {
	against12 := func(better, worse int) [][]float64 { // ½ for each of 12 prompts
		one := make([]float64, 12)
		for i := range one {
			switch one[i] = 0.5; {
			case i < better:
				one[i] = 1
			case i < better+worse:
				one[i] = 0
			}
		}
		return [][]float64{one}
	}
	study := studyOf(t, map[string][][]float64{"sft": against12(0, 0), "behavior": against12(8, 1), "a": against12(8, 0), "b": against12(6, 0), "c": against12(3, 2)})
	against, all, err := CompareArms(study, "reference=sft")
	if err != nil {
		t.Fatal(err)
	}
	want := []Comparison{
		{Arm: "reference=behavior refresh=2", Better: 8, Worse: 1, P: 0.0390625, Holm: 0.09375},
		{Arm: "reference=a refresh=2", Better: 8, P: 0.0078125, Holm: 0.03125},
		{Arm: "reference=b refresh=2", Better: 6, P: 0.03125, Holm: 0.09375},
		{Arm: "reference=c refresh=2", Better: 3, Worse: 2, P: 1, Holm: 1},
	}
	if len(all) != len(want) {
		t.Fatalf("%+v", all)
	}
	for i, w := range want {
		c := all[i]
		if c.Arm != w.Arm || c.Better != w.Better || c.Worse != w.Worse || math.Abs(c.P-w.P) > 1e-12 || math.Abs(c.Holm-w.Holm) > 1e-12 || (c.Needed > 0) != (w.P == 1) {
			t.Errorf("got %+v, want %+v", c, w)
		}
	}
	// Of c the differences are three times ½, twice −½: mean 1/24, standard error √((5/4/12 − 1/24²)/12) = 0.09239, and so
	// 12·((1.95996 + 0.84162)·0.09239·24)² = 463 prompts. Its bootstrap interval moves in steps of 1/24, hence the range.
	c := all[3]
	error := (c.Prompts.High - c.Prompts.Low) / (2 * 1.959964)
	if exact := 12 * math.Pow(2.801585*error*24, 2); math.Abs(float64(c.Needed)-exact) > 1 || c.Needed < 330 || c.Needed > 600 {
		t.Errorf("c needs %d prompts, want %.1f, about 463", c.Needed, exact)
	}
	var out strings.Builder
	if err := PrintComparisons(&out, against, all); err != nil {
		t.Fatal(err)
	}
	if hint := fmt.Sprintf("reference=c refresh=2 is not told apart; if the difference is +0.042, about %d prompts a seed would do it", c.Needed); strings.Count(out.String(), "is not told apart") != 3 || strings.Contains(out.String(), "reference=a refresh=2 is not") || !strings.Contains(out.String(), hint) {
		t.Errorf("no hint %q in\n%s", hint, &out)
	}
	for _, line := range []string{"  8 : 0           0.0078  0.031\n", "  8 : 1           0.039   0.094\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, &out)
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
