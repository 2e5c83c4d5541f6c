package losstest

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"gobpo/bpo"
)

// The suite skips what the table lacks, for losses of other modules; of ours it must lack none.
func TestTheTableHasEveryLossOfOurs(t *testing.T) {
	var all table
	if err := json.Unmarshal(formulas, &all); err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for _, c := range all.Cases {
		rows[c.Name]++
	}
	for _, l := range bpo.Losses() {
		if rows[l.Name] == 0 {
			t.Errorf("no case of %q: give tools/goldens/losses.py its formula, and run it", l.Name)
		}
		delete(rows, l.Name)
	}
	if len(rows) > 0 {
		t.Errorf("cases of no registered loss: %v", rows)
	}
}

// The table in testdata is what the script computes, which needs nothing but Python.
func TestTheTableIsTheScripts(t *testing.T) {
	const script = "../../tools/goldens/losses.py"
	for _, file := range []string{script, "testdata/formulas.json"} { // read here too, for go test to know that the result depends on them
		if _, err := os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	if out, err := exec.Command(python, script, "--check").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
