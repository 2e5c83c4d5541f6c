package bpo

import (
	"context"
	"slices"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/models"
	"gobpo/models/sample"
)

// spy keeps what an annotator is asked.
type spy struct {
	annotate.Annotator
	asked []annotate.Request
}

func (s *spy) Annotate(ctx context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error) {
	s.asked = append(s.asked, reqs...)
	return s.Annotator.Annotate(ctx, reqs, seed)
}

// Of four completions the annotator sees two, whatever it would say of the others: the first ones, which are as random as
// any, or those that are farthest apart under the base model.
func TestPick(t *testing.T) {
	s := testSetup(t)
	s.Config.Sample.N = 4
	behavior := models.Policy{Base: s.Model.Base}
	c := &collector{run: &run{setup: s, cfg: &s.Config}}
	var queries []sample.Prompt
	for g := range 12 {
		queries = append(queries, sample.Prompt{Key: uint64(g), Tokens: c.prompt(g).Tokens})
	}
	all, err := s.Sampler.Sample(t.Context(), behavior, queries, sample.Options{ // as collect does
		Temperature: s.Config.Sample.Temperature, N: 4, Batch: s.Config.Sample.Batch, MaxNewTokens: s.Config.MaxCompletionTokens,
		Seed: s.Config.Seed, Stop: c.stop(), Fold: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	random, far, elsewhere := make([][]string, 12), make([][]string, 12), 0
	for i, ys := range all {
		texts, states := make([]string, 4), make([][]float32, 4)
		for k, y := range ys {
			texts[k] = s.Model.Tokenizer.Decode(y.Tokens)
			one, err := s.Scorer.Embed(t.Context(), behavior, []models.Row{{Prompt: queries[i].Tokens, Completions: [][]int32{y.Tokens}}}, 1)
			if err != nil {
				t.Fatal(err)
			}
			states[k] = one[0][0]
		}
		random[i], far[i] = texts[:2], texts[:2]
		best := distance(states[0], states[1])
		for _, p := range [][2]int{{0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}} {
			if d := distance(states[p[0]], states[p[1]]); d > best {
				best, far[i] = d, []string{texts[p[0]], texts[p[1]]}
			}
		}
		if !slices.Equal(far[i], random[i]) {
			elsewhere++
		}
	}
	if elsewhere < 6 {
		t.Fatalf("the farthest pair is another than the first for %d of 12 prompts: too few to tell", elsewhere)
	}
	for pick, want := range map[string][][]string{"random": random, "embedding_distance": far} {
		seen := &spy{Annotator: s.Annotator}
		c.setup.Annotator, s.Config.Sample.Pick = seen, pick
		rows, count, err := c.collect(t.Context(), 0, 0, 3, versioned{policy: behavior})
		if err != nil {
			t.Fatal(err)
		}
		if len(seen.asked) != 12 || count.Completions != 48 || len(rows) == 0 {
			t.Fatalf("%s: asked about %d prompts and %d completions, %d pairs", pick, len(seen.asked), count.Completions, len(rows))
		}
		for i, q := range seen.asked {
			if !slices.Equal(q.Completions, want[i]) {
				t.Errorf("%s: prompt %d: asked about %q, want %q", pick, i, q.Completions, want[i])
			}
		}
		for _, r := range rows {
			i := slices.IndexFunc(seen.asked, func(q annotate.Request) bool { return q.Prompt == r.Prompt })
			if !slices.Contains(want[i], r.Chosen) || !slices.Contains(want[i], r.Rejected) || r.Chosen == r.Rejected {
				t.Errorf("%s: prompt %d: the pair %q, %q is not of %q", pick, i, r.Chosen, r.Rejected, want[i])
			}
		}
	}
}
