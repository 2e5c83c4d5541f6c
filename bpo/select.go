package bpo

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gobpo/data"
	"gobpo/models"
	"gobpo/models/sample"
)

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

// selectPairs keeps the share of given pairs that select asks for.
func (r *run) selectPairs(ctx context.Context, o *offline, path string) error {
	by := r.cfg.Select
	if by.By == "" {
		return nil
	}
	order := data.Order(len(o.pairs), r.cfg.Seed^0x73656c656374, 0) // also of equal scores
	if by.By != "random" {
		scores, err := r.pairScores(ctx, o.pairs, path)
		if err != nil {
			return err
		}
		slices.SortStableFunc(order, func(a, b int) int {
			if by.Low {
				a, b = b, a
			}
			return cmp.Compare(scores[b], scores[a])
		})
	}
	kept := make([]data.Preference, 0, len(order))
	for _, i := range order[:int(math.Ceil(by.Keep*float64(len(order))))] {
		kept = append(kept, o.pairs[i])
	}
	o.pairs = kept
	return nil
}

// pairScores are what given pairs are ordered by. But for the gap of their scores, they don't depend on which completion was chosen.
func (r *run) pairScores(ctx context.Context, pairs []data.Preference, path string) ([]float64, error) {
	switch by := r.cfg.Select.By; by {
	case "reward_gap":
		return rewardGaps(pairs, path)
	case "ask_llm":
		odds, err := r.askPairs(ctx, pairs)
		if err != nil {
			return nil, fmt.Errorf("select.by: %w", err)
		}
		return odds, nil
	default:
		rows := make([]models.Row, len(pairs))
		for i := range pairs {
			rows[i] = rowOf(&pairs[i])
		}
		states, err := r.setup.Scorer.Embed(ctx, models.Policy{Base: r.setup.Model.Base}, rows, r.cfg.Micro())
		if err != nil {
			return nil, fmt.Errorf("select.by: %w", err)
		}
		if by == "density" {
			points := make([][]float32, len(pairs)) // a pair is the mean of its completions
			for i, s := range states {
				points[i] = s[0]
				for k, v := range s[1] {
					points[i][k] = (points[i][k] + v) / 2
				}
			}
			return DensityKeys(points, rand.New(rand.NewPCG(r.cfg.Seed, 0x64656e73697479))), nil
		}
		scores := make([]float64, len(pairs))
		for i, s := range states {
			scores[i] = distance(s[0], s[1])
		}
		return scores, nil
	}
}

// rewardGaps are how much better the annotator found each pair's chosen completion.
func rewardGaps(pairs []data.Preference, path string) ([]float64, error) {
	gaps := make([]float64, len(pairs))
	for i, p := range pairs {
		if p.ChosenScore == nil || p.RejectedScore == nil {
			return nil, fmt.Errorf("select.by: reward_gap needs scores, and pair %d of %s has none", i+1, path)
		}
		if gaps[i] = *p.ChosenScore - *p.RejectedScore; math.IsNaN(gaps[i]) {
			return nil, fmt.Errorf("select.by: the scores of pair %d of %s are %v and %v", i+1, path, *p.ChosenScore, *p.RejectedScore)
		}
	}
	return gaps, nil
}

// askPairs asks the base model about each pair in both orders of its completions, as the first of two is liked for its place, and
// gives the mean log odds of "yes".
func (r *run) askPairs(ctx context.Context, pairs []data.Preference) ([]float64, error) {
	texts := make([][]string, 0, 2*len(pairs))
	for _, p := range pairs {
		texts = append(texts, []string{p.Prompt, p.Chosen, p.Rejected}, []string{p.Prompt, p.Rejected, p.Chosen})
	}
	encode := func(text string) ([]int32, error) { return r.setup.encodePrompt(text, nil) }
	odds, err := AskLLM(ctx, r.setup.Scorer, r.setup.Model, encode, AskPair, texts, r.cfg.Micro())
	if err != nil {
		return nil, err
	}
	mean := make([]float64, len(pairs))
	for i := range mean {
		mean[i] = (odds[2*i] + odds[2*i+1]) / 2
	}
	return mean, nil
}
