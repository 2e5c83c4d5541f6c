package experiments

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Runner does one trial's work in its directory and returns its result; ui is never nil. Execute is the real one.
type Runner func(ctx context.Context, t Trial, dir *RunDir, ui UI) (Result, error)

// UI is told what a trial is doing. Its methods are called from many goroutines.
type UI interface {
	// Doing reports work inside a trial: what ("pretrain", "sample", "train", "eval"), and how far.
	Doing(what string, done, total int)
	// Step reports the metrics of a step.
	Step(step int, metrics map[string]float64)
	// Note says something worth a line, once.
	Note(format string, args ...any)
}

// SweepOptions say how a sweep runs; none of them changes a result.
type SweepOptions struct {
	Out   string // runs go to Out/<study>/<hash>
	Jobs  int    // trials at a time
	Retry bool   // run failed trials again; otherwise they stay failed
	Run   Runner
	UI    SweepUI
}

// SweepUI shows a sweep's progress.
type SweepUI interface {
	Start(runs, done, failed int)
	Trial(name string) UI
	Finished(name string, state State, err error)
	Close()
}

// StudyDir is where the trials of a study go.
func StudyDir(out string, c Config) string { return filepath.Join(out, c.Study) }

// Sweep runs every trial that is missing, unfinished or failed, and returns how many runs failed. A failed trial
// does not stop the others; a cancelled context does. A trial that another process is at comes last: it is waited for, and
// taken over if that process dies, so that sweeps started side by side share the work and all end with the whole of it.
func Sweep(ctx context.Context, trials []Trial, o SweepOptions) (failed int, err error) {
	found, err := pendingRuns(trials, o)
	if err != nil {
		return 0, err
	}
	todo := found.todo
	failed = found.failed
	o.UI.Start(len(todo)+found.done+failed, found.done, failed)
	defer o.UI.Close()
	tracking := newTracking()
	defer tracking.wait()
	var mu sync.Mutex
	for round := 0; len(todo) > 0 && ctx.Err() == nil; round++ {
		var elsewhere []Trial
		var wg sync.WaitGroup
		queue := make(chan Trial)
		for range max(1, o.Jobs) {
			wg.Go(func() {
				for t := range queue {
					ui := o.UI.Trial(t.String())
					err := runTrial(ctx, t, filepath.Join(StudyDir(o.Out, t.Config), t.Hash), o.Run, ui, tracking, found.attempts[t.Hash])
					if ctx.Err() != nil && err != nil {
						continue
					}
					mu.Lock()
					switch {
					case errors.Is(err, ErrLocked):
						if elsewhere = append(elsewhere, t); round == 0 {
							ui.Note("another process is at this trial; it comes last")
						}
					case err != nil:
						failed++
						o.UI.Finished(t.String(), Failed, err)
					default:
						o.UI.Finished(t.String(), Done, nil)
					}
					mu.Unlock()
				}
			})
		}
		for _, t := range todo {
			select {
			case queue <- t:
			case <-ctx.Done():
			}
		}
		close(queue)
		wg.Wait()
		todo = elsewhere
	}
	return failed, ctx.Err()
}

// pending is what a sweep finds.
type pending struct {
	todo         []Trial        // to run, one for each hash
	attempts     map[string]int // of each hash, until now
	done, failed int            // runs that are done, or stay failed
}

func pendingRuns(trials []Trial, o SweepOptions) (pending, error) {
	p := pending{attempts: map[string]int{}}
	for _, t := range trials {
		if _, seen := p.attempts[t.Hash]; seen {
			continue
		}
		m, err := ReadManifest(filepath.Join(StudyDir(o.Out, t.Config), t.Hash))
		if err != nil {
			return p, err
		}
		p.attempts[t.Hash] = m.Attempts
		switch {
		case m.State == Done:
			p.done++
		case m.State == Failed && !o.Retry:
			p.failed++
		default:
			p.todo = append(p.todo, t)
		}
	}
	return p, nil
}

// runTrial does a trial with its lock held, its manifest kept and its trackers told. A panic is the trial's failure. One that
// another process has tried since it had had these attempts, and that failed there, is not tried again.
func runTrial(ctx context.Context, t Trial, path string, run Runner, ui UI, tracking *tracking, attempts int) (err error) {
	dir, err := OpenRun(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	switch m := dir.Manifest; { // another process was faster
	case m.State == Done:
		return nil
	case m.State == Failed && m.Attempts > attempts:
		return errors.New(m.Error)
	}
	raw, err := t.Config.YAML()
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(path, "config.yaml"), raw); err != nil {
		return err
	}
	start, m := time.Now(), &dir.Manifest
	if m.Started.IsZero() {
		m.Started = start.UTC().Truncate(time.Second)
	}
	m.State, m.Error, m.Hash, m.Study, m.Method = Running, "", t.Hash, t.Config.Study, t.Config.Method()
	m.Name, m.Versions, m.Attempts = t.String(), versions(), m.Attempts+1
	if err := dir.Save(); err != nil {
		return err
	}
	dir.trackers = tracking.start(t.Config, dir, ui)
	var result Result
	err = Guard(func() (err error) {
		result, err = run(ctx, t, dir, ui)
		return err
	})
	m.Seconds += time.Since(start).Seconds()
	if err == nil {
		result.Method, result.Seconds = m.Method, m.Seconds
		err = result.Save(path)
	}
	switch {
	case err == nil:
		m.State, m.Finished = Done, time.Now().UTC().Truncate(time.Second)
	case ctx.Err() != nil:
		m.State = Pending // interrupted, not failed: the next sweep continues it
	default:
		m.State, m.Error = Failed, err.Error()
		var p *PanicError
		if errors.As(err, &p) {
			_ = os.WriteFile(filepath.Join(path, "panic.txt"), []byte(p.Trace()), 0o644)
		}
	}
	err = errors.Join(err, dir.Save())
	for _, tracker := range dir.trackers {
		tracker.close(m.State)
	}
	return err
}

// anyAttempts are as many as a trial may have had when somebody asks for it by name.
const anyAttempts = math.MaxInt

// RunOne runs a single trial, as `bpo train` does; a run that is done is left as it is and reported by its result.
func RunOne(ctx context.Context, t Trial, out string, run Runner, ui UI) (dir string, r Result, err error) {
	dir = filepath.Join(StudyDir(out, t.Config), t.Hash)
	tracking := newTracking()
	defer tracking.wait()
	if err := runTrial(ctx, t, dir, run, ui, tracking, anyAttempts); err != nil {
		return dir, r, fmt.Errorf("%s: %w", dir, err)
	}
	r, err = ReadResult(dir)
	return dir, r, err
}
