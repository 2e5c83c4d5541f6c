package experiments

import (
	"fmt"

	"gobpo/bpo/annotate"
)

// newAnnotator builds an annotator of a configuration; gold is the reward of the task, or nil. Models that judge are opened
// by the session, on the backend of that name.
func (s *Session) newAnnotator(c annotate.Config, gold func(prompt, completion string) float64, backend string) (annotate.Annotator, error) {
	kinds := []annotate.Kind{rewardKind(s, backend), logprobJudgeKind(s)}
	if gold != nil {
		kinds = append(kinds, annotate.Gold(gold))
	}
	return annotate.New(c, kinds...)
}

// validateAnnotators builds both annotators once, which finds every mistake in their options.
func (c *Config) validateAnnotators() error {
	var gold func(prompt, completion string) float64
	if c.Task.Name != "" {
		gold = func(string, string) float64 { return 0 }
	}
	if _, err := new(Session).newAnnotator(c.Annotator, gold, c.Backend); err != nil {
		return fmt.Errorf("annotator.%w", err)
	}
	if _, err := new(Session).newAnnotator(c.Eval.Annotator, gold, c.Backend); err != nil {
		return fmt.Errorf("eval.annotator.%w", err)
	}
	return nil
}
