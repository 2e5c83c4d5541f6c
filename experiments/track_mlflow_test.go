package experiments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mlflowCommand is how to run MLflow here; the test skips where there is none.
func mlflowCommand(t *testing.T) []string {
	t.Helper()
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		python = "python3"
	}
	if exec.Command(python, "-c", "import mlflow.server").Run() == nil {
		return []string{python, "-m", "mlflow"}
	}
	if path, err := exec.LookPath("mlflow"); err == nil {
		return []string{path}
	}
	t.Skipf("%s cannot import mlflow, and none is in PATH (PATH=$(tools/peer/mlflow):$PATH)", python)
	return nil
}

// freeAddress is an address of this machine where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// startMLflow runs a real server with an empty store until the test ends.
func startMLflow(t *testing.T, command []string, address string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := append(command[1:], "server", "--host", "127.0.0.1", "--port", u.Port(), "--workers", "1", "--backend-store-uri", "sqlite:///"+filepath.Join(dir, "store.db"), "--artifacts-destination", filepath.Join(dir, "artifacts"))
	cmd := exec.Command(command[0], args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its workers end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if res, err := http.Get(address + "/health"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			raw, _ := os.ReadFile(log.Name())
			t.Fatalf("mlflow does not come up:\n%s", raw)
		}
	}
}

// mlflowHas is what a server has of an experiment.
type mlflowHas struct {
	Info struct {
		ID     string      `json:"run_id"`
		Name   string      `json:"run_name"`
		Status string      `json:"status"`
		Start  json.Number `json:"start_time"`
		End    json.Number `json:"end_time"`
	} `json:"info"`
	Data struct {
		Params, Tags []mlflowPair
		Metrics      []struct{ Key string }
	} `json:"data"`
}

func askMLflow(t *testing.T, address, study string) []mlflowHas {
	t.Helper()
	s := newMLflow(address)
	var e struct {
		Experiment struct {
			ID string `json:"experiment_id"`
		}
	}
	if err := s.call(t.Context(), http.MethodGet, "experiments/get-by-name", url.Values{"experiment_name": {study}}, &e); err != nil {
		t.Fatal(err)
	}
	var found struct{ Runs []mlflowHas }
	if err := s.call(t.Context(), http.MethodPost, "runs/search", map[string]any{"experiment_ids": []string{e.Experiment.ID}}, &found); err != nil {
		t.Fatal(err)
	}
	return found.Runs
}

// history is a metric's values by step, as "step:value" in the order of the server.
func mlflowHistory(t *testing.T, address, id, metric string) (values []string, times []int64) {
	t.Helper()
	var got struct {
		Metrics []struct {
			Step, Timestamp json.Number
			Value           float64
		}
	}
	if err := newMLflow(address).call(t.Context(), http.MethodGet, "metrics/get-history", url.Values{"run_id": {id}, "metric_key": {metric}}, &got); err != nil {
		t.Fatal(err)
	}
	for _, m := range got.Metrics {
		at, _ := m.Timestamp.Int64()
		values, times = append(values, fmt.Sprintf("%s:%g", m.Step, m.Value)), append(times, at)
	}
	slices.Sort(values)
	return values, times
}

func pairs(list []mlflowPair) map[string]string {
	m := map[string]string{}
	for _, p := range list {
		m[p.Key] = p.Value
	}
	return m
}

const mlflowYAML = taskYAML + `
lora: {rank_pattern: {'layers\.(0|1)\..*': 3}}
sweep: {grid: {seed: [0, 1, 2]}}
`

// A real server: absent while the first trial runs and brought up to date later; a run that fails and is resumed; one that is
// interrupted.
func TestMLflow(t *testing.T) {
	command := mlflowCommand(t)
	address, out := freeAddress(t), t.TempDir()
	trials, msg := load(t, mlflowYAML, []string{"track.mlflow=" + address}, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	ui := &notes{}
	began := time.Now()
	dir, _, err := RunOne(t.Context(), trials[0], out, loggingRun(1, 3, nil), ui)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("without a server a run of no time took %s", took)
	}
	if len(ui.lines) != 1 || !strings.Contains(ui.lines[0], "connection refused; the metrics stay in metrics.jsonl") {
		t.Errorf("notes %q", ui.lines)
	}
	study := filepath.Dir(dir)
	say := func(string, ...any) {}

	startMLflow(t, command, address)
	for range 2 { // the second time the server lacks nothing
		if err := Track(t.Context(), study, TrackConfig{}, say); err != nil {
			t.Fatal(err)
		}
	}
	runs := askMLflow(t, address, "s")
	if len(runs) != 1 {
		t.Fatalf("%d runs", len(runs))
	}
	run, tags, params := runs[0], pairs(runs[0].Data.Tags), pairs(runs[0].Data.Params)
	if run.Info.Status != "FINISHED" || run.Info.Name != "seed=0" || run.Info.End == "" {
		t.Errorf("%+v", run.Info)
	}
	if tags["hash"] != trials[0].Hash || tags["gobpo.run"] != "s/"+trials[0].Hash || tags["method"] != trials[0].Config.Method() {
		t.Errorf("tags %v", tags)
	}
	want, err := flatParams(trials[0].Config)
	if err != nil || !reflect.DeepEqual(params, pairs(want)) || params["loss.beta"] != "0.1" || params["lora.rank_pattern"] != `{"layers\\.(0|1)\\..*":3}` {
		t.Errorf("params %v, %v", params, err)
	}
	if got, times := mlflowHistory(t, address, run.Info.ID, "rewards/chosen"); !reflect.DeepEqual(got, []string{"1:0.5", "2:1", "3:1.5"}) || time.UnixMilli(times[0]).Sub(began).Abs() > 5*time.Second {
		t.Errorf("rewards/chosen %q at %v", got, times)
	}
	if got, _ := mlflowHistory(t, address, run.Info.ID, "final/eval/win_rate"); !reflect.DeepEqual(got, []string{"8:0.75"}) {
		t.Errorf("final %q", got)
	}

	state := func(name string) (string, string) {
		for _, r := range askMLflow(t, address, "s") {
			if r.Info.Name == name {
				return r.Info.Status, r.Info.ID
			}
		}
		return "", ""
	}
	if _, _, err := RunOne(t.Context(), trials[1], out, loggingRun(1, 2, errors.New("no luck")), ui); err == nil {
		t.Fatal("no error")
	}
	failed, first := state("seed=1")
	if _, _, err := RunOne(t.Context(), trials[1], out, loggingRun(2, 3, nil), ui); err != nil {
		t.Fatal(err)
	}
	if done, second := state("seed=1"); failed != "FAILED" || done != "FINISHED" || first != second {
		t.Errorf("%s run %s went on as %s run %s", failed, first, done, second)
	}
	if got, _ := mlflowHistory(t, address, first, "rewards/chosen"); !reflect.DeepEqual(got, []string{"1:0.5", "2:1", "3:1.5"}) {
		t.Errorf("after a resume: %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	interrupted := func(_ context.Context, tr Trial, dir *RunDir, ui UI) (Result, error) {
		defer cancel()
		return loggingRun(1, 2, context.Canceled)(ctx, tr, dir, ui)
	}
	if _, _, err := RunOne(ctx, trials[2], out, interrupted, ui); err == nil {
		t.Fatal("no error")
	}
	if killed, _ := state("seed=2"); killed != "KILLED" {
		t.Errorf("an interrupted run is %s", killed)
	}
	// A run directory that is deleted and begun anew is another run.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	if _, _, err := RunOne(t.Context(), trials[0], out, loggingRun(1, 1, nil), ui); err != nil {
		t.Fatal(err)
	}
	if n := len(askMLflow(t, address, "s")); n != 4 {
		t.Errorf("%d runs", n)
	}
	if len(ui.lines) != 1 {
		t.Errorf("notes %q", ui.lines)
	}
}

// fakeMLflow keeps one run, and may fail first.
type fakeMLflow struct {
	mu      sync.Mutex
	fail    func(w http.ResponseWriter, r *http.Request) bool // answers itself; nil: never
	lose    int                                               // answers to batches of metrics that never arrive
	calls   []string
	auth    string
	status  string
	metrics map[mlflowMetric]int
	batches []mlflowBatch
}

func (f *fakeMLflow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/")
	f.calls, f.auth = append(f.calls, name), r.Header.Get("Authorization")
	if f.fail != nil && f.fail(w, r) {
		return
	}
	answer := any(struct{}{})
	run := map[string]any{"info": map[string]any{"run_id": "R", "status": "RUNNING"}}
	switch name {
	case "experiments/get-by-name":
		answer = map[string]any{"experiment": map[string]any{"experiment_id": "7"}}
	case "runs/create":
		answer = map[string]any{"run": run}
	case "runs/log-batch":
		var b mlflowBatch
		_ = json.NewDecoder(r.Body).Decode(&b)
		f.batches = append(f.batches, b)
		for _, m := range b.Metrics {
			f.metrics[m]++
		}
		if len(b.Metrics) > 0 && f.lose > 0 {
			f.lose--
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	case "runs/update":
		var u struct{ Status string }
		_ = json.NewDecoder(r.Body).Decode(&u)
		f.status = u.Status
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// trackedRun runs 3 steps against a server with faults.
func trackedRun(t *testing.T, f *fakeMLflow) (lines []string, took time.Duration) {
	t.Helper()
	f.metrics = map[mlflowMetric]int{}
	server := httptest.NewServer(f)
	defer server.Close()
	trials, msg := load(t, taskYAML, []string{"track.mlflow=" + server.URL}, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	ui, began := &notes{}, time.Now()
	if _, _, err := RunOne(t.Context(), trials[0], t.TempDir(), loggingRun(1, 3, nil), ui); err != nil {
		t.Fatal(err)
	}
	took = time.Since(began)
	server.CloseClientConnections()
	return ui.lines, took
}

func TestMLflowFailsForAWhile(t *testing.T) {
	left := 1
	f := &fakeMLflow{lose: 1, fail: func(w http.ResponseWriter, _ *http.Request) bool {
		if left--; left >= 0 {
			http.Error(w, "<html>busy</html>", http.StatusServiceUnavailable)
		}
		return left >= 0
	}}
	lines, _ := trackedRun(t, f)
	if len(lines) != 0 || f.status != "FINISHED" {
		t.Errorf("notes %q, %s", lines, f.status)
	}
	// 3 steps of 2 metrics and the result; those sent twice are the same to the millisecond, which the server knows.
	if len(f.metrics) != 7 {
		t.Errorf("%v", slices.Collect(maps.Keys(f.metrics)))
	}
}

func TestMLflowFails(t *testing.T) {
	was := trackPatience
	trackPatience = 300 * time.Millisecond
	defer func() { trackPatience = was }()
	t.Setenv("MLFLOW_TRACKING_TOKEN", "s3cret")
	release := make(chan struct{})
	for name, c := range map[string]struct {
		fail func(w http.ResponseWriter, r *http.Request) bool
		want string
	}{
		"500": {func(w http.ResponseWriter, _ *http.Request) bool { http.Error(w, "oops", 500); return true }, "mlflow: 500 Internal Server Error; the metrics stay in metrics.jsonl, and bpo track "},
		"401": {func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "who?", http.StatusUnauthorized)
			return true
		}, "mlflow: 401 Unauthorized (set MLFLOW_TRACKING_TOKEN, or "},
		"400": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(400)
			fmt.Fprint(w, `{"error_code": "INVALID_PARAMETER_VALUE", "message": "no\nsuch"}`)
			return true
		}, "mlflow: 400 Bad Request: no such; "},
		"page": {func(w http.ResponseWriter, _ *http.Request) bool { fmt.Fprint(w, "<html>"); return true }, " is no MLflow server: "},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-r.Context().Done():
			case <-release:
			}
			return true
		}, " does not answer; the metrics stay"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeMLflow{fail: c.fail}
			lines, took := trackedRun(t, f)
			if len(lines) != 1 || !strings.Contains(lines[0], c.want) || strings.Contains(lines[0], "s3cret") {
				t.Errorf("notes %q, want %q", lines, c.want)
			}
			if took > 3*time.Second {
				t.Errorf("a run of no time took %s", took)
			}
			if f.auth != "Bearer s3cret" {
				t.Errorf("authorization %q", f.auth)
			}
		})
	}
	close(release)
}

// A training's steps don't wait for a server that doesn't answer.
func TestMLflowIsNotWaitedFor(t *testing.T) {
	m := newMLflowRun(newMLflow(freeAddress(t)), tracked{dir: t.TempDir()})
	began := time.Now()
	for range 100_000 {
		m.advance()
	}
	m.close(Done)
	if took := time.Since(began); took > time.Second {
		t.Errorf("100,000 steps took %s", took)
	}
}

func TestMLflowBatches(t *testing.T) {
	m := newMLflowRun(newMLflow("http://x"), tracked{})
	m.last = 1
	var steps []timedStep
	for step := range 60 {
		values := map[string]float64{}
		for i := range 40 {
			values[fmt.Sprintf("m%02d", i)] = 1
		}
		if step == 50 { // more than a request holds
			for i := range 2100 {
				values[fmt.Sprintf("n%04d", i)] = 1
			}
		}
		steps = append(steps, timedStep{Step{step, values}, time.Now()})
	}
	n, whole, seen := 0, 0, -1
	for _, b := range m.batches(steps) {
		if len(b.Metrics) > mlflowMetricsMax {
			t.Errorf("a batch of %d", len(b.Metrics))
		}
		n, whole = n+len(b.Metrics), whole+b.steps
		if first := b.Metrics[0].Step; first < seen || first == seen && first != 50 {
			t.Errorf("step %d is in two batches", first)
		}
		seen = b.Metrics[len(b.Metrics)-1].Step
	}
	if want := 58*40 + 2100; n != want || whole != 58 {
		t.Errorf("%d metrics of %d steps, want %d", n, whole, want)
	}
}
