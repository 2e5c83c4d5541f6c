package experiments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"go.yaml.in/yaml/v3"
)

// SlurmTask is one task of an array job.
type SlurmTask struct {
	Trial Trial
	sweep []savedTrial
	file  string // they stand in
	out   string
	began string // its progress, as progress has it, when Run started
}

// OpenSlurmTask reads what task index of the submission in dir has to do.
func OpenSlurmTask(dir string, index int) (*SlurmTask, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, trialsFile)
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var saved submissionTrials
	if err := yaml.Unmarshal(raw, &saved); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if index < 0 || index >= len(saved.Tasks) || saved.Tasks[index] < 0 || saved.Tasks[index] >= len(saved.Trials) {
		return nil, fmt.Errorf("%s: there is no task %d", file, index)
	}
	t := &SlurmTask{sweep: saved.Trials, file: file, out: filepath.Join(dir, "..", "..", "..")} // dir is <out>/<study>/slurm/<n>
	t.Trial, err = saved.Trials[saved.Tasks[index]].trial()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// trial is the saved trial again, if it is still the same computation.
func (s savedTrial) trial() (Trial, error) {
	t := Trial{Hash: s.Hash, Point: s.Point}
	set, _ := s.Config.(tree)
	var err error
	if t.Config, err = typed(set); err == nil {
		err = t.Config.Validate()
	}
	hash := ""
	if err == nil {
		hash, err = t.Config.Hash()
	}
	if err == nil && hash != s.Hash {
		err = fmt.Errorf("the configuration's hash is %s", hash)
	}
	if err != nil {
		return t, fmt.Errorf("trial %s: %w", s.Hash, err)
	}
	return t, nil
}

// Dir is the trial's run directory.
func (t *SlurmTask) Dir() string { return filepath.Join(StudyDir(t.out, t.Trial.Config), t.Trial.Hash) }

// lockWait is how long a task waits for another process to leave its trial: after the failure of a node, the lock of the
// process there may be held until a file server's lease ends.
var lockWait = 5 * time.Minute

// Run does the trial, or nothing where it is done. The task that ends a sweep's last trial writes its table.
func (t *SlurmTask) Run(ctx context.Context, run Runner, ui UI) (err error) {
	if t.began, err = t.progress(); err != nil {
		return err
	}
	tracking := newTracking()
	defer tracking.wait()
	for start, told := time.Now(), false; ; {
		if err = runTrial(ctx, t.Trial, t.Dir(), run, ui, tracking, anyAttempts); !errors.Is(err, ErrLocked) || time.Since(start) > lockWait || ctx.Err() != nil {
			break
		}
		if !told {
			ui.Note("waiting: %v", err)
			told = true
		}
	}
	if ctx.Err() != nil && err != nil {
		return err
	}
	return errors.Join(err, t.saveTable(ui))
}

// saveTable writes the sweep's table if all of its trials have ended. Under a lock, so that of two tasks which end at once
// the second sees both.
func (t *SlurmTask) saveTable(ui UI) error {
	study := StudyDir(t.out, t.Trial.Config)
	lock := flock.New(filepath.Join(study, slurmDir, "table.lock"))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	defer lock.Close()
	for _, other := range slices.Backward(t.sweep) { // the last ones are the likeliest not to have ended
		m, err := ReadManifest(filepath.Join(study, other.Hash))
		if err != nil {
			return err
		}
		if m.State != Done && m.State != Failed {
			return nil
		}
	}
	trials := make([]Trial, len(t.sweep))
	for i, other := range t.sweep {
		var err error
		if trials[i], err = other.trial(); err != nil {
			return fmt.Errorf("%s: %w", t.file, err)
		}
	}
	_, err := SaveTable(t.out, trials, ui.Note)
	return err
}

// progress names what an interrupted task would find again: the checkpoints and collected pairs of its trial, and the
// study's shared work.
func (t *SlurmTask) progress() (string, error) {
	var all []string
	for _, dir := range []string{filepath.Join(t.Dir(), "checkpoints"), filepath.Join(t.Dir(), "pairs"), filepath.Join(filepath.Dir(t.Dir()), "shared")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); ext != ".tmp" && ext != ".old" && ext != ".lock" {
				all = append(all, e.Name())
			}
		}
	}
	begun, err := filepath.Glob(filepath.Join(filepath.Dir(t.Dir()), "shared", "*.tmp", "checkpoint", "state.json"))
	if err != nil {
		return "", err
	}
	for _, file := range begun { // shared work that an interruption leaves half done
		if raw, err := os.ReadFile(file); err == nil {
			all = append(all, string(raw))
		}
	}
	return strings.Join(all, "\n"), nil
}

// Requeue puts the job back into the queue after it was interrupted at its time limit. It refuses where the limit was too
// short for any progress: the job would come back for ever.
func (t *SlurmTask) Requeue(ctx context.Context, job string) error {
	now, err := t.progress()
	if err != nil {
		return err
	}
	if now == t.began {
		return fmt.Errorf("%s: no progress to keep within the job's time limit, so it is not requeued; submit again with a longer --time", t.Trial)
	}
	_, err = slurmTool(ctx, "scontrol", "requeue", job)
	return err
}
