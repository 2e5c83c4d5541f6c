package experiments

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.yaml.in/yaml/v3"
)

// mlflowServer is an MLflow tracking server, by its REST API 2.0.
type mlflowServer struct {
	api                   string
	http                  http.Client
	user, password, token string
}

const mlflowTimeout = 10 * time.Second // of one request

// newMLflow takes who we are from the environment, as MLflow's own clients do.
func newMLflow(address string) *mlflowServer {
	return &mlflowServer{
		api: strings.TrimSuffix(address, "/") + "/api/2.0/mlflow/", http: http.Client{Timeout: mlflowTimeout},
		user: os.Getenv("MLFLOW_TRACKING_USERNAME"), password: os.Getenv("MLFLOW_TRACKING_PASSWORD"), token: os.Getenv("MLFLOW_TRACKING_TOKEN"),
	}
}

// host is the server's address, for messages.
func (s *mlflowServer) host() string { return strings.TrimSuffix(s.api, "/api/2.0/mlflow/") }

// mlflowError is what a server answers that refuses.
type mlflowError struct {
	status  string
	Code    string `json:"error_code"`
	Message string `json:"message"`
}

func (e *mlflowError) Error() string {
	line := e.status
	if e.Message != "" {
		line += fmt.Sprintf(": %.300s", strings.Join(strings.Fields(e.Message), " "))
	}
	if strings.HasPrefix(e.status, "401") || strings.HasPrefix(e.status, "403") {
		line += " (set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
	}
	return line
}

// unavailable is a failure that may pass.
type unavailable struct{ error }

func (e unavailable) Unwrap() error { return e.error }

// call makes one request, with a body or, for a GET, a query.
func (s *mlflowServer) call(ctx context.Context, method, name string, in, out any) error {
	address, body := s.api+name, []byte(nil)
	if query, ok := in.(url.Values); ok {
		address += "?" + query.Encode()
	} else {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if s.user != "" && s.password != "" {
		req.SetBasicAuth(s.user, s.password)
	} else if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	res, err := s.http.Do(req)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) { // the address of a call says less than the host, which the rest names
			err = at.Err
		}
		return unavailable{err}
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return unavailable{fmt.Errorf("the answer broke off: %w", err)}
	}
	if res.StatusCode != http.StatusOK {
		refusal := &mlflowError{status: res.Status}
		_ = json.Unmarshal(raw, refusal) // not JSON: a proxy's page
		if code := res.StatusCode; code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout {
			return unavailable{refusal}
		}
		return refusal
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s is no MLflow server: %w", s.host(), err)
	}
	return nil
}

type (
	mlflowPair struct { // a parameter or a tag
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	mlflowMetric struct {
		Key       string  `json:"key"`
		Value     float64 `json:"value"`
		Timestamp int64   `json:"timestamp"` // milliseconds
		Step      int     `json:"step"`
	}
	mlflowBatch struct {
		RunID   string         `json:"run_id"`
		Metrics []mlflowMetric `json:"metrics,omitempty"`
		Params  []mlflowPair   `json:"params,omitempty"`
		steps   int            // of metrics
	}
	// mlflowFound is a run as the server has it; of the metrics it has the newest values.
	mlflowFound struct {
		Info struct {
			ID     string `json:"run_id"`
			Status string `json:"status"`
		} `json:"info"`
		Data struct {
			Metrics []struct {
				Key  string      `json:"key"`
				Step json.Number `json:"step"` // absent for 0
			} `json:"metrics"`
			Params []mlflowPair `json:"params"`
		} `json:"data"`
	}
)

// What a log-batch may hold, and how long names and values may be.
const (
	mlflowMetricsMax, mlflowParamsMax          = 1000, 100
	mlflowKeyMax, mlflowValueMax, mlflowTagMax = 250, 6000, 5000
)

// mlflowRun brings a run on the server up to what the run's directory holds. What the server lacks it asks the server, so
// that nothing is sent twice and nothing is lost, whichever process died when.
type mlflowRun struct {
	server *mlflowServer
	run    tracked
	tail   tail
	note   func(error)
	waits  backoff.BackOff

	id      string // of the run on the server, once it is found or made
	status  string
	last    int // the last step that the server has
	sent    int // steps
	final   map[string]bool
	pending []mlflowBatch // a batch that is tried again keeps its times, by which the server knows it

	wake   chan struct{}
	closed chan State
}

func newMLflowRun(s *mlflowServer, run tracked) *mlflowRun {
	waits := backoff.NewExponentialBackOff() // half a second to a minute
	return &mlflowRun{server: s, run: run, tail: tail{dir: run.dir}, waits: waits, last: -1, final: map[string]bool{}, wake: make(chan struct{}, 1), closed: make(chan State, 1)}
}

func (m *mlflowRun) advance() {
	select {
	case m.wake <- struct{}{}:
	default: // awake already
	}
}

func (m *mlflowRun) close(state State) { m.closed <- state }

const (
	mlflowEvery = time.Second // at most one upload in this time
	mlflowTries = 3           // failures until a note; and at a command's end, until it goes without
)

// loop uploads until the run has ended and the server has it all, ctx is done, or the server refuses. After ending is
// closed it gives up soon.
func (m *mlflowRun) loop(ctx context.Context, ending <-chan struct{}) {
	state, logged, failures, last := Running, false, 0, 0
	cause := fmt.Errorf("%s does not answer", m.server.host())
	for {
		err := Guard(func() error { return m.sync(ctx, state, logged) })
		if err == nil {
			failures = 0
			m.waits.Reset()
			if state != Running {
				return
			}
			select {
			case <-m.wake:
				logged = true
			case state = <-m.closed:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(mlflowEvery):
			case state = <-m.closed:
			case <-ending:
			}
			continue
		}
		failures++
		if ctx.Err() == nil {
			cause = err
		}
		temporary := errors.As(err, new(unavailable))
		if !temporary || failures == mlflowTries || ctx.Err() != nil || last == mlflowTries {
			m.note(cause)
		}
		if !temporary || ctx.Err() != nil || last == mlflowTries {
			return
		}
		wait := m.waits.NextBackOff()
		select {
		case <-ending:
			last++
			wait = min(wait, 300*time.Millisecond)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		default:
			select {
			case <-time.After(wait):
			case state = <-m.closed:
			case <-ending:
			case <-ctx.Done():
			}
		}
		select {
		case state = <-m.closed:
		default:
		}
		select {
		case <-m.wake:
			logged = true
		default:
		}
	}
}

// upload is one sync of a run that has ended, tried again for a while.
func (m *mlflowRun) upload(ctx context.Context, state State) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := m.sync(ctx, state, true)
		if err != nil && !errors.As(err, new(unavailable)) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxTries(mlflowTries+1), backoff.WithBackOff(m.waits))
	return err
}

// sync sends what the server lacks. Until the run has logged a step, its log is that of an earlier attempt, which may yet be
// cut back.
func (m *mlflowRun) sync(ctx context.Context, state State, logged bool) error {
	if m.id == "" {
		if err := m.attach(ctx); err != nil {
			return err
		}
	}
	if err := m.flush(ctx); err != nil {
		return err
	}
	if state == Running && m.status != "RUNNING" {
		if err := m.update(ctx, "RUNNING", time.Time{}); err != nil { // resumed
			return err
		}
	}
	if !logged && state == Running {
		return nil
	}
	steps, err := m.tail.next()
	if err != nil {
		return err
	}
	m.pending = m.batches(steps)
	if err := m.flush(ctx); err != nil || state == Running {
		return err
	}
	return m.finish(ctx, state)
}

// attach finds the run on the server, or makes it. A run directory that was deleted and begun again is another run: its start
// tells it apart.
func (m *mlflowRun) attach(ctx context.Context) error {
	experiment, err := m.experiment(ctx)
	if err != nil {
		return err
	}
	c, manifest := m.run.config, m.run.manifest
	started := manifest.Started.UTC().Format(time.RFC3339)
	var found struct {
		Runs []mlflowFound `json:"runs"`
	}
	err = m.server.call(ctx, http.MethodPost, "runs/search", map[string]any{
		"experiment_ids": []string{experiment}, "max_results": 1,
		"filter": fmt.Sprintf("tags.hash = '%s' and tags.`gobpo.started` = '%s'", manifest.Hash, started),
	}, &found)
	if err != nil {
		return err
	}
	var run mlflowFound
	if len(found.Runs) > 0 {
		run = found.Runs[0]
	} else {
		var made struct {
			Run mlflowFound `json:"run"`
		}
		err := m.server.call(ctx, http.MethodPost, "runs/create", map[string]any{
			"experiment_id": experiment, "run_name": cut(m.run.name(), mlflowKeyMax), "start_time": manifest.Started.UnixMilli(),
			"tags": []mlflowPair{
				{"method", cut(manifest.Method, mlflowTagMax)}, {"hash", manifest.Hash},
				{"gobpo.run", c.Study + "/" + manifest.Hash}, {"gobpo.started", started},
			},
		}, &made)
		if err != nil {
			return err
		}
		run = made.Run
	}
	if run.Info.ID == "" {
		return fmt.Errorf("%s is no MLflow server: it gave a run without an id", m.server.host())
	}
	for _, metric := range run.Data.Metrics {
		if strings.HasPrefix(metric.Key, "final/") {
			m.final[metric.Key] = true
			continue
		}
		step, _ := metric.Step.Int64()
		m.last = max(m.last, int(step))
	}
	params, err := flatParams(c)
	if err != nil {
		return err
	}
	params = slices.DeleteFunc(params, func(p mlflowPair) bool { // a parameter can't be given twice
		return slices.ContainsFunc(run.Data.Params, func(has mlflowPair) bool { return has.Key == p.Key })
	})
	m.id, m.status = run.Info.ID, run.Info.Status
	for chunk := range slices.Chunk(params, mlflowParamsMax) {
		m.pending = append(m.pending, mlflowBatch{RunID: m.id, Params: chunk})
	}
	return nil
}

// experiment is the id of the study's experiment, made if need be.
func (m *mlflowRun) experiment(ctx context.Context) (string, error) {
	name := m.run.config.Study
	var got struct {
		Experiment struct {
			ID    string `json:"experiment_id"`
			Stage string `json:"lifecycle_stage"`
		} `json:"experiment"`
		ID string `json:"experiment_id"`
	}
	for range 2 {
		err := m.server.call(ctx, http.MethodGet, "experiments/get-by-name", url.Values{"experiment_name": {name}}, &got)
		var refusal *mlflowError
		if errors.As(err, &refusal) && refusal.Code == "RESOURCE_DOES_NOT_EXIST" {
			err = m.server.call(ctx, http.MethodPost, "experiments/create", map[string]string{"name": name}, &got)
			if errors.As(err, &refusal) && refusal.Code == "RESOURCE_ALREADY_EXISTS" {
				continue // another trial of the study was faster
			}
			return got.ID, err
		}
		if err == nil && got.Experiment.Stage == "deleted" {
			err = fmt.Errorf("the experiment %s is deleted on the server; restore it there", name)
		}
		return got.Experiment.ID, err
	}
	return "", unavailable{fmt.Errorf("the experiment %s comes and goes", name)}
}

// batches packs the steps that the server lacks. One that takes a request to itself may be cut, no other.
func (m *mlflowRun) batches(steps []timedStep) (all []mlflowBatch) {
	last := m.last
	var b mlflowBatch
	for _, s := range steps {
		if s.Step.Step <= last {
			continue
		}
		last = s.Step.Step
		metrics := make([]mlflowMetric, 0, len(s.Values))
		for _, k := range slices.Sorted(maps.Keys(s.Values)) {
			metrics = append(metrics, mlflowMetric{cut(k, mlflowKeyMax), s.Values[k], s.at.UnixMilli(), last})
		}
		if len(b.Metrics)+len(metrics) > mlflowMetricsMax && len(b.Metrics) > 0 {
			all, b = append(all, b), mlflowBatch{}
		}
		for len(metrics) > mlflowMetricsMax {
			all = append(all, mlflowBatch{RunID: m.id, Metrics: metrics[:mlflowMetricsMax]})
			metrics = metrics[mlflowMetricsMax:]
		}
		b = mlflowBatch{RunID: m.id, Metrics: append(b.Metrics, metrics...), steps: b.steps + 1}
	}
	if len(b.Metrics) > 0 {
		all = append(all, b)
	}
	return all
}

func (m *mlflowRun) flush(ctx context.Context) error {
	for len(m.pending) > 0 {
		b := m.pending[0]
		if err := m.server.call(ctx, http.MethodPost, "runs/log-batch", b, new(struct{})); err != nil {
			return err
		}
		if n := len(b.Metrics); n > 0 {
			m.last = max(m.last, b.Metrics[n-1].Step)
		}
		m.sent += b.steps
		m.pending = m.pending[1:]
	}
	return nil
}

// finish sends the result and how the run ended.
func (m *mlflowRun) finish(ctx context.Context, state State) error {
	manifest, err := ReadManifest(m.run.dir)
	if err != nil {
		return err
	}
	status, ended := map[State]string{Done: "FINISHED", Failed: "FAILED"}[state], manifest.Finished
	if status == "" {
		status = "KILLED"
	}
	if ended.IsZero() {
		ended = time.Now()
	}
	if state == Done {
		final, err := m.run.final()
		if err != nil {
			return err
		}
		b := mlflowBatch{RunID: m.id}
		for _, k := range slices.Sorted(maps.Keys(final)) {
			if !m.final[k] {
				m.final[k] = true
				b.Metrics = append(b.Metrics, mlflowMetric{k, final[k], ended.UnixMilli(), m.run.config.Steps})
			}
		}
		if len(b.Metrics) > 0 {
			m.pending = []mlflowBatch{b}
			if err := m.flush(ctx); err != nil {
				return err
			}
		}
	}
	if m.status == status {
		return nil
	}
	return m.update(ctx, status, ended)
}

func (m *mlflowRun) update(ctx context.Context, status string, ended time.Time) error {
	in := map[string]any{"run_id": m.id, "status": status}
	if !ended.IsZero() {
		in["end_time"] = ended.UnixMilli()
	}
	if err := m.server.call(ctx, http.MethodPost, "runs/update", in, new(struct{})); err != nil {
		return err
	}
	m.status = status
	return nil
}

// flatParams are the keys of a resolved configuration, dotted, in order.
func flatParams(c Config) (params []mlflowPair, err error) {
	c.Track = TrackConfig{}
	raw, err := c.YAML()
	if err != nil {
		return nil, err
	}
	var t tree
	if err := yaml.Unmarshal(raw, &t); err != nil {
		return nil, err
	}
	var walk func(key string, v any)
	walk = func(key string, v any) {
		if section, ok := v.(tree); ok && validNames(section) {
			for _, k := range slices.Sorted(maps.Keys(section)) {
				walk(strings.TrimPrefix(key+"."+k, "."), section[k])
			}
			return
		}
		if text := showValue(v); v != nil && text != "" {
			params = append(params, mlflowPair{cut(key, mlflowKeyMax), cut(text, mlflowValueMax)})
		}
	}
	walk("", t)
	return params, nil
}

var mlflowName = regexp.MustCompile(`^[\w.\-/ ]+$`)

// validNames says whether MLflow takes the keys as names. The patterns of lora.rank_pattern are none: they stay one value.
func validNames(section tree) bool {
	for k := range section {
		if !mlflowName.MatchString(k) || path.Clean(k) != k || strings.HasPrefix(k, "/") || strings.HasPrefix(k, ".") {
			return false
		}
	}
	return true
}

// cut shortens text to so many bytes, at a letter.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
