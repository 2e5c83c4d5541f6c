package annotate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// WithNoise reverses each preference (for k > 2, the whole ranking) of a with probability p. Ties stay ties and
// scores stay as they are. The draw is a hash of the seed, the prompt and the set of completion texts, so it does
// not depend on batching or on the order of completions; the same completions under the same seed are flipped
// alike. p = 0 returns a itself.
func WithNoise(a Annotator, p float64) Annotator {
	if p == 0 {
		return a
	}
	return &relabel{a, fmt.Sprintf("%s+noise=%v", a.Name(), p), func(seed uint64, req Request, j Judgment) (Judgment, error) {
		texts := slices.Sorted(slices.Values(req.Completions))
		if uniform(seed, "noise", append([]string{req.Prompt}, texts...)...) >= p {
			return j, nil
		}
		// Number of completions that this one is preferred to = its rank in the reversed order.
		k := j.Len()
		ranks := make([]int, k)
		for i := range ranks {
			for o := range k {
				if j.Compare(i, o) > 0 {
					ranks[i]++
				}
			}
		}
		return Judgment{Scores: j.Scores, Ranks: ranks}, nil
	}}
}

// WithTemperature samples rankings from the Plackett–Luce model of a's scores, for k = 2 Bradley–Terry:
// P(a ≻ b) = σ((score_a − score_b)/temperature), by adding Gumbel noise drawn from a hash of the seed, the prompt
// and the completion's text. Equal texts stay tied. An annotator that gives no scores is an error when it
// annotates. temperature = 0 returns a itself.
func WithTemperature(a Annotator, temperature float64) Annotator {
	if temperature == 0 {
		return a
	}
	return &relabel{a, fmt.Sprintf("%s+temperature=%v", a.Name(), temperature), func(seed uint64, req Request, j Judgment) (Judgment, error) {
		if j.Scores == nil {
			return j, fmt.Errorf("temperature needs scores, and %s only compares", a.Name())
		}
		noisy := make([]float64, len(j.Scores))
		for i, s := range j.Scores {
			u := uniform(seed, "bradley-terry", req.Prompt, req.Completions[i])
			noisy[i] = s/temperature - math.Log(-math.Log(u))
		}
		return Judgment{Scores: j.Scores, Ranks: ranksOf(noisy)}, nil
	}}
}

// relabel changes the labels of another annotator.
type relabel struct {
	Annotator
	name   string
	change func(seed uint64, req Request, j Judgment) (Judgment, error)
}

func (r *relabel) Name() string { return r.name }

func (r *relabel) Annotate(ctx context.Context, reqs []Request, seed uint64) ([]Judgment, error) {
	js, err := r.Annotator.Annotate(ctx, reqs, seed)
	if err != nil {
		return nil, err
	}
	out := make([]Judgment, len(js))
	for i, j := range js {
		if out[i], err = r.change(seed, reqs[i], j); err != nil {
			return nil, fmt.Errorf("annotate with %s: request %d: %w", r.name, i, err)
		}
	}
	return out, nil
}

// uniform hashes its arguments to a number in the open interval (0, 1). Lengths go in before texts, so that no two
// different argument lists give the same bytes.
func uniform(seed uint64, purpose string, texts ...string) float64 {
	h := sha256.New()
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], seed)
	h.Write(n[:])
	for _, s := range append([]string{purpose}, texts...) {
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	return (float64(binary.LittleEndian.Uint64(h.Sum(nil))>>11) + 0.5) / (1 << 53)
}
