package experiments

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/experiments/stats"
	"gobpo/models"
	"gobpo/models/sample"
)

// Evaluation is what one set of outputs amounts to beside its reference texts. Metrics holds, under eval/:
// win_rate (a tie counts one half) with win_rate_low and win_rate_high (95 % bootstrap over prompts), n, ties,
// win_rate_length_controlled (predicted at equal lengths, as in AlpacaEval 2), win_rate_length_matched with
// n_length_matched (lengths within 10 %), score and reference_score (where the evaluator
// scores), length and reference_length (words), longer (share longer than its reference), distinct_1, distinct_2,
// unique, mode (share of the most frequent output), stopped; what a judge was asked for this evaluation (judge/requests,
// judge/unparsed, … as in annotate.Usage); and kl/initial with kl/initial_stderr and kl/initial_per_token, in nats.
type Evaluation struct {
	Metrics  map[string]float64 `json:"metrics"`
	Outcomes []float64          `json:"outcomes"` // by prompt: 1 win, 0.5 tie, 0 loss
	Outputs  []data.Completion  `json:"-"`
}

// Compare judges outputs against reference texts, which run in parallel with the prompts.
func Compare(ctx context.Context, a annotate.Annotator, outputs []data.Completion, b stats.Bootstrap, seed uint64) (Evaluation, error) {
	e := Evaluation{Metrics: map[string]float64{}, Outputs: outputs}
	if len(outputs) == 0 {
		return e, fmt.Errorf("evaluate: there is no output")
	}
	reqs := make([]annotate.Request, len(outputs))
	texts, refs := make([]string, len(outputs)), make([]string, len(outputs))
	for i, o := range outputs {
		texts[i], refs[i] = o.Text, o.Reference
		reqs[i] = annotate.Request{Prompt: o.Prompt, Reference: o.Reference, Completions: []string{o.Text, o.Reference}}
	}
	judgments, used, err := annotate.Counted(ctx, a, reqs, seed)
	if err != nil {
		return e, err
	}
	words, refWords := make([]int, len(outputs)), make([]int, len(outputs))
	score, refScore := 0.0, 0.0
	for i, j := range judgments {
		e.Outcomes = append(e.Outcomes, stats.Outcome(j.Compare(0, 1)))
		words[i], refWords[i] = stats.Words(texts[i]), stats.Words(refs[i])
		if j.Scores == nil {
			score, refScore = math.NaN(), math.NaN()
			continue
		}
		s := j.Scores[0]
		outputs[i].Score = &s
		score += s / float64(len(outputs))
		refScore += j.Scores[1] / float64(len(outputs))
	}
	count := stats.Count(e.Outcomes)
	_, interval := b.Mean([][]float64{e.Outcomes})
	matched := stats.LengthMatched(e.Outcomes, words, refWords, 0.1)
	lengths, diverse := stats.CompareLengths(texts, refs), stats.Diverse(texts)
	for k, v := range map[string]float64{
		"win_rate": count.Rate(), "win_rate_low": interval.Low, "win_rate_high": interval.High,
		"n": float64(count.N()), "ties": float64(count.Ties) / float64(count.N()),
		"win_rate_length_controlled": stats.LengthControlled(e.Outcomes, words, refWords),
		"win_rate_length_matched":    matched.Rate(), "n_length_matched": float64(matched.N()),
		"score": score, "reference_score": refScore,
		"length": lengths.Mean, "reference_length": lengths.ReferenceMean, "longer": lengths.Longer,
		"distinct_1": diverse.Distinct1, "distinct_2": diverse.Distinct2, "unique": diverse.Unique, "mode": diverse.Mode,
	} {
		if !math.IsNaN(v) { // what does not exist is left out, not written as a number
			e.Metrics["eval/"+k] = v
		}
	}
	for k, v := range used {
		e.Metrics["eval/"+k] = v
	}
	return e, nil
}

// evaluator measures policies of one trial.
type evaluator struct {
	cfg       *Config
	base      *base
	annotator annotate.Annotator
	initial   models.Policy // KL is measured to this policy
	ui        UI
}

// measure samples a completion for every prompt, compares them with the references, and estimates the KL to the
// initial policy on samples at temperature 1.
func (v *evaluator) measure(ctx context.Context, p models.Policy, prompts []bpo.Prompt, step int) (Evaluation, error) {
	outputs, err := v.complete(ctx, p, prompts, v.cfg.Eval.Temperature, step)
	if err != nil {
		return Evaluation{}, err
	}
	e, err := Compare(ctx, v.annotator, outputs, stats.Bootstrap{Resamples: v.cfg.Eval.Bootstrap, Seed: v.cfg.Seed}, v.cfg.Seed)
	if err != nil {
		return e, err
	}
	stopped := 0.0
	for _, o := range outputs {
		if o.Stopped {
			stopped += 1 / float64(len(outputs))
		}
	}
	e.Metrics["eval/stopped"] = stopped
	kl, err := v.kl(ctx, p, prompts[:min(len(prompts), v.cfg.Eval.KLSamples)], step)
	if err != nil || kl.N == 0 {
		return e, err
	}
	e.Metrics["kl/initial"], e.Metrics["kl/initial_per_token"] = kl.Mean, kl.PerToken
	if !math.IsNaN(kl.StdErr) {
		e.Metrics["kl/initial_stderr"] = kl.StdErr
	}
	return e, nil
}

// complete samples one completion a prompt; temperature 0 is greedy.
func (v *evaluator) complete(ctx context.Context, p models.Policy, prompts []bpo.Prompt, temperature float64, step int) ([]data.Completion, error) {
	t := v.base.model.Tokenizer
	in := make([]sample.Prompt, len(prompts))
	for i, q := range prompts {
		in[i] = sample.Prompt{Key: keyOf(q.ID), Tokens: q.Tokens}
	}
	drawn, err := v.base.sampler.Sample(ctx, p, in, sample.Options{
		Temperature: temperature, TopP: 1, Greedy: temperature == 0, MaxNewTokens: v.cfg.MaxCompletionTokens, N: 1,
		Seed: v.cfg.Seed ^ 0x65766c, Stop: v.base.model.Stop(turnEnd(v.base.model, v.cfg.Model.Chat)), Batch: v.cfg.Sample.Batch,
	}, func(done, total int) { v.ui.Doing("eval", done, total) })
	if err != nil {
		return nil, fmt.Errorf("sample for evaluation: %w", err)
	}
	out := make([]data.Completion, len(prompts))
	for i, q := range prompts {
		c := drawn[i][0]
		out[i] = data.Completion{
			ID: fmt.Sprintf("%s-%d", q.ID, step), PromptID: q.ID, Prompt: q.Text, Reference: q.Reference,
			Text: t.Decode(c.Tokens), PromptIDs: q.Tokens, IDs: c.Tokens, Logps: c.PolicyLogProbs, Stopped: c.Stopped,
			Policy: p.Name, Step: step,
		}
	}
	return out, nil
}

// kl estimates KL(policy ‖ initial) on untempered samples.
func (v *evaluator) kl(ctx context.Context, p models.Policy, prompts []bpo.Prompt, step int) (stats.KL, error) {
	if len(prompts) == 0 {
		return stats.KL{}, nil
	}
	drawn, err := v.complete(ctx, p, prompts, 1, step)
	if err != nil {
		return stats.KL{}, err
	}
	rows := make([]models.Row, len(drawn))
	policy, initial := make([][]float32, len(drawn)), make([][]float32, len(drawn))
	for i, d := range drawn {
		rows[i] = models.Row{Prompt: d.PromptIDs, Completions: [][]int32{d.IDs}}
		policy[i] = d.Logps
	}
	scores, err := v.base.scorer.LogProbs(ctx, v.initial, rows, v.cfg.Sample.Batch)
	if err != nil {
		return stats.KL{}, fmt.Errorf("score under the initial policy: %w", err)
	}
	for i, s := range scores {
		initial[i] = s[0]
	}
	return stats.EstimateKL(policy, initial)
}

// keyOf makes a prompt's random numbers its own, whatever stands beside it.
func keyOf(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	return h.Sum64()
}
