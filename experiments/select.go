package experiments

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/mat"

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
func (c SelectConfig) prompts(ctx context.Context, b *base, all []bpo.Prompt, chatMode string, limit, batch int, seed uint64) ([]bpo.Prompt, error) {
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
		for i, d := range densities(states) { // Efraimidis and Spirakis 2006: the largest of ln(u)/weight, weight 1/density
			scores[i] = math.Log(1-rng.Float64()) * d
		}
	case "ask_llm":
		var err error
		if scores, err = askLLM(ctx, b, all, chatMode, limit, batch); err != nil {
			return nil, err
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

// densities are Gaussian kernel estimates at the points themselves, up to a factor; the bandwidth is the median distance.
// Of more than densityPoints points, that many at random stand for all: the cost is linear in the number of prompts.
func densities(points [][]float32) []float64 {
	n := len(points)
	if n == 0 {
		return nil
	}
	x := mat.NewDense(n, len(points[0]), nil)
	norms := make([]float64, n)
	for i, p := range points {
		for j, v := range p {
			x.Set(i, j, float64(v))
			norms[i] += float64(v) * float64(v)
		}
	}
	square := func(i, j int, dot float64) float64 { return max(0, norms[i]+norms[j]-2*dot) }
	var some []float64
	for i := range min(n, 200) {
		for j := range i {
			a, b := i*n/min(n, 200), j*n/min(n, 200)
			some = append(some, square(a, b, mat.Dot(x.RowView(a), x.RowView(b))))
		}
	}
	width := 1.0
	if len(some) > 0 {
		slices.Sort(some)
		width = max(some[len(some)/2], 1e-12)
	}
	others := data.Order(n, 0, 0)[:min(n, densityPoints)]
	slices.Sort(others)
	references := mat.NewDense(len(others), len(points[0]), nil)
	for k, j := range others {
		references.SetRow(k, x.RawRowView(j))
	}
	out := make([]float64, n)
	for at := 0; at < n; at += 256 { // [256, references] at a time
		end := min(at+256, n)
		var dots mat.Dense
		dots.Mul(x.Slice(at, end, 0, len(points[0])), references.T())
		for i := at; i < end; i++ {
			sum, terms := 0.0, 0
			for k, j := range others {
				if i != j {
					sum += math.Exp(-square(i, j, dots.At(i-at, k)) / (2 * width))
					terms++
				}
			}
			out[i] = (1 + float64(n-1)*sum/float64(max(terms, 1))) / float64(n) // the point itself, and the mean over others for all
		}
	}
	return out
}

// densityPoints is how many points a density is estimated against, at most.
const densityPoints = 4096

const askText = "###\n%s\n###\n\nDoes the text between the ### signs hold an informative request that is good to learn from? Answer yes or no.\nAnswer:"

// askLLM gives the base model's log odds of answering yes.
func askLLM(ctx context.Context, b *base, all []bpo.Prompt, chatMode string, limit, batch int) ([]float64, error) {
	questions := make([]data.Prompt, len(all))
	for i, p := range all {
		questions[i] = data.Prompt{ID: p.ID, Prompt: fmt.Sprintf(askText, p.Text)}
	}
	t := b.model.Tokenizer
	answers := [][]int32{t.EncodePlain(" yes"), t.EncodePlain(" no")}
	asked, _, err := tokenise(b.model, chatMode, questions, limit-max(len(answers[0]), len(answers[1])))
	if err != nil {
		return nil, err
	}
	rows := make([]models.Row, len(asked))
	for i, q := range asked {
		rows[i] = models.Row{Prompt: q.Tokens, Completions: answers}
	}
	logps, err := b.scorer.LogProbs(ctx, models.Policy{Base: b.model.Base}, rows, batch)
	if err != nil {
		return nil, fmt.Errorf("prompts.select: %w", err)
	}
	odds := make([]float64, len(rows))
	for i, l := range logps {
		for k, sign := range []float64{1, -1} {
			for _, v := range l[k] {
				odds[i] += sign * float64(v)
			}
		}
	}
	return odds, nil
}
