package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func wantOnly(t *testing.T, dir, name, content string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
		t.Errorf("%s holds %q (%v), want %q", name, got, err, content)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v (%v)", entries, err)
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.txt")
	for _, content := range []string{"first", "", "the second, longer"} {
		if err := WriteBytes(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		wantOnly(t, dir, "x.txt", content)
	}
	plain := filepath.Join(t.TempDir(), "y") // the permissions are those of any new file
	if err := os.WriteFile(plain, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	a, errA := os.Stat(path)
	b, errB := os.Stat(plain)
	if errA != nil || errB != nil || a.Mode() != b.Mode() {
		t.Errorf("mode %v, an ordinary file has %v (%v, %v)", a.Mode(), b.Mode(), errA, errB)
	}
}

func TestFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := WriteBytes(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	err := Write(path, func(w io.Writer) error {
		_, err := w.Write([]byte("half"))
		return errors.Join(err, full)
	})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	wantOnly(t, dir, "x", "old")

	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // so that the sync fails
	if err := f.Commit(); err == nil {
		t.Error("a failed sync was committed")
	}
	wantOnly(t, dir, "x", "old")

	f, err = Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("new")
	if err := f.Complete(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("complete, but not put, it reads %q", got)
	}
	f.Abort()
	f.Abort()
	wantOnly(t, dir, "x", "old")

	if err := WriteBytes(filepath.Join(dir, "none", "x"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := WriteBytes(filepath.Join(dir, "d"), nil); err == nil { // the rename fails
		t.Error("a directory was replaced")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestAbortAfterCommit(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	f.WriteString("kept")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	wantOnly(t, dir, "x", "kept")
}

// Writers of one path do not disturb each other; one of them is last.
func TestConcurrentWriters(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := WriteBytes(filepath.Join(dir, "x"), []byte("whole")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantOnly(t, dir, "x", "whole")
}

// Wherever a kill stops the replacing of a directory, a complete one is found.
func TestReplaceDir(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "checkpoint")
	fill := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(path, 0o777), os.WriteFile(filepath.Join(path, "x"), []byte(content), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(content string) {
		t.Helper()
		if err := RecoverDir(dir); err != nil {
			t.Fatal(err)
		}
		wantOnly(t, dir, "x", content)
		if _, err := os.Stat(dir + old); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old one is left: %v", err)
		}
	}
	if err := RecoverDir(dir); err != nil {
		t.Fatalf("nothing there: %v", err)
	}
	for _, content := range []string{"one", "two"} {
		fill(dir+".tmp", content)
		if err := ReplaceDir(dir+".tmp", dir); err != nil {
			t.Fatal(err)
		}
		want(content)
	}
	if err := os.Rename(dir, dir+old); err != nil { // killed between the renames
		t.Fatal(err)
	}
	want("two")
	fill(dir+old, "half of it") // killed while the old one was removed
	want("two")
	if err := os.Rename(dir, dir+old); err != nil { // and the next replacing comes before anybody has looked
		t.Fatal(err)
	}
	fill(dir+".tmp", "three")
	if err := ReplaceDir(dir+".tmp", dir); err != nil {
		t.Fatal(err)
	}
	want("three")
}
