package experiments

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// TrackConfig names the trackers that a run's metrics go to, besides its own directory.
type TrackConfig struct {
	MLflow string `mapstructure:"mlflow" yaml:"mlflow,omitempty"` // address of a tracking server; "" = none
	WandB  string `mapstructure:"wandb" yaml:"wandb,omitempty"`   // "" = none | offline: files that `wandb sync` uploads
}

func (c TrackConfig) validate() error {
	if c.WandB != "" && c.WandB != "offline" {
		return fmt.Errorf("track.wandb: %q is not offline; `wandb sync` uploads what is written", c.WandB)
	}
	if c.MLflow == "" {
		return nil
	}
	u, err := url.Parse(c.MLflow)
	switch {
	case err == nil && u.User != nil: // not shown: it is a secret
		return fmt.Errorf("track.mlflow: the address holds a user; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead")
	case err != nil:
		return fmt.Errorf("track.mlflow: not an address such as http://127.0.0.1:5000")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("track.mlflow: %q is not an address such as http://127.0.0.1:5000", c.MLflow)
	}
	return nil
}

// tracker follows a run through its directory. Its methods return at once, and its failures are not the run's.
type tracker interface {
	advance()          // metrics.jsonl has another step
	close(state State) // the run ended; its manifest and result are written
}

// tracked is what a tracker says of a run besides its metrics.
type tracked struct {
	dir      string
	config   Config
	manifest Manifest
}

func (r tracked) name() string {
	if r.manifest.Name != "" {
		return r.manifest.Name
	}
	return Trial{Hash: r.manifest.Hash}.String() // of an older run
}

// final is the metrics of the final evaluation, "final/" before their names: those without are curves, which are measured on
// other prompts. They are nil until the run is done.
func (r tracked) final() (map[string]float64, error) {
	result, err := ReadResult(r.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	final := make(map[string]float64, len(result.Final))
	for k, v := range result.Final {
		final["final/"+k] = v
	}
	return final, nil
}

// tracking is what the trials of one command share of their trackers.
type tracking struct {
	ctx    context.Context
	cancel context.CancelFunc
	ending chan struct{} // closed when the command has nothing else left to do
	wg     sync.WaitGroup
	mu     sync.Mutex
	noted  map[string]bool
}

// trackPatience is how long a command waits at its end for trackers that lag.
var trackPatience = 10 * time.Second

func newTracking() *tracking {
	ctx, cancel := context.WithCancel(context.Background()) // an interrupted run is still to be reported as such
	return &tracking{ctx: ctx, cancel: cancel, ending: make(chan struct{}), noted: map[string]bool{}}
}

// start begins to track a run whose manifest is written.
func (t *tracking) start(c Config, dir *RunDir, ui UI) (all []tracker) {
	run := tracked{dir.Path, c, dir.Manifest}
	if c.Track.MLflow != "" {
		m := newMLflowRun(newMLflow(c.Track.MLflow), run)
		m.note = func(err error) {
			t.once(c.Track.MLflow, ui, "mlflow: %v; the metrics stay in metrics.jsonl, and bpo track %s sends them", err, filepath.Dir(dir.Path))
		}
		t.wg.Go(func() { m.loop(t.ctx, t.ending) })
		all = append(all, m)
	}
	if c.Track.WandB != "" {
		all = append(all, &wandbRun{run: run, tail: tail{dir: dir.Path}, note: func(err error) {
			t.once("wandb", ui, "wandb: %v; the metrics stay in metrics.jsonl, and bpo track %s writes them", err, filepath.Dir(dir.Path))
		}})
	}
	return all
}

// once notes something for the first trial it happens to; the others would only repeat it.
func (t *tracking) once(what string, ui UI, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.noted[what] {
		t.noted[what] = true
		ui.Note(format, args...)
	}
}

// wait gives trackers a moment to catch up with runs that have ended.
func (t *tracking) wait() {
	close(t.ending)
	defer time.AfterFunc(trackPatience, t.cancel).Stop()
	t.wg.Wait()
}

// Track sends trackers what they lack of a study's runs, or of one run. What o names goes before what the runs'
// configurations name. say gets a line for each run.
func Track(ctx context.Context, path string, o TrackConfig, say func(format string, args ...any)) error {
	if err := o.validate(); err != nil {
		return err
	}
	runs := []string{path}
	if _, err := runConfig(path); errors.Is(err, os.ErrNotExist) {
		if runs, err = runsOf(path); err != nil {
			return err
		}
	}
	tracked := 0
	for _, dir := range runs {
		n, err := trackRun(ctx, dir, o, say)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		tracked += n
	}
	if tracked == 0 {
		return fmt.Errorf("%s: no run to track; give the directory of a study (runs/<study>), and --mlflow or --wandb where its runs have no tracker", path)
	}
	return nil
}

func trackRun(ctx context.Context, path string, o TrackConfig, say func(format string, args ...any)) (trackers int, err error) {
	c, err := runConfig(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if o.MLflow != "" {
		c.Track.MLflow = o.MLflow
	}
	if o.WandB != "" {
		c.Track.WandB = o.WandB
	}
	if c.Track == (TrackConfig{}) {
		return 0, nil
	}
	dir, err := OpenRun(path)
	if errors.Is(err, ErrLocked) {
		say("%s: at work; its own process tracks it", filepath.Base(path))
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	run := tracked{path, c, dir.Manifest}
	state := dir.Manifest.State
	if state == Running {
		state = Pending // killed: its lock is free
	}
	if c.Track.MLflow != "" {
		m := newMLflowRun(newMLflow(c.Track.MLflow), run)
		if err := m.upload(ctx, state); err != nil {
			return 0, fmt.Errorf("mlflow: %w", err)
		}
		say("%s: mlflow has step %d, %d of its steps are new; %s", filepath.Base(path), m.last, m.sent, m.status)
	}
	if c.Track.WandB != "" {
		var failure error
		w := &wandbRun{run: run, tail: tail{dir: path}, note: func(err error) { failure = err }}
		if !w.complete() || dir.Manifest.State == Running {
			w.close(state)
		}
		if failure != nil {
			return 0, fmt.Errorf("wandb: %w", failure)
		}
		say("%s: wandb sync %s", filepath.Base(path), w.path())
	}
	return 1, nil
}

// timedStep is a step and when it was logged.
type timedStep struct {
	Step
	at time.Time
}

// tail follows a run's metrics.jsonl, which after the first step of an attempt only grows.
type tail struct {
	dir    string
	offset int64
}

// next reads the steps that were logged since the last call.
func (t *tail) next() ([]timedStep, error) {
	steps, next, err := readMetricsFrom(filepath.Join(t.dir, "metrics.jsonl"), t.offset)
	if err != nil {
		return nil, err
	}
	var times map[int]time.Time
	if t.offset == 0 { // most were logged earlier, perhaps by another process
		times = stepTimes(t.dir)
	}
	t.offset = next
	now, timed := time.Now(), make([]timedStep, len(steps))
	for i, s := range steps {
		timed[i] = timedStep{s, now}
		if at, ok := times[s.Step]; ok {
			timed[i].at = at
		}
	}
	return timed, nil
}

// stepTimes is when each step was logged, as the events for TensorBoard have it. What cannot be read is left out.
func stepTimes(dir string) map[int]time.Time {
	times := map[int]time.Time{}
	files, _ := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	slices.Sort(files) // by their time: the last attempt at a step counts
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		for len(raw) >= 16 {
			n := binary.LittleEndian.Uint64(raw)
			if n > uint64(len(raw)-16) {
				break
			}
			step, at := 0, 0.0
			for data := raw[12 : 12+n]; len(data) > 0; {
				num, kind, k := protowire.ConsumeTag(data)
				if k < 0 {
					break
				}
				value := data[k:]
				switch {
				case num == eventTime && kind == protowire.Fixed64Type:
					bits, _ := protowire.ConsumeFixed64(value)
					at = math.Float64frombits(bits)
				case num == eventStep && kind == protowire.VarintType:
					v, _ := protowire.ConsumeVarint(value)
					step = int(v)
				}
				if n := protowire.ConsumeFieldValue(num, kind, value); n >= 0 {
					data = value[n:]
				} else {
					break
				}
			}
			if at > 0 {
				times[step] = time.UnixMicro(int64(at * 1e6))
			}
			raw = raw[16+n:]
		}
	}
	return times
}
