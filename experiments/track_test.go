package experiments

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// loggingRun is a Runner that logs the steps from one to another, and ends with an error, or a result.
func loggingRun(from, to int, end error) Runner {
	return func(_ context.Context, _ Trial, dir *RunDir, _ UI) (Result, error) {
		log, err := OpenMetrics(filepath.Join(dir.Path, "metrics.jsonl"))
		if err != nil {
			return Result{}, err
		}
		defer log.Close()
		log.trackers = dir.trackers
		if err := log.Rewind(from - 1); err != nil {
			return Result{}, err
		}
		for step := from; step <= to; step++ {
			if err := log.Append(step, map[string]float64{"loss": 1 / float64(step), "rewards/chosen": 0.5 * float64(step)}); err != nil {
				return Result{}, err
			}
		}
		return Result{Final: map[string]float64{"eval/win_rate": 0.75}}, end
	}
}

// notes is a UI that keeps what it is told.
type notes struct {
	silent
	mu    sync.Mutex
	lines []string
}

func (n *notes) Trial(string) UI { return n }
func (n *notes) Note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func TestTrackConfig(t *testing.T) {
	for set, want := range map[string]string{
		"track.wandb=online":                  `x.yaml: track.wandb: "online" is not offline; ` + "`wandb sync` uploads what is written",
		"track.mlflow=mlruns":                 `x.yaml: track.mlflow: "mlruns" is not an address such as http://127.0.0.1:5000`,
		"track.mlflow=file:///tmp":            `x.yaml: track.mlflow: "file:///tmp" is not an address such as http://127.0.0.1:5000`,
		"track.mlflow=http://me:secret@host":  "x.yaml: track.mlflow: the address holds a user; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
		"track.mlfow=x":                       "--set track.mlfow=x: unknown key track.mlfow; did you mean track.mlflow?",
		"track.mlflow=https://host:1/a/path/": "",
		"track={mlflow: 'http://h'}":          "",
	} {
		if _, msg := load(t, taskYAML, []string{set}, nil); msg != want {
			t.Errorf("%s: got  %s\nwant %s", set, msg, want)
		}
	}
}

func TestTrackWithoutTrackers(t *testing.T) {
	trial := trialsOf(t, taskYAML)[0]
	dir, _, err := RunOne(t.Context(), trial, t.TempDir(), loggingRun(1, 2, nil), &silent{})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	if err := Track(t.Context(), dir, TrackConfig{}, say); err == nil || !strings.Contains(err.Error(), "no run to track") {
		t.Errorf("no tracker: %v", err)
	}
	for range 2 { // the second time there is nothing to do
		if err := Track(t.Context(), filepath.Dir(dir), TrackConfig{WandB: "offline"}, say); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "wandb", "*", "*.wandb"))
	if len(files) != 1 || len(said) != 2 || !strings.Contains(said[0], "wandb sync ") {
		t.Errorf("%v, %q", files, said)
	}
}
