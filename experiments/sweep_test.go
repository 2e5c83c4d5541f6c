package experiments

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gobpo/data"
)

const sweepYAML = taskYAML + `
sweep:
  grid:
    refresh: [1, 2, 4, 8]
    reference: [sft, behavior]
    loss.beta: [0.1, 0.5]
    seed: [0, 1, 2]
`

// silent is a UI that counts.
type silent struct {
	mu       sync.Mutex
	finished []string
	done     int
}

func (s *silent) Start(_, done, _ int)            { s.done = done }
func (s *silent) Trial(string) UI                 { return s }
func (s *silent) Close()                          {}
func (s *silent) Doing(string, int, int)          {}
func (s *silent) Step(int, map[string]float64)    {}
func (s *silent) Note(format string, args ...any) {}
func (s *silent) Finished(name string, state State, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = append(s.finished, string(state)+" "+name)
}

// fakeRun writes what a real run does, with made-up numbers that follow the configuration.
func fakeRun(_ context.Context, t Trial, dir *RunDir, ui UI) (Result, error) {
	c := t.Config
	rng := rand.New(rand.NewPCG(c.Seed, uint64(c.K())))
	log, err := OpenMetrics(filepath.Join(dir.Path, "metrics.jsonl"))
	if err != nil {
		return Result{}, err
	}
	defer log.Close()
	gain := 0.1 + 0.06*math.Log2(float64(c.Phases()))
	if c.Reference == "behavior" {
		gain *= 1.4
	}
	gain += 0.02 * rng.NormFloat64()
	for s := 1; s <= c.Steps; s++ {
		x := float64(s) / float64(c.Steps)
		if err := log.Append(s, map[string]float64{"loss": 0.69 - 0.3*x + 0.01*rng.NormFloat64(), "rewards/margins": x / c.Loss.Beta, "rewards/accuracies": 0.5 + 0.3*x, "kl/initial": 2 * x, "eval/win_rate": 0.3 + gain*x}); err != nil {
			return Result{}, err
		}
		if (s-1)%c.K() == 0 {
			if err := log.Append(s, map[string]float64{"collect/prompts": float64(c.K() * c.BatchSize)}); err != nil {
				return Result{}, err
			}
		}
	}
	win := 0.3 + gain
	score := 0.5
	rows, outcomes := []data.Completion{}, []float64{}
	for i := range 8 {
		outcomes = append(outcomes, float64(rng.IntN(3))/2)
		rows = append(rows, data.Completion{ID: fmt.Sprint(i), PromptID: fmt.Sprint(i), Prompt: "Ben wants tea & <b>jam</b>.", Reference: "Packed: tea.", Text: "For Ben: tea and jam. Enjoy!", Score: &score})
	}
	if err := data.Write(filepath.Join(dir.Path, "samples", "final.parquet"), rows, nil); err != nil {
		return Result{}, err
	}
	return Result{
		Outcomes:   outcomes,
		Initial:    map[string]float64{"eval/win_rate": 0.3, "eval/length": 9.5, "eval/score": 0.41},
		InitialDir: "0",
		Final:      map[string]float64{"eval/win_rate": win, "eval/win_rate_low": win - 0.05, "eval/win_rate_high": win + 0.05, "kl/initial": 12 * gain * (0.5 + 0.05/c.Loss.Beta), "eval/length": 10, "eval/score": 0.5 + gain},
	}, nil
}

func trialsOf(t *testing.T, text string) []Trial {
	t.Helper()
	trials, msg := load(t, text, nil, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	return trials
}

func TestSweepRunsOnlyWhatIsMissingOrFailed(t *testing.T) {
	trials, out := trialsOf(t, sweepYAML), t.TempDir()
	var mu sync.Mutex
	ran := map[string]int{}
	broken := true
	run := func(ctx context.Context, tr Trial, dir *RunDir, ui UI) (Result, error) {
		mu.Lock()
		ran[tr.Hash]++
		mu.Unlock()
		if broken && tr.Config.Loss.Beta == 0.5 && tr.Config.Seed == 2 {
			if tr.Config.K() == 1 {
				panic("shapes do not match\ngoroutine 1")
			}
			return Result{}, errors.New("no luck")
		}
		return fakeRun(ctx, tr, dir, ui)
	}
	ui := &silent{}
	failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Jobs: 3, Run: run, UI: ui})
	if err != nil {
		t.Fatal(err)
	}
	// 48 trials; at F=1 the two references are one run: 6 fewer. Of the 7 runs with β = 0.5 and seed 2 all fail.
	if len(ran) != 42 || len(ui.finished) != 42 || failed != 7 {
		t.Fatalf("%d runs, %d finished, %d failed", len(ran), len(ui.finished), failed)
	}
	for hash, n := range ran {
		if n != 1 {
			t.Errorf("%s ran %d times", hash, n)
		}
	}
	table, err := MakeTable(out, trials)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 16 {
		t.Fatalf("%d rows", len(table.Rows))
	}
	for _, r := range table.Rows {
		want := Row{Seeds: 3}
		if r.Point["loss.beta"] == 0.5 {
			want = Row{Seeds: 2, Failed: 1}
		}
		if r.Seeds != want.Seeds || r.Failed != want.Failed {
			t.Errorf("%v: %d seeds, %d failed", r.Point, r.Seeds, r.Failed)
		}
	}
	for _, tr := range trials {
		if tr.Config.Loss.Beta == 0.5 && tr.Config.Seed == 2 && tr.Config.K() == 1 {
			m, err := ReadManifest(filepath.Join(StudyDir(out, tr.Config), tr.Hash))
			if err != nil || m.State != Failed || m.Error != "internal error: shapes do not match" {
				t.Errorf("a panic: %+v, %v", m, err)
			}
		}
	}

	if failed, err = Sweep(t.Context(), trials, SweepOptions{Out: out, Retry: false, Run: run, UI: &silent{}}); failed != 7 || err != nil {
		t.Errorf("without retry %d stay failed, %v", failed, err)
	}
	broken, ran = false, map[string]int{}
	ui = &silent{}
	if failed, err = Sweep(t.Context(), trials, SweepOptions{Out: out, Retry: true, Run: run, UI: ui}); failed != 0 || err != nil || len(ran) != 7 || ui.done != 35 {
		t.Errorf("retry: %d failed, %v, %d ran, %d were done", failed, err, len(ran), ui.done)
	}
	ran = map[string]int{}
	if _, err = Sweep(t.Context(), trials, SweepOptions{Out: out, Retry: true, Run: run, UI: &silent{}}); err != nil || len(ran) != 0 {
		t.Errorf("nothing was left to do, but %d ran (%v)", len(ran), err)
	}
}

// A trial that another process is at is not failed: it is waited for, and taken over where that process left it undone.
func TestSweepWaitsForTrialsAtWorkElsewhere(t *testing.T) {
	trials, out := trialsOf(t, sweepYAML)[:3], t.TempDir()
	held, err := OpenRun(filepath.Join(StudyDir(out, trials[0].Config), trials[0].Hash))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	var ran []string
	run := func(ctx context.Context, tr Trial, dir *RunDir, ui UI) (Result, error) {
		if ran = append(ran, tr.Hash); len(ran) == 2 {
			held.Close()
		}
		return fakeRun(ctx, tr, dir, ui)
	}
	ui := &silent{}
	failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: run, UI: ui})
	if err != nil || failed != 0 || len(ui.finished) != 3 {
		t.Fatalf("%d failed, %v, %q", failed, err, ui.finished)
	}
	if want := []string{trials[1].Hash, trials[2].Hash, trials[0].Hash}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
}

// What failed at another process's hands while this one waited has failed; the next sweep tries it again.
func TestSweepTakesFailuresElsewhere(t *testing.T) {
	trials, out := trialsOf(t, sweepYAML)[:2], t.TempDir()
	held, err := OpenRun(filepath.Join(StudyDir(out, trials[0].Config), trials[0].Hash))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ran := 0
	run := func(ctx context.Context, tr Trial, dir *RunDir, ui UI) (Result, error) {
		if ran++; ran == 1 {
			held.Manifest.State, held.Manifest.Attempts, held.Manifest.Error = Failed, 1, "no memory there"
			if err := errors.Join(held.Save(), held.Close()); err != nil {
				t.Error(err)
			}
		}
		return fakeRun(ctx, tr, dir, ui)
	}
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: run, UI: &silent{}}); err != nil || failed != 1 || ran != 1 {
		t.Errorf("%d ran, %d failed, %v", ran, failed, err)
	}
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: run, Retry: true, UI: &silent{}}); err != nil || failed != 0 || ran != 2 {
		t.Errorf("tried again: %d ran, %d failed, %v", ran, failed, err)
	}
}

func TestSweepStopsWhenCancelled(t *testing.T) {
	trials, out := trialsOf(t, sweepYAML), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	run := func(ctx context.Context, tr Trial, dir *RunDir, ui UI) (Result, error) {
		if n++; n == 3 {
			cancel()
			return Result{}, ctx.Err()
		}
		return fakeRun(ctx, tr, dir, ui)
	}
	failed, err := Sweep(ctx, trials, SweepOptions{Out: out, Run: run, UI: &silent{}})
	if !errors.Is(err, context.Canceled) || failed != 0 || n > 4 {
		t.Errorf("%d ran, %d failed, %v", n, failed, err)
	}
	m, err := ReadManifest(filepath.Join(StudyDir(out, trials[2].Config), trials[2].Hash))
	if err != nil || m.State != Pending {
		t.Errorf("the interrupted run is %s, %v", m.State, err)
	}
}

func TestRunDirectoryIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	a, err := OpenRun(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRun(path); !errors.Is(err, ErrLocked) || err.Error() != path+": another process is using this run directory" {
		t.Errorf("a second opening: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := OpenRun(path)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	b.Close()
	if os.Getuid() != 0 {
		dir := t.TempDir()
		os.Chmod(dir, 0o555)
		if _, err := OpenRun(filepath.Join(dir, "x")); err == nil || !strings.Contains(err.Error(), "run directory") {
			t.Errorf("unwritable: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, "manifest.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRun(path); err == nil || !strings.Contains(err.Error(), "manifest.json: unexpected end of JSON input") {
		t.Errorf("a cut manifest: %v", err)
	}
}

func TestSharedWorkIsDoneOnce(t *testing.T) {
	study := t.TempDir()
	var mu sync.Mutex
	builds := 0
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			dir, err := sharedWork(t.Context(), study, "key", &silent{}, func(dir string) error {
				mu.Lock()
				builds++
				mu.Unlock()
				return os.WriteFile(filepath.Join(dir, "x"), []byte("1"), 0o644)
			})
			if err != nil {
				t.Error(err)
			} else if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
	if _, err := sharedWork(t.Context(), study, "other", &silent{}, func(string) error { return errors.New("no") }); err == nil {
		t.Error("a failing build is no error")
	}
	if _, err := sharedWork(t.Context(), study, "other", &silent{}, func(string) error { return nil }); err != nil {
		t.Errorf("after a failure: %v", err)
	}
}

func TestReport(t *testing.T) {
	trials, out := trialsOf(t, sweepYAML), t.TempDir()
	if keep := os.Getenv("REPORT_DIR"); keep != "" {
		out = keep
	}
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: fakeRun, UI: &silent{}}); err != nil || failed != 0 {
		t.Fatal(failed, err)
	}
	study := StudyDir(out, trials[0].Config)
	table, err := MakeTable(out, trials)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Save(study); err != nil {
		t.Fatal(err)
	}
	path, err := Report(study, "")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	for _, want := range []string{"<svg", "Win rate over F", "tea &amp; &lt;b&gt;jam&lt;/b&gt;", "start policy", "BPO (DPO), F=8", "prefers-color-scheme", "<h2>Differences</h2>", "95 % over seeds"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, never := range []string{"http://", "https://", "<script", "ZgotmplZ", "NaN"} {
		if i := strings.Index(strings.ReplaceAll(page, "http://www.w3.org", ""), never); i >= 0 {
			t.Errorf("the page holds %q", never)
		}
	}
	t.Run("chromium", func(t *testing.T) { inChromium(t, page) })
	for _, name := range []string{"win-rate-over-f", "win-rate-over-kl", "win-rate-over-annotations", "training-beta-0.1", "training-beta-0.5"} {
		for _, ext := range []string{".png", ".svg"} {
			if info, err := os.Stat(filepath.Join(study, "figures", name+ext)); err != nil || info.Size() < 5000 {
				t.Errorf("%s%s: %v", name, ext, err)
			}
		}
	}
	// What a run measured anew is in the page, whatever the table was made of; one that is gone is told.
	dir := filepath.Join(study, table.Rows[0].Runs[0])
	r, err := ReadResult(dir)
	if err != nil {
		t.Fatal(err)
	}
	r.Final["eval/win_rate"] = 0.987
	for i := range r.Outcomes {
		r.Outcomes[i] = 1
	}
	if err := writeJSON(filepath.Join(dir, "results.json"), r); err != nil {
		t.Fatal(err)
	}
	again, err := studyTable(study)
	if before, now := *table.Rows[0].Cells["eval/win_rate"].Mean, *again.Rows[0].Cells["eval/win_rate"].Mean; err != nil || now <= before {
		t.Errorf("the table has %v, then %v, %v", before, now, err)
	}
	if _, err := Report(study, "refresh=3"); err == nil || !strings.Contains(err.Error(), "no arm has") {
		t.Errorf("a baseline that is no arm: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "results.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := Report(study, ""); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a run that is gone: %v", err)
	}
	if _, err := Report(t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), "no run is done here") {
		t.Errorf("an empty study: %v", err)
	}
}
