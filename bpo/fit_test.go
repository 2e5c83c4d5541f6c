package bpo

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

// rewardPairs are texts whose chosen ones have more of the tokens below 8.
func rewardPairs(n int, seed uint64) []RewardPair {
	rng := rand.New(rand.NewPCG(seed, 5))
	draw := func(n, from, to int) (ids []int32) {
		for range n {
			ids = append(ids, int32(from+rng.IntN(to-from)))
		}
		return ids
	}
	pairs := make([]RewardPair, n)
	for i := range pairs {
		prompt := draw(1+rng.IntN(4), 0, tinyConfig.VocabSize)
		text := func(lo, hi int) []int32 { return append(append([]int32{}, prompt...), draw(2+rng.IntN(5), lo, hi)...) }
		pairs[i] = RewardPair{ID: string(rune('a' + i%26)), Row: SharedRow(99, len(prompt), text(0, 8), text(12, 20))}
	}
	return pairs
}

func rewardFit(t *testing.T, full bool) Fit {
	c := tinyConfig
	c.Reward = true
	opt := DefaultOptimizer()
	opt.LR, opt.Warmup = 0.01, 0
	f := Fit{
		Config: SFTConfig{Steps: 12, BatchSize: 6, Optimizer: opt}, Backend: backendtest.Go(t), Full: full, Seed: 3, Dir: t.TempDir(),
		Model: &models.Model{Config: c, Base: models.InitWeights(c, 1)},
	}
	f.Start = models.Policy{Name: "base", Base: f.Model.Base}
	if !full {
		f.Start.Adapter = models.NewAdapter(c, models.LoRA{Rank: 2, Alpha: 4, Dropout: 0.1, Targets: []string{"all-linear"}}, 2)
	}
	return f
}

func TestRewardModelsLearn(t *testing.T) {
	for name, full := range map[string]bool{"lora": false, "full": true} {
		f := rewardFit(t, full)
		f.Config.Steps = 40
		first, last := Metrics{}, Metrics{}
		f.Log = func(step int, m Metrics) error {
			if step == 1 {
				first = m
			}
			last = m
			return nil
		}
		p, err := TrainReward(context.Background(), f, RewardLoss{Center: 0.01}, rewardPairs(60, 1))
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(first["loss"]-math.Ln2) > 0.05 || last["loss"] > 0.2 || last["rewards/accuracies"] < 0.999 {
			t.Errorf("%s: loss %v (ln 2 with no knowledge) to %v, accuracy %v", name, first["loss"], last["loss"], last["rewards/accuracies"])
		}
		s := models.NewScorer(f.Backend, f.Model.Config, nil)
		defer s.Finalize()
		right := 0
		held := rewardPairs(40, 2)
		for _, pair := range held {
			r, err := s.Rewards(t.Context(), p, []models.Row{pair.Row}, 1)
			if err != nil {
				t.Fatal(err)
			}
			if r[0][0] > r[0][1] {
				right++
			}
		}
		if right < 36 {
			t.Errorf("%s: %d of 40 held-out pairs", name, right)
		}
		if err := f.RemoveCheckpoint(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(f.Dir); err != nil || len(left) > 0 {
			t.Errorf("%s: a finished training leaves %v, %v", name, left, err)
		}
	}
}

// A reward's loss and gradient at hand-computed points: softplus and its derivative.
func TestRewardObjective(t *testing.T) {
	for _, c := range []struct {
		loss             RewardLoss
		chosen, rejected float64
		want             float64
	}{
		{RewardLoss{}, 0, 0, 0.693147181},
		{RewardLoss{}, 1.5, 0.5, 0.313261688},
		{RewardLoss{}, -1, 1, 2.126928011},
		{RewardLoss{LabelSmoothing: 0.1}, 1.5, 0.5, 0.413261688},
		{RewardLoss{Center: 0.5}, 1.5, 0.5, 2.313261688},
	} {
		got := evalObjective(t, rewardObjective(c.loss), float32(c.chosen), float32(c.rejected))
		if math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%+v at (%g, %g): %.9f, want %.9f", c.loss, c.chosen, c.rejected, got, c.want)
		}
	}
}

var errStop = errors.New("stopped here")

// A training that is killed between checkpoints and continued is the uninterrupted one.
func TestFitResumes(t *testing.T) {
	for name, full := range map[string]bool{"lora": false, "full": true} {
		pairs := rewardPairs(20, 1)
		whole, err := TrainReward(context.Background(), rewardFit(t, full), RewardLoss{}, pairs)
		if err != nil {
			t.Fatal(err)
		}
		f := rewardFit(t, full)
		f.SaveEvery = 1 // at every step
		f.Log = func(step int, m Metrics) error {
			if step == 7 {
				return errStop
			}
			return nil
		}
		if _, err := TrainReward(context.Background(), f, RewardLoss{}, pairs); !errors.Is(err, errStop) {
			t.Fatal(err)
		}
		began, steps := -1, 0
		f.Begin = func(step int) error { began = step; return nil }
		f.Log = func(step int, m Metrics) error { steps++; return nil }
		again, err := TrainReward(context.Background(), f, RewardLoss{}, pairs)
		if err != nil {
			t.Fatal(err)
		}
		if began != 6 || steps != 6 {
			t.Errorf("%s: began after step %d and took %d steps, want 6 and 6", name, began, steps)
		}
		if again.Hash() != whole.Hash() {
			t.Errorf("%s: the continued training ends elsewhere", name)
		}
		steps = 0
		if again, err = TrainReward(context.Background(), f, RewardLoss{}, pairs); err != nil || steps != 0 || again.Hash() != whole.Hash() {
			t.Errorf("%s: what was not written yet took %d steps, %v", name, steps, err)
		}
		if err := f.RemoveCheckpoint(); err != nil {
			t.Error(err)
		}

		// Cancelled, it keeps what it has; a broken checkpoint is refused by name.
		f.SaveEvery = 0
		ctx, cancel := context.WithCancel(context.Background())
		f.Log = func(step int, m Metrics) error {
			if step == 3 {
				cancel()
			}
			return nil
		}
		if _, err := TrainReward(ctx, f, RewardLoss{}, pairs); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(f.checkpoint(), stateFile)); err != nil || !strings.Contains(string(raw), `"step":3`) {
			t.Errorf("%s: the checkpoint of a cancelled training: %s, %v", name, raw, err)
		}
		broken := filepath.Join(f.checkpoint(), "optimizer.safetensors")
		if err := os.Truncate(broken, 40); err != nil {
			t.Fatal(err)
		}
		if _, err := TrainReward(context.Background(), f, RewardLoss{}, pairs); err == nil || !strings.Contains(err.Error(), broken) {
			t.Errorf("%s: error %v, want one that names %s", name, err, broken)
		}
	}
}

func TestSharedRow(t *testing.T) {
	ids := func(n ...int32) []int32 { return n }
	for _, c := range []struct {
		limit, shared int
		a, b          []int32
		want          models.Row
	}{
		{9, 3, ids(1, 2, 3, 4), ids(1, 2, 3, 5, 6), models.Row{Prompt: ids(1, 2, 3), Completions: [][]int32{ids(4), ids(5, 6)}}},
		{9, 9, ids(1, 2, 3, 4), ids(1, 2, 3, 5, 6), models.Row{Prompt: ids(1, 2, 3), Completions: [][]int32{ids(4), ids(5, 6)}}},
		{9, 2, ids(1, 2, 3, 4), ids(1, 2, 3, 5, 6), models.Row{Prompt: ids(1, 2), Completions: [][]int32{ids(3, 4), ids(3, 5, 6)}}},
		{9, 3, ids(1, 2), ids(1, 2, 3), models.Row{Prompt: ids(1), Completions: [][]int32{ids(2), ids(2, 3)}}},                // each keeps one
		{4, 3, ids(1, 2, 3, 4), ids(1, 2, 3, 5, 6), models.Row{Prompt: ids(2, 3), Completions: [][]int32{ids(4), ids(5, 6)}}}, // the start goes
		{2, 3, ids(1, 2, 3, 4), ids(1, 2, 3, 5, 6), models.Row{Prompt: ids(3), Completions: [][]int32{ids(4), ids(5)}}},       // then the end
	} {
		if row := SharedRow(c.limit, c.shared, c.a, c.b); !reflect.DeepEqual(row, c.want) {
			t.Errorf("%v: %v", c, row)
		}
	}
}

// evalObjective is the loss of one row.
func evalObjective(t *testing.T, o objective, values ...float32) float64 {
	t.Helper()
	e := models.NewExec(backendtest.Go(t), "objective", func(_ []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
		loss, _ := o.Fn(in[0], nil, nil, nil)
		return nil, []*Node{loss}
	})
	defer e.Finalize()
	_, out, err := e.Call(nil, tensors.FromFlatDataAndDimensions(values, 1, len(values)))
	if err != nil {
		t.Fatal(err)
	}
	return float64(tensors.MustCopyFlatData[float32](out[0])[0])
}

// Grouping by length moves rows only inside their 16 batches, and the batches that a training cuts are of like lengths, in
// every epoch, also where an epoch ends inside a batch.
func TestGroupByLength(t *testing.T) {
	const n, batch = 150, 4
	rng := rand.New(rand.NewPCG(1, 2))
	rows := make([]example, n)
	for i := range rows {
		rows[i].row = models.Row{Prompt: make([]int32, 1+rng.IntN(300)), Completions: [][]int32{make([]int32, 1+rng.IntN(200))}}
	}
	padded := func(order []int, begun int) (sum int) {
		for at := (batch - begun) % batch; at+batch <= n; at += batch { // whole batches
			var in []models.Row
			for _, i := range order[at : at+batch] {
				in = append(in, rows[i].row)
			}
			p, c, _, _ := widths(in)
			sum += len(in) * (models.CoarseBucket(p) + models.CoarseBucket(c))
		}
		return sum
	}
	for epoch := range 3 {
		begun := epoch * n % batch // rows of the batch that the epoch before has begun
		random := data.Order(n, 7, epoch)
		order, again := slices.Clone(random), slices.Clone(random)
		groupByLength(order, rows, batch, models.CoarseBucket, 7, epoch)
		groupByLength(again, rows, batch, models.CoarseBucket, 7, epoch)
		if !slices.Equal(order, again) {
			t.Errorf("epoch %d: two orders of one seed", epoch)
		}
		first := (batch - begun) % batch
		if !slices.Equal(order[:first], random[:first]) {
			t.Errorf("epoch %d: the first %d rows, which end a batch, are not those of the random order", epoch, first)
		}
		for at := first; at < n; at += 16 * batch {
			a, b := slices.Sorted(slices.Values(order[at:min(at+16*batch, n)])), slices.Sorted(slices.Values(random[at:min(at+16*batch, n)]))
			if !slices.Equal(a, b) {
				t.Errorf("epoch %d: rows from %d on are not those of the random order", epoch, at)
			}
		}
		if got, was := padded(order, begun), padded(random, begun); float64(got) > 0.75*float64(was) {
			t.Errorf("epoch %d: %d positions, %d in the random order", epoch, got, was)
		}
	}
}
