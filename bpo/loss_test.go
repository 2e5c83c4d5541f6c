package bpo_test

import (
	"math"
	"strings"
	"testing"

	"gobpo/bpo"
	"gobpo/bpo/losstest"
)

// Four pairs: chosen ahead of the reference by 2 nats, behind by 2, equal to it, and 33 nats behind.
var (
	ahead  = losstest.Point{Chosen: -10, Rejected: -12, RefChosen: -11, RefRejected: -11, ChosenLen: 4, RejectedLen: 6}
	behind = losstest.Point{Chosen: -20.5, Rejected: -18, RefChosen: -19, RefRejected: -18.5, ChosenLen: 8, RejectedLen: 5}
	equal  = losstest.Point{Chosen: -3, Rejected: -3, RefChosen: -3, RefRejected: -3, ChosenLen: 2, RejectedLen: 2}
	far    = losstest.Point{Chosen: -40, Rejected: -15, RefChosen: -22, RefRejected: -30, ChosenLen: 16, RejectedLen: 3}
)

// at gives a pair its config and the value computed from the formula in double precision.
func at(p losstest.Point, want float64, c bpo.LossConfig) losstest.Point {
	p.Config, p.Want = c, want
	return p
}

func TestDPO(t *testing.T) {
	c, smooth, mean := bpo.LossConfig{Beta: 0.1}, bpo.LossConfig{Beta: 0.5, LabelSmoothing: 0.1}, bpo.LossConfig{Beta: 1, Length: "mean"}
	losstest.Run(t, "dpo",
		at(ahead, 0.598138869, c), at(behind, 0.798138869, c), at(equal, math.Ln2, c), at(far, 3.336219259, c),
		at(ahead, 0.413261688, smooth), at(behind, 1.213261688, smooth), at(far, 14.850000068, smooth),
		at(ahead, 0.506360046, mean), at(far, 6.127185102, mean))
}

func TestIPO(t *testing.T) {
	c, sum := bpo.LossConfig{Beta: 0.1}, bpo.LossConfig{Beta: 0.5, Length: "sum"}
	losstest.Run(t, "ipo",
		at(ahead, 21.006944444, c), at(behind, 27.95765625, c), at(equal, 25, c), at(far, 123.765625, c),
		at(ahead, 1, sum), at(behind, 9, sum), at(far, 1156, sum))
}

func TestSLiC(t *testing.T) {
	c, sharp := bpo.LossConfig{Beta: 0.1}, bpo.LossConfig{Beta: 0.7}
	losstest.Run(t, "slic",
		at(ahead, 0.8, c), at(behind, 1.2, c), at(equal, 1, c), at(far, 4.3, c),
		at(ahead, 0, sharp), at(behind, 2.4, sharp))
}

func TestRobust(t *testing.T) {
	c, clean := bpo.LossConfig{Beta: 0.1, LabelSmoothing: 0.1}, bpo.LossConfig{Beta: 0.3}
	losstest.Run(t, "robust",
		at(ahead, 0.573138869, c), at(behind, 0.823138869, c), at(equal, math.Ln2, c), at(far, 3.748719259, c),
		at(ahead, 0.437487950, clean), at(far, 9.900050173, clean))
}

func TestSimPO(t *testing.T) {
	c := bpo.LossConfig{Beta: 2}
	other := bpo.LossConfig{Beta: 2.5, Params: map[string]float64{"gamma": 0.3}}
	losstest.Run(t, "simpo",
		at(ahead, 2.126928011, c), at(behind, 0.293637619, c), at(equal, 1.313261688, c),
		at(ahead, 1.742476466, other), at(far, 0.002602451, other))
}

func TestLossConfigErrors(t *testing.T) {
	for _, c := range []struct {
		loss bpo.LossConfig
		want string
	}{
		{bpo.LossConfig{Name: "dop", Beta: 1}, `loss.name: no loss "dop"; nearest is "dpo"`},
		{bpo.LossConfig{Name: "dpo"}, "loss.beta: the proximity coefficient must be positive, got 0"},
		{bpo.LossConfig{Name: "dpo", Beta: math.NaN()}, "loss.beta:"},
		{bpo.LossConfig{Name: "dpo", Beta: 1, LabelSmoothing: 0.5}, "loss.label_smoothing:"},
		{bpo.LossConfig{Name: "dpo", Beta: 1, Length: "avg"}, "loss.length:"},
		{bpo.LossConfig{Name: "simpo", Beta: 1, Params: map[string]float64{"gama": 1}}, `loss.params.gama: loss "simpo" has no such parameter; nearest is "gamma"`},
	} {
		cfg := bpo.DefaultConfig()
		cfg.Loss = c.loss
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.loss, err, c.want)
		}
	}
}

func TestRegisterLossTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a second dpo was accepted")
		}
	}()
	bpo.RegisterLoss(bpo.Loss{Name: "dpo", Length: "sum"})
}
