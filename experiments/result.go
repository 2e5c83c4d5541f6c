package experiments

import "path/filepath"

// Result is a run's results.json: what the final evaluation found.
type Result struct {
	Method           string             `json:"method"`
	Backend          string             `json:"backend,omitempty"`
	Initial          map[string]float64 `json:"initial,omitempty"` // the policy before the first step, on the same prompts
	Final            map[string]float64 `json:"final"`
	Outcomes         []float64          `json:"outcomes,omitempty"` // by prompt: 1 win over the reference, 0.5 tie, 0 loss
	TruncatedPrompts int                `json:"truncated_prompts,omitempty"`
	Seconds          float64            `json:"seconds,omitempty"` // of work, over all attempts
	InitialDir       string             `json:"initial_dir,omitempty"`
}

const resultFile = "results.json"

// ReadResult reads a run's result.
func ReadResult(dir string) (Result, error) {
	var r Result
	return r, readJSON(filepath.Join(dir, resultFile), &r)
}

// Save writes the result.
func (r Result) Save(dir string) error { return writeJSON(filepath.Join(dir, resultFile), r) }
