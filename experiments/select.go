package experiments

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gobpo/bpo"
	"gobpo/data"
	"gobpo/models"
)

// SelectConfig keeps a share of the prompts to collect on, before anything is annotated.
type SelectConfig struct {
	// By is random; density, which draws prompts with a chance of one over the density of prompts around them (inverse
	// propensity sampling over a kernel estimate on mean final states, Sachdeva et al. 2024, arXiv 2402.09668 §3.2); or
	// ask_llm, the prompts of which the base model thinks most that they are good to learn from (the same, §3.1).
	By   string  `mapstructure:"by" yaml:"by,omitempty"`
	Keep float64 `mapstructure:"keep" yaml:"keep,omitempty"` // in (0, 1]
}

func (c SelectConfig) validate() error {
	switch {
	case !slices.Contains([]string{"", "random", "density", "ask_llm"}, c.By):
		return fmt.Errorf("prompts.select.by: %q is not random, density or ask_llm", c.By)
	case (c.By == "") != (c.Keep == 0) || c.Keep < 0 || c.Keep > 1:
		return fmt.Errorf("prompts.select.keep: %g, must be in (0, 1] with prompts.select.by, and absent otherwise", c.Keep)
	}
	return nil
}

// prompts picks the prompts to keep, in their order.
func (c SelectConfig) prompts(ctx context.Context, b *base, all []bpo.Prompt, chatMode string, batch int, seed uint64) ([]bpo.Prompt, error) {
	if c.By == "" {
		return all, nil
	}
	scores := make([]float64, len(all)) // the highest are kept
	rng := rand.New(rand.NewPCG(seed, 0x73656c656374))
	switch c.By {
	case "random":
		for i := range scores {
			scores[i] = rng.Float64()
		}
	case "density":
		states, err := embedPrompts(ctx, b, all, batch)
		if err != nil {
			return nil, err
		}
		scores = bpo.DensityKeys(states, rng)
	case "ask_llm":
		texts := make([][]string, len(all))
		for i, p := range all {
			texts[i] = []string{p.Text}
		}
		encode := func(text string) ([]int32, error) { return encodePrompt(b.model, chatMode, text, nil) }
		var err error
		if scores, err = bpo.AskLLM(ctx, b.scorer, b.model, encode, bpo.AskPrompt, texts, batch); err != nil {
			return nil, fmt.Errorf("prompts.select: %w", err)
		}
	}
	order := data.Order(len(all), seed, 0) // also of equal scores
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(scores[j], scores[i]) })
	kept := order[:int(math.Ceil(c.Keep*float64(len(all))))]
	slices.Sort(kept)
	out := make([]bpo.Prompt, len(kept))
	for i, at := range kept {
		out[i] = all[at]
	}
	return out, nil
}

func embedPrompts(ctx context.Context, b *base, all []bpo.Prompt, batch int) ([][]float32, error) {
	rows := make([]models.Row, len(all))
	for i, p := range all {
		rows[i] = models.Row{Prompt: p.Tokens[:1], Completions: [][]int32{p.Tokens[min(1, len(p.Tokens)-1):]}}
	}
	states, err := b.scorer.Embed(ctx, models.Policy{Base: b.model.Base}, rows, batch)
	if err != nil {
		return nil, fmt.Errorf("prompts.select: %w", err)
	}
	out := make([][]float32, len(states))
	for i, s := range states {
		out[i] = s[0]
	}
	return out, nil
}
