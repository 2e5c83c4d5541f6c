package experiments

import (
	"fmt"
	"strings"
)

// Cost is what a trial asks for, counted before anything runs. Tokens are upper bounds: texts may be shorter.
type Cost struct {
	Prompts       int // prompts collected (annotation requests)
	Completions   int // completions sampled for training
	SampledTokens int // at most, for training
	TrainedTokens int // at most, forward and backward, over all learners
	Annotations   int // completions the annotator judges
	EvalTokens    int // at most, sampled for evaluation
}

// Cost estimates a trial.
func (c *Config) Cost() Cost {
	var k Cost
	pairs := c.Steps * c.BatchSize
	if !c.offline() {
		k.Prompts = c.Steps * c.Fresh()
		switch {
		case c.SelfPlay.Segment > 0: // a segment of each reference text, which nobody judges
			k.Completions = k.Prompts
			k.SampledTokens = k.Completions * c.SelfPlay.Segment
		default:
			k.Completions = k.Prompts * c.Sample.N
			k.SampledTokens = k.Completions * c.MaxCompletionTokens
			k.Annotations = k.Completions
			if c.Sample.Pick != "" {
				k.Annotations = 2 * k.Prompts
			}
		}
	}
	// The learner computes a pair's prompt once and both completions after it.
	k.TrainedTokens = pairs * c.Learners * (c.MaxPromptTokens + 2*c.MaxCompletionTokens)
	evals := 2 // before the first step and at the end
	if c.Eval.Every > 0 {
		evals = 1 + (c.Steps+c.Eval.Every-1)/c.Eval.Every
	}
	k.EvalTokens = evals * (c.Eval.N + c.Eval.KLSamples) * c.MaxCompletionTokens
	return k
}

// Add counts another trial in.
func (k *Cost) Add(o Cost) {
	k.Prompts += o.Prompts
	k.Completions += o.Completions
	k.SampledTokens += o.SampledTokens
	k.TrainedTokens += o.TrainedTokens
	k.Annotations += o.Annotations
	k.EvalTokens += o.EvalTokens
}

// String is the cost in one line.
func (k Cost) String() string {
	return fmt.Sprintf("%s prompts, %s completions (at most %s tokens sampled), %s annotations, at most %s tokens trained and %s sampled for evaluation",
		count(k.Prompts), count(k.Completions), count(k.SampledTokens), count(k.Annotations), count(k.TrainedTokens), count(k.EvalTokens))
}

// count writes 12345 as 12.3k.
func count(n int) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fG", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", float64(n)/1e3)
	}
	return fmt.Sprint(n)
}

// PhasesLine says how T steps fall into data-collection phases, and where the division is not even.
func (c *Config) PhasesLine() string {
	t, k, phases := c.Steps, c.K(), c.Phases()
	line := fmt.Sprintf("T=%d steps, K=%d steps a phase, %d data-collection phases", t, k, phases)
	if c.Behavior == "sft" || phases == 1 {
		line = fmt.Sprintf("T=%d steps, one data-collection phase by the start policy", t)
	}
	if c.offline() {
		line = fmt.Sprintf("T=%d steps on the pairs of %s", t, c.OfflinePath())
	}
	var notes []string
	if c.Refresh > 0 && t%c.Refresh != 0 && phases > 1 {
		notes = append(notes, fmt.Sprintf("T/F=%d/%d is not whole, so K is rounded up", t, c.Refresh))
		if phases != c.Refresh {
			notes = append(notes, fmt.Sprintf("which leaves %d phases instead of %d", phases, c.Refresh))
		}
	}
	if last := t - (phases-1)*k; phases > 1 && last != k {
		notes = append(notes, fmt.Sprintf("the last phase has %d steps", last))
	}
	if len(notes) > 0 {
		line += " (" + strings.Join(notes, "; ") + ")"
	}
	return line
}
