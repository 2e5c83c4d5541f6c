// Package atomicfile replaces files in one step: whoever opens the path, after a crash or on a full disk too, finds the
// old file or the whole new one.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is a file in the making, in the directory of the path it will have.
type File struct {
	*os.File // for writing; its name is the temporary one
	path     string
	ended    bool
}

// Create begins a file for path. The caller ends it with Commit or Abort.
func Create(path string) (*File, error) {
	// The random part keeps two writers of one path apart, in one process or two.
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.tmp-%s", filepath.Base(path), rand.Text()[:8]))
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	return &File{File: f, path: path}, nil
}

// Complete makes what was written durable, without putting it in place yet: the step that a full disk fails. After an
// error the temporary file is gone.
func (f *File) Complete() error {
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		f.Abort()
		return err
	}
	return nil
}

// Put puts a completed file at its path.
func (f *File) Put() error {
	if err := os.Rename(f.Name(), f.path); err != nil {
		f.Abort()
		return err
	}
	f.ended = true
	SyncDir(filepath.Dir(f.path))
	return nil
}

// Commit is Complete and Put.
func (f *File) Commit() error {
	if err := f.Complete(); err != nil {
		return err
	}
	return f.Put()
}

// Abort removes the temporary file; the path keeps what it had. After Commit it does nothing, so it can be deferred.
func (f *File) Abort() {
	if !f.ended {
		f.ended = true
		f.Close()
		os.Remove(f.Name())
	}
}

// Write makes or replaces the file at path with what write writes.
func Write(path string, write func(io.Writer) error) error {
	f, err := Create(path)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := write(f); err != nil {
		return err
	}
	return f.Commit()
}

// WriteBytes makes or replaces the file at path.
func WriteBytes(path string, content []byte) error {
	return Write(path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// old is what a directory that is being replaced is called meanwhile.
const old = ".old"

// ReplaceDir puts the directory tmp, which is complete, in place of dir. A kill leaves the new one, or the old one, for which
// RecoverDir looks.
func ReplaceDir(tmp, dir string) error {
	SyncDir(tmp)
	if err := RecoverDir(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, dir+old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	SyncDir(filepath.Dir(dir))
	return os.RemoveAll(dir + old)
}

// RecoverDir ends what a killed ReplaceDir began: the old directory gets its name back if there is no new one, and goes
// otherwise.
func RecoverDir(dir string) error {
	_, err := os.Stat(dir)
	switch {
	case err == nil:
		return os.RemoveAll(dir + old)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.Rename(dir+old, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RecoverDirs does so for every directory in parent that was being replaced.
func RecoverDirs(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name, replaced := strings.CutSuffix(e.Name(), old); replaced {
			if err := RecoverDir(filepath.Join(parent, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// SyncDir makes the renames in a directory durable. Some file systems cannot; the files themselves are synced, so that
// is no error.
func SyncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}
