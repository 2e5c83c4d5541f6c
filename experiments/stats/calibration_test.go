package stats

import (
	"math"
	"testing"
)

// logit is the margin of a probability.
func logit(p float64) float64 { return math.Log(p / (1 - p)) }

func TestCalibration(t *testing.T) {
	// Ten pairs at confidence 0.82, six right; ten at 0.57, five right and one of them tied in no way.
	var margins []float64
	for i := range 10 {
		sign := 1.0
		if i >= 6 {
			sign = -1
		}
		margins = append(margins, sign*logit(0.82))
		if sign = 1; i >= 5 {
			sign = -1
		}
		margins = append(margins, sign*logit(0.57))
	}
	c := Calibration(margins)
	nll := -(6*math.Log(0.82) + 4*math.Log(0.18) + 5*math.Log(0.57) + 5*math.Log(0.43)) / 20
	if ece := 0.5*0.22 + 0.5*0.07; math.Abs(c.ECE-ece) > 1e-9 || math.Abs(c.NLL-nll) > 1e-9 {
		t.Errorf("ECE %v, want %v; NLL %v, want %v", c.ECE, ece, c.NLL, nll)
	}
	if len(c.Bins) != 2 || c.Bins[0].N != 10 || c.Bins[0].Accuracy != 0.5 || math.Abs(c.Bins[1].Confidence-0.82) > 1e-9 || c.Bins[1].Low != 0.8 {
		t.Errorf("bins %+v", c.Bins)
	}
	if c := Calibration([]float64{0, 0}); math.Abs(c.NLL-math.Ln2) > 1e-12 || c.ECE != 0 {
		t.Errorf("ties: %+v", c)
	}
	if c := Calibration([]float64{1e4, -1e4}); c.NLL != 5000 || c.ECE != 0.5 {
		t.Errorf("extremes: %+v", c)
	}
}
