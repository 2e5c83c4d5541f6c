package losstest

import (
	"os"
	"os/exec"
	"testing"
)

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
