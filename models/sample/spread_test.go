package sample

import (
	"reflect"
	"testing"

	"gobpo/models"
	"gobpo/models/backend"
	"gobpo/models/backend/backendtest"
)

// Several devices sample the same tokens and score the same log-probs as one, with an adapter and with overrides, again and
// again, and for another base.
func TestSpread(t *testing.T) {
	backendtest.XLA(t) // skips without a plugin
	b, err := backend.Open(backend.Options{Name: "xla:cpu,devices=3"})
	if err != nil {
		t.Fatal(err)
	}
	one, many := New(b, tiny, nil), New(b, tiny, nil)
	scorer, scorers := models.NewScorer(b, tiny, nil), models.NewScorer(b, tiny, nil)
	defer one.Finalize()
	defer many.Finalize()
	defer scorer.Finalize()
	defer scorers.Finalize()
	many.Spread(3)
	scorers.Spread(3)
	prompts := somePrompts(20)
	adapted, other := lively(tiny), lively(tiny)
	folded, err := models.Fold(b, other)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []models.Policy{adapted, folded, adapted} {
		o := Options{Temperature: 1, MaxNewTokens: 9, N: 2, Seed: 3, Batch: 4}
		done := 0
		want := mustSample(t, one, p, prompts, o)
		got, err := many.Sample(t.Context(), p, prompts, o, func(n, of int) { done = n })
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatal("three devices sample otherwise than one")
		}
		if done != len(prompts) {
			t.Errorf("progress ends at %d of %d", done, len(prompts))
		}
		var rows []models.Row
		for i, c := range want {
			rows = append(rows, models.Row{Prompt: prompts[i].Tokens, Completions: [][]int32{c[0].Tokens, c[1].Tokens}})
		}
		w, err := scorer.LogProbs(t.Context(), p, rows, 3)
		if err != nil {
			t.Fatal(err)
		}
		g, err := scorers.LogProbs(t.Context(), p, rows, 3)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(g, w) {
			t.Fatal("three devices score otherwise than one")
		}
	}
}
