// Package tasks holds procedural text tasks: readable prompts, imperfect reference texts and a gold reward that is
// known exactly, small enough that a model trained from scratch learns them within a minute. They stand in for a
// data set and a human annotator where a run must explain itself, as in the quickstart.
package tasks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"gobpo/data"
)

// Task is a procedural task. Its methods are pure functions of their arguments.
type Task interface {
	Name() string
	Doc() string // one paragraph: what is asked, and how answers are rewarded
	// Words are all words and punctuation marks of prompts and references, for tokenizer.FromWords.
	Words() []string
	// Prompts draws n different prompts with references from one of [Splits]. Splits never share a prompt, whatever
	// the seeds, and the first prompts of a larger n are those of a smaller one.
	Prompts(n int, seed uint64, split string) ([]data.Prompt, error)
	// Reward is the gold reward in [0, 1] of any text as a completion; NaN if prompt is not one of this task.
	Reward(prompt, completion string) float64
	// Ideal is an answer with the greatest reward, 1; empty if prompt is not one of this task.
	Ideal(prompt string) string
}

// Splits are the names that Prompts accepts: sft is for the first, supervised stage, train for preferences, dev to
// choose between runs and test to report.
var Splits = []string{"sft", "train", "dev", "test"}

var all = []Task{picnic{}}

// Names lists the tasks.
func Names() []string {
	names := make([]string, len(all))
	for i, t := range all {
		names[i] = t.Name()
	}
	return names
}

// Get finds a task by name.
func Get(name string) (Task, error) {
	for _, t := range all {
		if t.Name() == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("no task %q; there is %s", name, strings.Join(Names(), ", "))
}

func checkSplit(split string) error {
	if slices.Contains(Splits, split) {
		return nil
	}
	near := slices.MinFunc(Splits, func(a, b string) int {
		return levenshtein.ComputeDistance(split, a) - levenshtein.ComputeDistance(split, b)
	})
	return fmt.Errorf("no split %q; did you mean %q?", split, near)
}
