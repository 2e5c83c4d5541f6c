package experiments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/gofrs/flock"

	"gobpo/internal/atomicfile"
)

// State of a run, as its manifest has it.
type State string

// A run that was killed stays Running in its manifest; its lock is free, so the next sweep continues it.
const (
	Pending State = "pending"
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed"
)

// Manifest says what a run directory holds and how it came to be.
type Manifest struct {
	State    State             `json:"state"`
	Error    string            `json:"error,omitempty"`
	Hash     string            `json:"hash"`
	Study    string            `json:"study"`
	Name     string            `json:"name,omitempty"` // the trial's point of its sweep
	Method   string            `json:"method,omitempty"`
	Backend  string            `json:"backend,omitempty"`  // as opened, with its version
	Versions map[string]string `json:"versions,omitempty"` // of this program, Go and the modules that compute
	Data     map[string]string `json:"data,omitempty"`     // content hashes of what the run is made of, by key: prompts, pairs, models, policies, templates
	Started  time.Time         `json:"started,omitzero"`
	Finished time.Time         `json:"finished,omitzero"`
	Seconds  float64           `json:"seconds,omitempty"` // of work, over all attempts
	Attempts int               `json:"attempts,omitempty"`
}

// RunDir is a run directory this process holds the lock of.
type RunDir struct {
	Path     string
	Manifest Manifest
	lock     *flock.Flock
	trackers []tracker
	readOnly bool // looked at without the lock; Save does nothing
}

// ErrLocked is wrapped by the error of OpenRun where another process works in the directory.
var ErrLocked = errors.New("another process is using this run directory")

const lockPatience = 3 * time.Second

// OpenRun makes the directory if need be, locks it and reads its manifest. Close releases the lock.
func OpenRun(path string) (*RunDir, error) {
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	r := &RunDir{Path: path, lock: lock}
	m, err := ReadManifest(path)
	if err != nil {
		r.Close()
		return nil, err
	}
	r.Manifest = m
	return r, nil
}

// lockDir makes a directory if need be and locks it.
func lockDir(path string) (*flock.Flock, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	lock := flock.New(filepath.Join(path, "lock"))
	// A process that was just killed holds its lock until its memory is given back, so ask for a moment longer.
	wait, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	ok, err := lock.TryLockContext(wait, 100*time.Millisecond)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	}
	return lock, nil
}

// Close releases the directory for other processes.
func (r *RunDir) Close() error { return r.lock.Close() }

// Save writes the manifest.
func (r *RunDir) Save() error {
	if r.readOnly {
		return nil
	}
	return writeJSON(filepath.Join(r.Path, "manifest.json"), r.Manifest)
}

// ReadManifest reads a run directory's manifest without the lock; a directory without one is Pending.
func ReadManifest(path string) (Manifest, error) {
	m := Manifest{State: Pending}
	err := readJSON(filepath.Join(path, "manifest.json"), &m)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return m, err
}

// runsOf lists the run directories of a study, in the order of their names.
func runsOf(study string) ([]string, error) {
	runs, err := filepath.Glob(filepath.Join(study, "*", "manifest.json"))
	for i := range runs {
		runs[i] = filepath.Dir(runs[i])
	}
	return runs, err
}

// versions names what computed a result: this module, Go, and the modules whose numerics matter.
func versions() map[string]string {
	v := map[string]string{}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v["go"] = info.GoVersion
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" {
			v[s.Key] = s.Value
		}
	}
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/gomlx/gomlx", "github.com/gomlx/go-xla", "github.com/gomlx/compute":
			v[dep.Path] = dep.Version
		}
	}
	return v
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return WriteFile(path, append(raw, '\n'))
}

// WriteFile replaces a file in one step: whoever reads it, after a crash at any moment too, sees the old bytes or
// the new ones.
func WriteFile(path string, raw []byte) error {
	if err := atomicfile.WriteBytes(path, raw); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
