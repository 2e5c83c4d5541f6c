package bpo_test

import (
	"math"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/bpo"
	"gobpo/bpo/losstest"
	"gobpo/models/backend/backendtest"
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

func TestEXO(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "exo", at(ahead, 2.422014621, c), at(behind, 3.110397019, c), at(equal, math.Log(0.5)-(math.Log(0.999)+math.Log(0.001))/2, c))
}

func TestNCA(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "nca", at(ahead, 1.338793320, c), at(behind, 1.440665396, c), at(equal, 2*math.Ln2, c))
}

func TestSPPO(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "sppo", at(ahead, 32, c), at(behind, 72.5, c), at(equal, 50, c))
}

func TestAPO(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "apo_zero", at(ahead, 0.950041625, c), at(behind, 1.049927242, c), at(equal, 1, c))
	losstest.Run(t, "apo_down", at(ahead, 0.975145190, c), at(behind, 1.012404152, c), at(equal, 1, c))
}

func TestDiscoPOP(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "discopop", at(ahead, 0.814763141, c), at(behind, 0.805751783, c), at(equal, (math.Ln2+1)/2, c))
}

func TestFDPO(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "dpo_forward_kl", at(ahead, 0.582516713, c), at(behind, 0.905559879, c), at(equal, math.Ln2, c))
	losstest.Run(t, "dpo_js", at(ahead, 0.644396660, c), at(behind, 0.756395758, c), at(equal, math.Ln2, c))
	losstest.Run(t, "dpo_alpha", at(ahead, 0.594349123, c), at(behind, 0.835894393, c), at(equal, math.Ln2, c))
}

func TestORPO(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "orpo", at(ahead, 2.601169458, c), at(behind, 2.591483125, c), at(equal, 1.5+0.1*math.Ln2, c))
}

// The points stand in a step of pairs like themselves: quantiles are the pair's own margins, z is its own drift.
func TestCoupledLosses(t *testing.T) {
	c := bpo.LossConfig{Beta: 0.1}
	losstest.Run(t, "aot", at(ahead, 0.598138869, c), at(behind, 0.798138869, c), at(far, 3.336219259, c))
	losstest.Run(t, "kto", at(ahead, 0.462593408, c), at(behind, 0.531165697, c), at(equal, 0.5, c))
}

// Rows of padding take no part in what pairs are to each other.
func TestCoupledLossesIgnorePadding(t *testing.T) {
	columns := [][]float32{{-10, -20.5, -3, 7}, {-12, -18, -3, 9}, {-11, -19, -3, 0}, {-11, -18.5, -3, 0}, {4, 8, 2, 1}, {6, 5, 2, 1}}
	weight := []float32{0.5, 0.25, 0.25, 0}
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		for _, name := range []string{"aot", "kto"} {
			apply := func(n int, weighted bool) []float32 {
				in := make([]any, len(columns))
				for i, column := range columns {
					in[i] = column[:n]
				}
				out, err := graph.CallOnce(b, func(in []*graph.Node) *graph.Node {
					l := bpo.Logps{Chosen: in[0], Rejected: in[1], RefChosen: in[2], RefRejected: in[3], ChosenLen: in[4], RejectedLen: in[5]}
					if weighted {
						l.Weight = in[6]
					}
					return bpo.LossConfig{Name: name, Beta: 0.1}.Apply(l)
				}, append(in, weight[:n])...)
				if err != nil {
					t.Fatal(err)
				}
				return tensors.MustCopyFlatData[float32](out)
			}
			want, got := apply(3, false), apply(4, true)
			for i, v := range want {
				if math.Abs(float64(got[i]-v)) > 1e-6 {
					t.Errorf("%s, pair %d: %v beside a row of padding, %v alone", name, i, got[i], v)
				}
			}
		}
	})
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
		{bpo.LossConfig{Name: "ipo", Beta: 1, LabelSmoothing: 0.1}, `loss.label_smoothing: the loss "ipo" has none; aot, dpo, robust have it`},
		{bpo.LossConfig{Name: "exo", Beta: 1, Params: map[string]float64{"epsilon": 0.5}}, "loss.params.epsilon: must be in (0, 0.5), got 0.5"},
		{bpo.LossConfig{Name: "dpo_alpha", Beta: 1, Params: map[string]float64{"alpha": 1}}, "loss.params.alpha: must be in (0, 1), got 1"},
		{bpo.LossConfig{Name: "discopop", Beta: 1, Params: map[string]float64{"tau": 0}}, "loss.params.tau: must be in (0, 1), got 0"},
		{bpo.LossConfig{Name: "simpo", Beta: 1, Params: map[string]float64{"gamma": math.NaN()}}, "loss.params.gamma: must be finite"},
		{bpo.LossConfig{Name: "dpo", Beta: 1, Weighting: "wop"}, `loss.weighting: "wop" is not wpo`},
		{bpo.LossConfig{Name: "dpo", Beta: 1, NLL: -1}, "loss.nll: must not be negative"},
		{bpo.LossConfig{Name: "aot", Beta: 1}, "micro_batch: the loss aot compares the pairs of a step"},
	} {
		cfg := bpo.DefaultConfig()
		cfg.Loss = c.loss
		if c.loss.Name == "aot" {
			cfg.MicroBatch = cfg.BatchSize / 2
		}
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
