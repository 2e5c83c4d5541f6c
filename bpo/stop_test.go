package bpo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/models"
)

// countdown is cancelled by the n-th look at its Err.
type countdown struct {
	context.Context
	cancel context.CancelFunc
	left   int
}

func (c *countdown) Err() error {
	if c.left--; c.left == 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// Wherever a run is told to stop, in an evaluation or while the reference scores too, no step that it has told is done again,
// and it goes on as if nothing had been.
func TestARunStoppedAnywhereKeepsItsSteps(t *testing.T) {
	s := testSetup(t)
	s.Config.Refresh, s.Config.Reference, s.Config.EMAAlpha, s.EvalEvery = 1, "ema", 0.5, 2
	s.Evaluate = func(ctx context.Context, step int, p models.Policy) (Metrics, error) {
		return Metrics{"eval/step": float64(step), "eval/nodes": float64(len(p.Hash()))}, ctx.Err()
	}
	want, wantMetrics := mustRecord(t, s)
	told := map[int]int{} // by the step that a stopped run went on after
	for n := 1; ; n++ {
		s.Dir = t.TempDir()
		all, last := map[int]Metrics{}, -1
		s.Log = func(step int, m Metrics) error {
			if _, twice := all[step]; twice || step <= last {
				t.Errorf("stopped at look %d: step %d is told after %d", n, step, last)
			}
			all[step], last = maps.Clone(m), step
			return nil
		}
		s.Resumed = nil
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Train(&countdown{ctx, cancel, n}, s)
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("look %d: %v", n, err)
		}
		before, resumed := last, -1
		s.Resumed = func(step int) error { resumed = step; return nil }
		if before == 0 { // before the first step the evaluation of the start may be told again
			delete(all, 0)
			last = -1
		}
		got, err := Train(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if before > 0 && resumed != before {
			t.Errorf("look %d: %d steps told, went on after %d", n, before, resumed)
		}
		if got.Hash() != want.Hash() {
			t.Errorf("look %d: another policy", n)
		}
		if before == 0 {
			all[0] = wantMetrics[0]
		}
		sameMetrics(t, fmt.Sprintf("look %d", n), all, wantMetrics)
		told[resumed]++
	}
	for step := 1; step < s.Config.Steps; step++ {
		if told[step] == 0 {
			t.Errorf("no run went on after step %d: %v", step, told)
		}
	}
}

// The evaluator may fail at the very end, when there is the most to lose.
func TestAFailedEvaluationIsRepeated(t *testing.T) {
	s := testSetup(t)
	s.EvalEvery = 4
	fail := errors.New("no judge")
	s.Evaluate = func(_ context.Context, step int, _ models.Policy) (Metrics, error) {
		if step == 0 {
			return nil, nil
		}
		return Metrics{"eval/step": float64(step)}, fail
	}
	_, first, err := record(t, s)
	if !errors.Is(err, fail) || len(first) != s.Config.Steps {
		t.Fatalf("%v with %d rows", err, len(first))
	}
	if _, err := os.Stat(filepath.Join(s.Dir, PolicyFile)); err == nil {
		t.Error("a policy that is not evaluated is there")
	}
	fail = nil
	again, rows, err := record(t, s)
	if err != nil || len(rows) != 1 || rows[s.Config.Steps]["eval/step"] != 4 || rows[s.Config.Steps]["loss"] == 0 {
		t.Fatalf("%v, %v", rows, err)
	}
	if third, rows, err := record(t, s); err != nil || len(rows) != 0 || third.Hash() != again.Hash() {
		t.Errorf("a run that is done: %v, %v", rows, err)
	}
}

// A kill may come while a checkpoint takes another's place.
func TestAKillWhileACheckpointIsReplaced(t *testing.T) {
	s := testSetup(t)
	want, _ := mustRecord(t, s)
	newest := filepath.Join(s.Dir, checkpointsDir, checkpointName(s.Config.Steps))
	if err := errors.Join(os.Rename(newest, newest+".old"), os.MkdirAll(newest+".tmp", 0o777)); err != nil {
		t.Fatal(err)
	}
	got, rows, err := record(t, s)
	if err != nil || len(rows) > 0 || got.Hash() != want.Hash() {
		t.Errorf("%v, %v", rows, err)
	}
}

// Where a learner of an ensemble has taken the step at which another diverges, no checkpoint says that it has not.
func TestDivergenceOfASecondLearner(t *testing.T) {
	s := testSetup(t)
	pairs := filepath.Join(t.TempDir(), "pairs.parquet")
	if err := data.Write(pairs, []data.Preference{{Prompt: "pack", Chosen: "tea jam", Rejected: "no"}}, nil); err != nil {
		t.Fatal(err)
	}
	c := &s.Config
	c.Data, c.Reference, c.Refresh, c.Learners = "offline:"+pairs, "sft", 1, 2
	c.Loss = LossConfig{Name: "simpo", Beta: 1} // it asks no reference, which would be as broken
	for i := range c.Learners {
		a := models.NewAdapter(s.Model.Config, c.LoRA, uint64(i))
		if i == 1 {
			for _, name := range a.Weights.Names() {
				tensors.MustMutableFlatData(a.Weights[name], func(flat []float32) {
					for j := range flat {
						flat[j] = 1e30
					}
				})
			}
		}
		s.Start = append(s.Start, models.Policy{Name: "sft", Base: s.Model.Base, Adapter: a})
	}
	_, _, err := record(t, s)
	if err == nil || !strings.Contains(err.Error(), "not finite at pairs [") || !strings.Contains(err.Error(), "stopped with a checkpoint of step 0") {
		t.Fatalf("error %v", err)
	}
	if left, err := checkpoints(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A run whose annotator never prefers anything would end as its start policy, and look done.
func TestNoPairs(t *testing.T) {
	s := testSetup(t)
	even := annotate.FromScore("even", func(annotate.Request, string) (float64, error) { return 1, nil })
	s.Annotator = even
	for range 2 { // the failed run does not end well when it goes on
		_, rows, err := record(t, s)
		if err == nil || !strings.Contains(err.Error(), "none of the 16 prompts gave a pair (16 ties, 0 times all completions the same)") || len(rows) > 2 {
			t.Errorf("%d rows, error %v", len(rows), err)
		}
	}
	// One pair is a pair, whatever the number of phases.
	for _, refresh := range []int{1, 2, 4} {
		s := testSetup(t)
		s.Config.Refresh = refresh
		first := s.Prompts[data.Order(len(s.Prompts), s.Config.Seed, 0)[0]].Text
		s.Annotator = annotate.FromScore("one", func(r annotate.Request, y string) (float64, error) {
			sum := 0
			if r.Prompt == first {
				for _, b := range []byte(y) {
					sum = 31*sum + int(b)
				}
			}
			return float64(sum), nil
		})
		if _, rows, err := record(t, s); err != nil || rows[1]["num_pairs"] != 1 || rows[2]["num_pairs"]+rows[3]["num_pairs"] != 0 {
			t.Errorf("F=%d: %v, %v", refresh, untimed(rows), err)
		}
	}
}

// Where the policy is the reference, which pairs it ranks right is a matter of rounding.
func TestNoAccuracyAtTheReference(t *testing.T) {
	for _, c := range []struct {
		refresh   int
		reference string
		known     []int
	}{{1, "sft", []int{2, 3, 4}}, {2, "behavior", []int{2, 4}}, {2, "sft", []int{2, 3, 4}}, {4, "behavior", nil}, {4, "ema", []int{2, 3, 4}}} {
		s := testSetup(t)
		s.Config.Refresh, s.Config.Reference = c.refresh, c.reference
		_, rows := mustRecord(t, s)
		var known []int
		for step := 1; step <= s.Config.Steps; step++ {
			if _, ok := rows[step]["rewards/accuracies"]; ok {
				known = append(known, step)
			}
		}
		if !slices.Equal(known, c.known) {
			t.Errorf("F=%d, reference %s: accuracies at %v, want %v", c.refresh, c.reference, known, c.known)
		}
	}
}

// Rewards of a loss without a reference are those of the policy alone, as TRL has them, whatever the pairs carry.
func TestRewardsWithoutAReference(t *testing.T) {
	for _, reference := range []string{"behavior", "sft"} {
		s := testSetup(t)
		s.Config.Reference, s.Config.Loss = reference, LossConfig{Name: "simpo", Beta: 2}
		_, rows := mustRecord(t, s)
		for step, m := range rows {
			if got, want := m["rewards/chosen"], 2*m["logps/chosen"]; got == 0 || math.Abs(got-want) > 1e-5*math.Abs(want) {
				t.Errorf("%s, step %d: reward %g, want %g", reference, step, got, want)
			}
		}
	}
}
