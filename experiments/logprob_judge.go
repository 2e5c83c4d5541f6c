package experiments

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/models"
)

func init() { annotate.Register(logprobJudgeKind(new(Session))) }

// logprobJudgeKind is the annotator that reads a local model's opinion off its next-token probabilities.
func logprobJudgeKind(s *Session) annotate.Kind {
	return annotate.Kind{
		Name: "logprob_judge",
		Doc:  "A local model's log odds of answering A rather than B, averaged over both orders (RLAIF, arXiv 2309.00267): scores whose differences are soft preferences.",
		Params: []annotate.Param{
			{Name: "model", Default: "", Doc: "a GGUF file, a Hugging Face directory, smollm2, or a run directory (required)", File: func(v string) bool { return v != smolLM2 }}, // that one is checked when it is fetched
			{Name: "template", Default: "helpfulness", Doc: "as judge's: tldr, helpfulness, harmlessness, or a file", File: annotate.IsTemplateFile},
			{Name: "prefill", Default: "Preferred:", Doc: "how the answer begins"},
			{Name: "a", Default: " A", Doc: "how it goes on for A"},
			{Name: "b", Default: " B", Doc: "how it goes on for B"},
			{Name: "chat", Default: "auto", Doc: "auto (the model's chat template) or none; a run has its own"},
			{Name: "dtype", Default: "float32", Doc: "float32 or bfloat16; a run has its own"},
			{Name: "batch", Default: 8.0, Doc: "questions at a time"},
		},
		Build: func(a annotate.Args) (annotate.Annotator, error) {
			j := &logprobJudge{session: s, name: a.Name, prefill: a.String("prefill"), a: a.String("a"), b: a.String("b"), batch: int(a.Float("batch"))}
			j.model, j.dtype, j.chat = a.String("model"), a.String("dtype"), a.String("chat")
			var err error
			j.question, err = annotate.JudgeTemplate(a.String("template"))
			switch {
			case err != nil:
				return nil, err
			case j.model == "":
				return nil, fmt.Errorf("model: logprob_judge needs a model")
			case j.a == "" || j.b == "" || j.a == j.b:
				return nil, fmt.Errorf("a: %q and b %q must be different texts", j.a, j.b)
			case j.batch < 1:
				return nil, fmt.Errorf("batch: %d is not at least 1", j.batch)
			case !slices.Contains([]string{"auto", "none"}, j.chat):
				return nil, fmt.Errorf("chat: %q is not auto or none", j.chat)
			case !slices.Contains([]string{"float32", "bfloat16"}, j.dtype):
				return nil, fmt.Errorf("dtype: %q is not float32 or bfloat16", j.dtype)
			}
			return j, nil
		},
	}
}

type logprobJudge struct {
	session            *Session
	name               string
	model, dtype, chat string
	question           annotate.Question
	prefill, a, b      string
	batch              int
	mu                 sync.Mutex // of what follows
	policy             *Policy
	truncated          int
}

func (j *logprobJudge) Name() string { return j.name }

// Usage counts the questions that lost their start to the model's context since the judge was made.
func (j *logprobJudge) Usage() map[string]float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return map[string]float64{"judge/truncated": float64(j.truncated)}
}

func (j *logprobJudge) open(ctx context.Context) (*Policy, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.policy != nil {
		return j.policy, nil
	}
	var err error
	j.policy, err = j.session.OpenPolicy(ctx, j.model, j.dtype, j.chat)
	return j.policy, err
}

// Annotate asks about every two different completions in both orders. With log odds d of one over another, a completion's
// score is the mean of its d against all k completions: the scores whose differences fit the d best, and for k = 2 ± d/2,
// so that σ of the difference is the judge's probability.
func (j *logprobJudge) Annotate(ctx context.Context, reqs []annotate.Request, _ uint64) ([]annotate.Judgment, error) {
	out, err := j.annotate(ctx, reqs)
	if err != nil {
		return nil, fmt.Errorf("annotate with %s: %w", j.name, err)
	}
	return out, nil
}

func (j *logprobJudge) annotate(ctx context.Context, reqs []annotate.Request) ([]annotate.Judgment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := j.open(ctx)
	if err != nil {
		return nil, err
	}
	t := p.Model.Tokenizer
	answers := [][]int32{t.EncodePlain(j.a), t.EncodePlain(j.b)}
	type question struct {
		req  int
		a, b string
	}
	var asked []question
	var prompts []data.Prompt
	for i, req := range reqs {
		texts := slices.Compact(slices.Sorted(slices.Values(req.Completions)))
		for _, a := range texts {
			for _, b := range texts {
				if a == b {
					continue
				}
				text, err := j.question(req.Prompt, a, b)
				if err != nil {
					return nil, fmt.Errorf("request %d: template: %w", i, err)
				}
				asked = append(asked, question{i, a, b})
				prompts = append(prompts, data.Prompt{ID: fmt.Sprint(len(asked)), Prompt: text})
			}
		}
	}
	limit := p.Model.Config.MaxPositions - max(len(answers[0]), len(answers[1]))
	prefill := t.EncodePlain(j.prefill)
	if limit <= len(prefill) {
		return nil, fmt.Errorf("logprob_judge.prefill: %d tokens leave no room for the question in a context of %d", len(prefill), p.Model.Config.MaxPositions)
	}
	tokens, cut, err := p.Prompts(prompts, limit-len(prefill))
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.truncated += cut
	j.mu.Unlock()
	rows := make([]models.Row, len(tokens))
	for i, q := range tokens {
		rows[i] = models.Row{Prompt: append(slices.Clone(q.Tokens), prefill...), Completions: answers}
	}
	logps, err := p.Scorer.LogProbs(ctx, p.Policy, rows, j.batch)
	if err != nil {
		return nil, err
	}
	odds := make([]map[[2]string]float64, len(reqs)) // of the first text of a pair, summed over both orders
	for i := range odds {
		odds[i] = map[[2]string]float64{}
	}
	for i, q := range asked {
		d := 0.0
		for k, sign := range []float64{1, -1} {
			for _, v := range logps[i][k] {
				d += sign * float64(v)
			}
		}
		odds[q.req][[2]string{q.a, q.b}] += d / 2
		odds[q.req][[2]string{q.b, q.a}] -= d / 2
	}
	out := make([]annotate.Judgment, len(reqs))
	for i, req := range reqs {
		scores := make([]float64, len(req.Completions))
		others := slices.Sorted(slices.Values(req.Completions)) // one order of summation, whatever that of the request
		for k, a := range req.Completions {
			for _, b := range others {
				scores[k] += odds[i][[2]string{a, b}] / float64(len(req.Completions))
			}
		}
		out[i].Scores = scores
	}
	return out, nil
}
