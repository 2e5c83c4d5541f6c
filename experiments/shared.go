package experiments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

func sharedDir(study string, key any) (string, error) {
	hash, err := hashOf(key)
	return filepath.Join(study, "shared", hash), err
}

// sharedWork returns the directory <study>/shared/<hash of key>, made by build at most once however many trials and
// processes want it at the same time: they wait, as long as it takes, for the one that holds the lock. build fills a
// directory, which may hold the checkpoint of one that was killed, and which appears under its name only when it is complete.
func sharedWork(ctx context.Context, study string, key any, ui UI, build func(dir string) error) (string, error) {
	dir, err := sharedDir(study, key)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("shared work: %w", err)
	}
	lock := flock.New(dir + ".lock")
	held, err := lock.TryLock()
	if err == nil && !held {
		ui.Note("waiting for %s, which another trial is making", dir)
		_, err = lock.TryLockContext(ctx, 200*time.Millisecond)
	}
	if err != nil {
		return "", fmt.Errorf("shared work: lock %s: %w", lock.Path(), err)
	}
	defer lock.Close()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("shared work: %w", err)
	}
	tmp := dir + ".tmp" // with a checkpoint in it where a builder was killed; nobody else holds the lock
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", fmt.Errorf("shared work: %w", err)
	}
	if err := build(tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("shared work: %w", err)
	}
	return dir, nil
}
