// Package annotate turns completions into preferences.
//
// An [Annotator] looks at k completions of a prompt and judges them, with scores (a reward function, a
// reward model) or with a ranking alone (a judge that only compares). [New] builds one from a [Config] tree;
// [Kinds] lists what a config can name. Preference noise and Bradley–Terry labels ([Config].Noise,
// [Config].Temperature) wrap any annotator. Package annotatetest checks that an implementation keeps the
// promises made here.
package annotate

import (
	"cmp"
	"context"
	"fmt"
	"math"
)

// Request asks for one judgment: completions of one prompt, in any number, duplicates and empty strings included.
type Request struct {
	Prompt      string
	Reference   string   // reference text of the prompt; empty when the prompt has none
	Completions []string // decoded, special tokens removed
}

// Annotator judges completions.
//
// Annotate returns one [Judgment] per request, in order. The contract, checked by annotatetest.Run:
//   - a request's judgment depends on that request and the seed only, not on the rest of the batch, the call or the
//     order of calls, so batches may be cut anywhere and a resumed run repeats the same labels;
//   - permuting the completions permutes the judgment; equal texts are tied;
//   - a cancelled context is an error, and an error means that no judgment is returned;
//   - methods are safe for concurrent use.
//
// An implementation that calls a model or a service batches as it likes inside one call, and uses the seed for
// whatever it draws (sampling temperature, order of presentation).
type Annotator interface {
	// Name identifies the annotator, its parameters included, in preference records and reports.
	Name() string
	Annotate(ctx context.Context, reqs []Request, seed uint64) ([]Judgment, error)
}

// Judgment of the k completions of one request: scores, ranks, or both. Where both are set the ranks are the label
// and the scores explain it; they disagree where label noise was asked for.
type Judgment struct {
	Scores []float64 // [k], higher is better, finite; nil if the annotator only compares
	Ranks  []int     // [k], number of completions preferred to this one (0 = best, equal = tied); nil = by Scores
}

// Len is the number of completions judged.
func (j Judgment) Len() int { return max(len(j.Scores), len(j.Ranks)) }

// Compare returns +1 if completion a is preferred to b, -1 if b is preferred to a, 0 if they are tied.
func (j Judgment) Compare(a, b int) int {
	if j.Ranks != nil {
		return cmp.Compare(j.Ranks[b], j.Ranks[a])
	}
	return cmp.Compare(j.Scores[a], j.Scores[b])
}

// Pair returns the best and the worst completion (the first of each among equals). tie reports that nothing
// separates them: all k completions are judged equal, or there are fewer than two; chosen and rejected are then
// the first and the last, for callers that break ties themselves. With no completions at all both are -1.
func (j Judgment) Pair() (chosen, rejected int, tie bool) {
	k := j.Len()
	if k == 0 {
		return -1, -1, true
	}
	for i := 1; i < k; i++ {
		if j.Compare(i, chosen) > 0 {
			chosen = i
		}
		if j.Compare(i, rejected) < 0 {
			rejected = i
		}
	}
	if j.Compare(chosen, rejected) == 0 {
		return 0, k - 1, true
	}
	return chosen, rejected, false
}

// ranksOf counts for each value how many are greater.
func ranksOf(values []float64) []int {
	ranks := make([]int, len(values))
	for i, v := range values {
		for _, other := range values {
			if other > v {
				ranks[i]++
			}
		}
	}
	return ranks
}

// Score rates one completion of a request; it must be a pure function of its arguments. Not finite is an error.
type Score func(req Request, completion string) (float64, error)

// FromScore makes an annotator of a reward function.
func FromScore(name string, score Score) Annotator { return &scored{name, score} }

type scored struct {
	name  string
	score Score
}

func (s *scored) Name() string { return s.name }

func (s *scored) Annotate(ctx context.Context, reqs []Request, _ uint64) ([]Judgment, error) {
	out := make([]Judgment, len(reqs))
	for i, req := range reqs {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("annotate with %s: %w", s.name, err)
		}
		scores := make([]float64, len(req.Completions))
		for k, completion := range req.Completions {
			v, err := s.score(req, completion)
			if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
				err = fmt.Errorf("score is %v", v)
			}
			if err != nil {
				return nil, fmt.Errorf("annotate with %s: request %d, completion %d: %w", s.name, i, k, err)
			}
			scores[k] = v
		}
		out[i] = Judgment{Scores: scores}
	}
	if err := ctx.Err(); err != nil { // also with no requests
		return nil, fmt.Errorf("annotate with %s: %w", s.name, err)
	}
	return out, nil
}
