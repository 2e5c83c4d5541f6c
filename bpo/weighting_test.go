package bpo

import (
	"math"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

// wpoWeight is WPO's weight of a pair from its definition: every token of the vocabulary is scored at every place.
func wpoWeight(t *testing.T, s *models.Scorer, p models.Policy, row models.Row) float64 {
	t.Helper()
	exponent := 0.0
	for _, y := range row.Completions {
		mean := 0.0
		for i, token := range y {
			r := models.Row{Prompt: slices.Concat(row.Prompt, y[:i])}
			for v := range tinyConfig.VocabSize {
				r.Completions = append(r.Completions, []int32{int32(v)})
			}
			logps, err := s.LogProbs(t.Context(), p, []models.Row{r}, 1)
			if err != nil {
				t.Fatal(err)
			}
			squares := 0.0
			for _, l := range logps[0] {
				squares += math.Exp(2 * float64(l[0]))
			}
			mean += (float64(logps[0][token][0]) - math.Log(squares)) / float64(len(y))
		}
		exponent += mean
	}
	return math.Exp(exponent)
}

// Weighted by WPO, a pair's loss and gradient are those of the loss itself, times the weight.
func TestWPOWeighsByWhatThePolicyWouldSample(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		rows := tinyPairs(3, 5)
		step := func(weighting string, rows ...example) stepResult {
			t.Helper()
			l, err := newLearner(tinyPolicy(1), false, DefaultOptimizer())
			if err != nil {
				t.Fatal(err)
			}
			defer l.finalize()
			obj := preferenceObjective(LossConfig{Name: "dpo", Beta: 0.5, Weighting: weighting})
			res, err := newTrainer(b, tinyConfig, l, obj, trainSpec{Optimizer: DefaultOptimizer(), Steps: 10, Batch: 3, Micro: 3}).step(l, rows, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		scorer := models.NewScorer(b, tinyConfig, nil)
		defer scorer.Finalize()
		sum := 0.0
		for i, row := range rows {
			w := wpoWeight(t, scorer, tinyPolicy(1), row.row)
			plain, weighted := step("", row), step("wpo", row)
			if math.Abs(weighted.loss-w*plain.loss) > 1e-4*math.Abs(w*plain.loss) || math.Abs(weighted.gradNorm-w*plain.gradNorm) > 1e-3*w*plain.gradNorm {
				t.Errorf("pair %d of weight %.4f: loss %.6f and gradient %.6f, weighted %.6f and %.6f", i, w, plain.loss, plain.gradNorm, weighted.loss, weighted.gradNorm)
			}
			sum += w * plain.loss
		}
		if got := step("wpo", rows...).loss; math.Abs(got-sum) > 1e-4*sum {
			t.Errorf("together the loss is %.6f, want %.6f", got, sum)
		}
	})
}
