package models

import (
	"math"
	"testing"
)

// The scalings against what their definitions say of single frequencies.
func TestFrequencies(t *testing.T) {
	no := false
	c := Config{HeadDim: 8, MaxPositions: 64, RopeTheta: 10000} // plain: 1, 1/10, 1/100, 1/1000
	for _, tc := range []struct {
		name      string
		rotary    int
		rope      Rope
		want      []float64
		attention float64
	}{
		{"plain", 0, Rope{}, []float64{1, 0.1, 0.01, 0.001}, 1},
		{"partial", 4, Rope{}, []float64{1, 0.01}, 1},
		{"linear", 0, Rope{Type: "linear", Factor: 4}, []float64{0.25, 0.025, 0.0025, 0.00025}, 1},
		{"dynamic", 0, Rope{Type: "dynamic", Factor: 4}, []float64{1, 0.1, 0.01, 0.001}, 1},
		// 64 positions are 10.19, 1.019, 0.102, 0.010 turns: above 4 stays, below 1 shrinks by 8, 1.019 is 0.0062 of the way up
		{"llama3", 0, Rope{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4}, []float64{1, 0.1 * (0.0061970/1 + (1-0.0061970)/8), 0.01 / 8, 0.001 / 8}, 1},
		// turns 2 and 0.5 are pairs 0.707 and 1.309 of theta^(-i/4): rounded outwards the ramp is 0..2, else 0.707..1.309
		{"yarn", 0, Rope{Type: "yarn", Factor: 4, BetaFast: 2, BetaSlow: 0.5}, []float64{1, 0.1 * (1 + 0.25) / 2, 0.0025, 0.00025}, 1 + 0.1*math.Log(4)},
		{"yarn, exact ramp", 0, Rope{Type: "yarn", Factor: 4, BetaFast: 2, BetaSlow: 0.5, Truncate: &no, AttentionFactor: 1.5}, []float64{1, 0.1 * (1 - 0.75*0.48671), 0.0025, 0.00025}, 1.5},
		{"yarn, scales", 0, Rope{Type: "yarn", Factor: 4, BetaFast: 2, BetaSlow: 0.5, MScale: 2, MScaleAllDim: 1}, []float64{1, 0.0625, 0.0025, 0.00025}, (1 + 0.2*math.Log(4)) / (1 + 0.1*math.Log(4))},
		{"longrope", 4, Rope{Type: "longrope", Factor: 4, ShortFactor: []float64{2, 5}}, []float64{0.5, 0.002}, math.Sqrt(1 + math.Log(4)/math.Log(64))},
	} {
		c := c
		c.RotaryDim, c.Rope = tc.rotary, tc.rope
		if err := c.validateRope(); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		got, attention := c.frequencies()
		if len(got) != len(tc.want) || math.Abs(attention-tc.attention) > 1e-12 {
			t.Fatalf("%s: %v times %g, want %v times %g", tc.name, got, attention, tc.want, tc.attention)
		}
		for i := range got {
			if math.Abs(float64(got[i])/tc.want[i]-1) > 1e-4 {
				t.Errorf("%s: frequency %d is %g, want %g", tc.name, i, got[i], tc.want[i])
			}
		}
	}
}
