package fetch

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain turns the test binary into a process that only fetches, for the tests that need several processes.
func TestMain(m *testing.M) {
	if spec := os.Getenv("FETCH_TEST_ASSET"); spec != "" {
		var a Asset
		if err := json.Unmarshal([]byte(spec), &a); err != nil {
			panic(err)
		}
		if _, err := a.Fetch(context.Background(), os.Stderr, false); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var content = bytes.Repeat([]byte("a plugin, let us say\n"), 5000)

// fakePip puts a "python3" on the PATH whose pip "downloads" a wheel made here, after doing what script says. It
// counts its downloads in the file returned. Each test gets a cache of its own.
func fakePip(t *testing.T, script string, member []byte) (a Asset, downloads string) {
	t.Helper()
	dir := t.TempDir()
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	w, err := z.Create("pkg/plugin.so")
	if err == nil {
		_, err = w.Write(member)
	}
	if err := errors.Join(err, z.Close(), os.WriteFile(filepath.Join(dir, "w.whl"), wheel.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	downloads = filepath.Join(dir, "downloads")
	python := `#!/bin/sh
[ "$1 $2" = "-m pip" ] || exit 9
[ "$3" = "--version" ] && { echo "pip 0.0 (fake)"; exit 0; }
echo x >>"` + downloads + `"
while [ "$1" != "-d" ]; do shift; done
` + script + `
cp "` + filepath.Join(dir, "w.whl") + `" "$2/pkg-1.0-py3-none-any.whl"
`
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, "python3"), []byte(python), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("GOBPO_CACHE", filepath.Join(dir, "cache"))
	t.Setenv("GOBPO_OFFLINE", "")
	return Asset{
		Package: "pkg", Version: "1.0", WheelSHA256: sum(wheel.Bytes()), WheelSize: int64(wheel.Len()),
		Member: "pkg/plugin.so", SHA256: sum(content), Size: int64(len(content)), Kind: "kind", File: "plugin.so",
	}, downloads
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// checkCache checks that the file is there, whole, and that nothing but it and the lock is left.
func checkCache(t *testing.T, a Asset, want bool) {
	t.Helper()
	path, ok := a.Path()
	if ok != want {
		t.Fatalf("in the cache: %v, want %v", ok, want)
	}
	if want {
		if err := a.Verify(); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != a.File && e.Name() != "."+a.File+".lock" {
			t.Errorf("%s is left in the cache", e.Name())
		}
	}
}

func countDownloads(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("x"))
}

func TestFetch(t *testing.T) {
	a, downloads := fakePip(t, "", content)
	var log bytes.Buffer
	path, err := a.Fetch(t.Context(), &log, false)
	if err != nil {
		t.Fatal(err)
	}
	checkCache(t, a, true)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("wrong content (%v)", err)
	}
	for _, want := range []string{"downloading pkg 1.0", "sha256 checked"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log %q lacks %q", log.String(), want)
		}
	}
	// Cached: nothing is downloaded or said, and offline is fine.
	log.Reset()
	if _, err := a.Fetch(t.Context(), &log, true); err != nil || log.Len() > 0 {
		t.Errorf("second time: %v, log %q", err, log.String())
	}
	if n := countDownloads(t, downloads); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
}

func TestFetchOffline(t *testing.T) {
	a, downloads := fakePip(t, "", content)
	if _, err := a.Fetch(t.Context(), nil, true); !errors.Is(err, ErrOffline) {
		t.Errorf("flag: %v", err)
	}
	t.Setenv("GOBPO_OFFLINE", "1")
	if _, err := a.Fetch(t.Context(), nil, false); !errors.Is(err, ErrOffline) {
		t.Errorf("environment: %v", err)
	}
	if n := countDownloads(t, downloads); n != 0 {
		t.Errorf("%d downloads offline", n)
	}
}

func TestFetchChecksums(t *testing.T) {
	t.Run("wheel", func(t *testing.T) {
		a, _ := fakePip(t, "", content)
		a.WheelSHA256 = sum([]byte("another"))
		if _, err := a.Fetch(t.Context(), nil, false); !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), a.WheelSHA256) {
			t.Errorf("got %v", err)
		}
		checkCache(t, a, false)
	})
	t.Run("member", func(t *testing.T) {
		evil := bytes.Clone(content)
		evil[7] ^= 1
		a, _ := fakePip(t, "", evil)
		if _, err := a.Fetch(t.Context(), nil, false); !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), a.Member) {
			t.Errorf("got %v", err)
		}
		checkCache(t, a, false)
	})
	t.Run("longer member", func(t *testing.T) {
		a, _ := fakePip(t, "", append(bytes.Clone(content), 0))
		if _, err := a.Fetch(t.Context(), nil, false); !errors.Is(err, ErrChecksum) {
			t.Errorf("got %v", err)
		}
		checkCache(t, a, false)
	})
	t.Run("missing member", func(t *testing.T) {
		a, _ := fakePip(t, "", content)
		a.Member = "pkg/other.so"
		if _, err := a.Fetch(t.Context(), nil, false); err == nil || !strings.Contains(err.Error(), "pkg/other.so") {
			t.Errorf("got %v", err)
		}
		checkCache(t, a, false)
	})
}

func TestFetchPipFails(t *testing.T) {
	a, _ := fakePip(t, `head -c 100 /dev/zero >"$2/part"; echo noise >&2; echo "ERROR: No matching distribution" >&2; echo "[notice] later" >&2; exit 1`, content)
	_, err := a.Fetch(t.Context(), nil, false)
	if err == nil || !strings.Contains(err.Error(), "ERROR: No matching distribution") || strings.Contains(err.Error(), "noise") {
		t.Errorf("got %v", err)
	}
	checkCache(t, a, false)
}

func TestFetchNoPip(t *testing.T) {
	a, _ := fakePip(t, "", content)
	t.Setenv("PATH", t.TempDir())
	if _, err := a.Fetch(t.Context(), nil, false); !errors.Is(err, ErrNoPip) {
		t.Errorf("got %v", err)
	}
}

func TestFetchCancel(t *testing.T) {
	a, _ := fakePip(t, "exec sleep 30", content)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := a.Fetch(ctx, nil, false); err == nil {
		t.Error("no error")
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v to stop", d)
	}
	checkCache(t, a, false)
}

func TestFetchDamagedFile(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 1000) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"same size": func(path string) error { return os.WriteFile(path, make([]byte, len(content)), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			a, downloads := fakePip(t, "", content)
			path, err := a.Fetch(t.Context(), nil, false)
			if err == nil {
				err = damage(path)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := a.Path(); ok {
				t.Error("the damage was not noticed")
			}
			var log bytes.Buffer
			if _, err := a.Fetch(t.Context(), &log, false); err != nil {
				t.Fatal(err)
			}
			checkCache(t, a, true)
			if !strings.Contains(log.String(), "is damaged") || countDownloads(t, downloads) != 2 {
				t.Errorf("log %q", log.String())
			}
		})
	}
}

// A cache that was copied has other times; the files are hashed once and believed.
func TestPathAfterCopy(t *testing.T) {
	a, _ := fakePip(t, "", content)
	path, err := a.Fetch(t.Context(), nil, false)
	if err == nil {
		err = os.Chtimes(path, time.Now(), time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Path(); !ok {
		t.Error("an intact file was refused")
	}
	if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(sealed) {
		t.Errorf("not sealed again: %v, %v", info.ModTime(), err)
	}
}

// process is this binary as a process that fetches a.
func process(t *testing.T, a Asset) *exec.Cmd {
	t.Helper()
	spec, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FETCH_TEST_ASSET="+string(spec))
	cmd.Stderr = new(bytes.Buffer)
	return cmd
}

// A process killed in the middle of the download leaves nothing in the way of the next one.
func TestFetchKilledInTheMiddle(t *testing.T) {
	a, _ := fakePip(t, `head -c 1000 /dev/zero >"$TMPDIR/part"; [ -n "$FAKE_KILL" ] && { kill -9 $PPID; exit 1; }`, content)
	t.Setenv("FAKE_KILL", "1")
	if err := process(t, a).Run(); err == nil {
		t.Fatal("the process was to be killed")
	}
	path, ok := a.Path()
	if ok {
		t.Fatal("a killed download left a file")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".tmp-*")); len(left) != 1 {
		t.Fatalf("the killed process left %v, want one temporary directory", left)
	}
	t.Setenv("FAKE_KILL", "")
	if _, err := a.Fetch(t.Context(), nil, false); err != nil {
		t.Fatal(err)
	}
	checkCache(t, a, true)
}

func TestFetchTwoProcesses(t *testing.T) {
	a, downloads := fakePip(t, "sleep 1", content)
	one, two := process(t, a), process(t, a)
	if err := errors.Join(one.Start(), two.Start()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.Wait(), two.Wait()); err != nil {
		t.Fatalf("%v: %s%s", err, one.Stderr, two.Stderr)
	}
	checkCache(t, a, true)
	if n := countDownloads(t, downloads); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
	said := one.Stderr.(*bytes.Buffer).String() + two.Stderr.(*bytes.Buffer).String()
	if strings.Count(said, "waiting for another process") != 1 {
		t.Errorf("they said %q", said)
	}
}

func TestFetchUnwritableCache(t *testing.T) {
	a, _ := fakePip(t, "", content)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOBPO_CACHE", file)
	if _, err := a.Fetch(t.Context(), nil, false); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

// The lines of a pipe: one at the start, one at each quarter passed.
func TestWatchLines(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	stop := watch(&log, "thing", dir, 4<<20)
	if err := os.WriteFile(filepath.Join(dir, "part"), make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	stop()
	want := "fetch: thing (4 MB)\nfetch: thing: 25%\nfetch: thing: 50%\n"
	if log.String() != want {
		t.Errorf("got %q, want %q", log.String(), want)
	}
}
