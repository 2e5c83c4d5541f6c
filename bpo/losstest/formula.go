package losstest

import (
	_ "embed"
	"encoding/json"

	"gobpo/bpo"
)

// formulas is what tools/goldens/losses.py writes.
//
//go:embed testdata/formulas.json
var formulas []byte

// table are random pairs, and for each case the losses and their sum's gradients in double precision.
type table struct {
	Pairs map[string][]float64
	Cases []struct {
		Name, Length, Weighting string
		Beta, NLL               float64
		LabelSmoothing          float64 `json:"label_smoothing"`
		Params                  map[string]float64
		Losses                  []float64
		GradChosen              []float64 `json:"grad_chosen"`
		GradRejected            []float64 `json:"grad_rejected"`
	}
}

// formula compares values and gradients with the table. A loss of another module has no rows there; that
// each of ours has is TestTheTableHasEveryLossOfOurs.
func (s suite) formula() {
	var t table
	if err := json.Unmarshal(formulas, &t); err != nil {
		s.t.Fatal(err)
	}
	pairs := make([]Point, len(t.Pairs["chosen"]))
	for i := range pairs {
		at := func(name string) float64 { return t.Pairs[name][i] }
		pairs[i] = Point{
			Chosen: at("chosen"), Rejected: at("rejected"), RefChosen: at("ref_chosen"), RefRejected: at("ref_rejected"),
			ChosenLen: at("chosen_len"), RejectedLen: at("rejected_len"),
			ChosenAgreement: at("chosen_agreement"), RejectedAgreement: at("rejected_agreement"),
		}
	}
	found := 0
	for _, c := range t.Cases {
		if c.Name != s.loss.Name {
			continue
		}
		found++
		config := bpo.LossConfig{
			Name: c.Name, Beta: c.Beta, LabelSmoothing: c.LabelSmoothing, Length: c.Length, Params: c.Params, Weighting: c.Weighting, NLL: c.NLL,
		}
		values, grads := s.eval(config, pairs)
		for i := range pairs {
			for _, v := range []struct {
				what      string
				got, want float64
			}{{"loss", values[i], c.Losses[i]}, {"derivative by chosen", grads[0][i], c.GradChosen[i]}, {"derivative by rejected", grads[1][i], c.GradRejected[i]}} {
				if !near(v.got, v.want, 1e-4) {
					s.t.Errorf("%v, pair %d: %s %.7f, the formula gives %.7f", config, i, v.what, v.got, v.want)
				}
			}
		}
	}
	if found == 0 {
		s.t.Skipf("tools/goldens/losses.py has no formula of %q", s.loss.Name)
	}
}
