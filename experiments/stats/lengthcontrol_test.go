package stats

import (
	_ "embed"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"testing"
)

// What scikit-learn fits (tools/goldens/length_control.py).
//
//go:embed testdata/length_control.json
var lengthControl []byte

func TestLengthControlledAsScikitLearn(t *testing.T) {
	var cases []struct {
		Words, Other []int
		Outcomes     []float64
		Rate, Phi    float64
	}
	if err := json.Unmarshal(lengthControl, &cases); err != nil || len(cases) == 0 {
		t.Fatal(err)
	}
	for i, c := range cases {
		if got := LengthControlled(c.Outcomes, c.Words, c.Other); math.Abs(got-c.Rate) > 1e-5 {
			t.Errorf("case %d: %.7f, scikit-learn has %.7f", i, got, c.Rate)
		}
	}
}

// The tables in testdata are what the script computes, within the solver's tolerance.
func TestTheTablesAreTheScripts(t *testing.T) {
	const script = "../../tools/goldens/length_control.py"
	if _, err := os.ReadFile(script); err != nil { // read here too, for go test to know that the result depends on it
		t.Fatal(err)
	}
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import sklearn").Run(); err != nil {
		t.Skipf("%s cannot import sklearn (pip install scikit-learn, or set GOBPO_PYTHON)", python)
	}
	if out, err := exec.Command(python, script, "--check").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLengthControlledEdges(t *testing.T) {
	same := []int{5, 5, 5, 5}
	if got := LengthControlled([]float64{1, 0.5, 0, 0}, same, same); math.Abs(got-0.375) > 1e-6 {
		t.Errorf("of equal lengths: %v, want the plain rate 0.375", got)
	}
	if got := LengthControlled([]float64{1, 1, 1, 1}, []int{1, 2, 3, 4}, same); !(got > 0.99 && got <= 1) {
		t.Errorf("every outcome won: %v", got)
	}
	if got := LengthControlled(nil, nil, nil); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
	// Wins go with length alone: the longer text wins 3 of 4 times on either side, so that neither is better.
	outcomes, words, other := []float64{1, 1, 1, 0, 0, 0, 0, 1}, []int{9, 9, 9, 9, 5, 5, 5, 5}, []int{5, 5, 5, 5, 9, 9, 9, 9}
	if got := LengthControlled(outcomes, words, other); math.Abs(got-0.5) > 1e-9 {
		t.Errorf("length alone decides: %v, want 0.5", got)
	}
	// Swapping sides mirrors the rate.
	a := LengthControlled([]float64{1, 1, 0, 0.5, 1}, []int{9, 4, 3, 8, 2}, []int{4, 4, 6, 5, 7})
	b := LengthControlled([]float64{0, 0, 1, 0.5, 0}, []int{4, 4, 6, 5, 7}, []int{9, 4, 3, 8, 2})
	if math.Abs(a+b-1) > 1e-9 {
		t.Errorf("%v and %v from either side", a, b)
	}
}
