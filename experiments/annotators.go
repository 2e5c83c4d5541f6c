package experiments

import (
	"fmt"

	"gobpo/bpo/annotate"
)

// newAnnotator builds an annotator of the configuration; gold is the reward of the task, or nil.
func newAnnotator(c annotate.Config, gold func(prompt, completion string) float64) (annotate.Annotator, error) {
	if gold == nil {
		return annotate.New(c)
	}
	return annotate.New(c, annotate.Gold(gold))
}

// validateAnnotators builds both annotators once, which finds every mistake in their options.
func (c *Config) validateAnnotators() error {
	var gold func(prompt, completion string) float64
	if c.Task.Name != "" {
		gold = func(string, string) float64 { return 0 }
	}
	if _, err := newAnnotator(c.Annotator, gold); err != nil {
		return fmt.Errorf("annotator.%w", err)
	}
	if _, err := newAnnotator(c.Eval.Annotator, gold); err != nil {
		return fmt.Errorf("eval.annotator.%w", err)
	}
	return nil
}
