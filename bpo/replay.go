package bpo

import (
	"context"
	"fmt"
	"maps"
	"math"

	"gobpo/data"
	"gobpo/models"
	"gobpo/models/sample"
)

// keep joins a phase's pairs with earlier ones that later steps still draw from. What a resumed run does not hold any more
// is read back.
func (c *collector) keep(ctx context.Context, old, fresh map[int][]*data.Preference, phase int, behavior versioned, ref *reference) (map[int][]*data.Preference, error) {
	k := c.cfg.K()
	oldest := phase*k - c.cfg.Replay + 1 // step
	if c.cfg.Replay == 0 || oldest >= phase*k || phase == 0 {
		return fresh, nil
	}
	all := map[int][]*data.Preference{}
	if old == nil {
		for p := max(0, oldest) / k; p < phase; p++ {
			rows, _, err := c.phase(ctx, p, p*k, (p+1)*k, behavior, ref)
			if err != nil {
				return nil, fmt.Errorf("replay: %w", err)
			}
			maps.Copy(all, rows)
		}
	}
	maps.Copy(all, old)
	maps.DeleteFunc(all, func(step int, _ []*data.Preference) bool { return step < oldest })
	maps.Copy(all, fresh)
	return all, nil
}

// pick leaves two completions of each prompt to be annotated, where sample.pick says how.
func (c *collector) pick(ctx context.Context, queries []sample.Prompt, all [][]sample.Completion) ([][]sample.Completion, error) {
	how := c.cfg.Sample.Pick
	if how == "" || c.cfg.Sample.N == 2 {
		return all, nil
	}
	out := make([][]sample.Completion, len(all))
	if how == "random" { // they are exchangeable
		for i, ys := range all {
			out[i] = ys[:2]
		}
		return out, nil
	}
	rows := make([]models.Row, len(all))
	for i, ys := range all {
		rows[i].Prompt = queries[i].Tokens
		for _, y := range ys {
			rows[i].Completions = append(rows[i].Completions, y.Tokens)
		}
	}
	states, err := c.setup.Scorer.Embed(ctx, models.Policy{Base: c.setup.Model.Base}, rows, c.cfg.Micro())
	if err != nil {
		return nil, fmt.Errorf("sample.pick: %w", err)
	}
	for i, ys := range all {
		far := -1.0
		for a := range ys {
			for b := range a {
				if d := distance(states[i][a], states[i][b]); d > far {
					far, out[i] = d, []sample.Completion{ys[b], ys[a]}
				}
			}
		}
	}
	return out, nil
}

// distance is Euclid's.
func distance(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	return math.Sqrt(sum)
}
