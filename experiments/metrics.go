package experiments

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// MetricsLog is a run's metrics.jsonl: one JSON object a step, {"step": 3, "loss": …}, keys sorted; and beside it an event
// file for TensorBoard.
type MetricsLog struct {
	f        *os.File
	events   *eventFile // from the first step on
	trackers []tracker
}

// OpenMetrics opens a log for appending, making it if need be.
func OpenMetrics(path string) (*MetricsLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("metrics log: %w", err)
	}
	return &MetricsLog{f: f}, nil
}

// Rewind drops every line after a step, and a last line that a crash cut short: a run resumed from the checkpoint
// of that step writes them again. It leaves the log ready for appending.
func (l *MetricsLog) Rewind(step int) error {
	if _, err := l.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("metrics log: %w", err)
	}
	keep, r := int64(0), bufio.NewReader(l.f)
	for {
		line, err := r.ReadBytes('\n')
		var at struct {
			Step *int `json:"step"`
		}
		if err != nil || json.Unmarshal(line, &at) != nil || at.Step == nil || *at.Step > step {
			break
		}
		keep += int64(len(line))
	}
	if err := l.f.Truncate(keep); err != nil {
		return fmt.Errorf("metrics log: %w", err)
	}
	_, err := l.f.Seek(keep, io.SeekStart)
	return err
}

// Append writes one step and makes it durable. Values that are not finite, which JSON has no word for, become null.
func (l *MetricsLog) Append(step int, values map[string]float64) error {
	row := make(map[string]any, len(values)+1)
	for k, v := range values {
		row[k] = v
		if math.IsNaN(v) || math.IsInf(v, 0) {
			row[k] = nil
		}
	}
	row["step"] = step
	raw, err := json.Marshal(row)
	if err == nil {
		_, err = l.f.Write(append(raw, '\n')) // one write: a reader sees whole lines
	}
	if err == nil {
		err = l.f.Sync()
	}
	if err == nil && l.events == nil {
		l.events, err = newEventFile(filepath.Dir(l.f.Name()), step)
	}
	if err == nil {
		err = l.events.append(step, values)
	}
	if err != nil {
		return fmt.Errorf("metrics log: %w", err)
	}
	for _, t := range l.trackers {
		t.advance()
	}
	return nil
}

// Close closes the files.
func (l *MetricsLog) Close() error {
	if l.events != nil {
		return errors.Join(l.f.Close(), l.events.f.Close())
	}
	return l.f.Close()
}

// Step is one line of a metrics log; Values leaves nulls out.
type Step struct {
	Step   int
	Values map[string]float64
}

// ReadMetrics reads a log, of a run still going on too: a cut last line is left out. A missing file is no steps.
func ReadMetrics(path string) ([]Step, error) {
	steps, _, err := readMetricsFrom(path, 0)
	return steps, err
}

// readMetricsFrom reads the whole lines from an offset on, and says where the next one will begin.
func readMetricsFrom(path string, offset int64) ([]Step, int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, offset, nil
	}
	var raw []byte
	if err == nil {
		defer f.Close()
		raw, err = io.ReadAll(io.NewSectionReader(f, offset, math.MaxInt64-offset))
	}
	if err != nil {
		return nil, offset, fmt.Errorf("metrics log: %w", err)
	}
	var steps []Step
	next := offset
	for n := 1; len(raw) > 0; n++ {
		line, rest, whole := bytes.Cut(raw, []byte("\n"))
		if !whole {
			break
		}
		var row map[string]*float64
		if err := json.Unmarshal(line, &row); err != nil || row["step"] == nil {
			where := fmt.Sprintf("%s:%d", path, n)
			if offset > 0 {
				where = fmt.Sprintf("%s, line %d after byte %d", path, n, offset)
			}
			return nil, offset, fmt.Errorf("%s: not a line of metrics", where)
		}
		s := Step{Step: int(*row["step"]), Values: map[string]float64{}}
		for k, v := range row {
			if k != "step" && v != nil {
				s.Values[k] = *v
			}
		}
		steps = append(steps, s)
		next += int64(len(line)) + 1
		raw = rest
	}
	return steps, next, nil
}
