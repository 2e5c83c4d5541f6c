package experiments

import "path/filepath"

// Result is a run's results.json: what the final evaluation found.
type Result struct {
	Method  string             `json:"method"`
	Backend string             `json:"backend"`
	Initial map[string]float64 `json:"initial"` // the policy before the first step; may be empty
	Final   map[string]float64 `json:"final"`
	Seconds float64            `json:"seconds"` // of this attempt
}

const resultFile = "results.json"

// ReadResult reads a run's result.
func ReadResult(dir string) (Result, error) {
	var r Result
	return r, readJSON(filepath.Join(dir, resultFile), &r)
}

// Save writes the result.
func (r Result) Save(dir string) error { return writeJSON(filepath.Join(dir, resultFile), r) }
