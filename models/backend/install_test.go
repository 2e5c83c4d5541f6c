//go:build cgo && !noxla && ((linux && (amd64 || arm64)) || (darwin && arm64) || (windows && amd64))

package backend

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gobpo/models/fetch"
)

// withGoXLA replaces go-xla's installer for one test and counts its runs.
func withGoXLA(t *testing.T, f func() (string, error)) *int {
	t.Helper()
	runs, before := 0, installGoXLA
	installGoXLA = func() (string, error) { runs++; return f() }
	t.Cleanup(func() { installGoXLA = before })
	return &runs
}

func TestInstallWithoutPipTriesGoXLA(t *testing.T) {
	alone(t)
	runs := withGoXLA(t, func() (string, error) { return "/some/plugin.so", nil })
	var log bytes.Buffer
	path, err := install(Options{Log: &log})
	if err != nil || path != "/some/plugin.so" || *runs != 1 {
		t.Errorf("got %q, %v after %d runs", path, err, *runs)
	}
	if !strings.Contains(log.String(), "trying go-xla's installer") {
		t.Errorf("log %q", log.String())
	}
	withGoXLA(t, func() (string, error) { return "", errors.New("unreachable") })
	if _, err = install(Options{Log: &log}); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("got %v", err)
	}
}

func TestInstallOfflineDoesNothing(t *testing.T) {
	alone(t)
	runs := withGoXLA(t, func() (string, error) { return "", nil })
	if _, err := install(Options{Offline: true}); !errors.Is(err, fetch.ErrOffline) || *runs != 0 {
		t.Errorf("got %v after %d runs", err, *runs)
	}
	t.Setenv("GOBPO_OFFLINE", "1")
	if _, err := install(Options{}); !errors.Is(err, fetch.ErrOffline) || *runs != 0 {
		t.Errorf("environment: got %v after %d runs", err, *runs)
	}
}

// A wheel that is not the pinned one stops everything: no other source is tried.
func TestInstallWrongChecksumStops(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("pip has a plugin for linux/amd64 only")
	}
	alone(t)
	bin := t.TempDir()
	python := "#!/bin/sh\nwhile [ $# -gt 0 ] && [ \"$1\" != \"-d\" ]; do shift; done\n[ $# -eq 0 ] || echo not the wheel >\"$2/x.whl\"\n"
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(python), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	runs := withGoXLA(t, func() (string, error) { return "", nil })
	if _, err := Open(Options{Name: "xla:cpu", Log: new(bytes.Buffer)}); !errors.Is(err, fetch.ErrChecksum) || *runs != 0 {
		t.Errorf("got %v after %d runs of go-xla's installer", err, *runs)
	}
}

// A damaged plugin in the cache is said to be so and brought again.
func TestDamagedCachedPlugin(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only ELF files are checked")
	}
	alone(t)
	path, _ := cpuPlugin.Path()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	library(t, path, 5000)
	runs := withGoXLA(t, func() (string, error) { return "", errors.New("unreachable") })
	var log bytes.Buffer
	if _, err := Open(Options{Name: "xla:cpu", Log: &log}); !errors.Is(err, errNoPlugin) || *runs != 1 {
		t.Errorf("got %v after %d runs", err, *runs)
	}
	if !strings.Contains(log.String(), path+" is damaged") {
		t.Errorf("log %q", log.String())
	}
}

// The same for one of the right size, such as a power failure leaves.
func TestZeroedCachedPlugin(t *testing.T) {
	alone(t)
	before := cpuPlugin
	t.Cleanup(func() { cpuPlugin = before })
	cpuPlugin.Size = 4096
	path, _ := cpuPlugin.Path()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, 4096), 0o644)); err != nil {
		t.Fatal(err)
	}
	runs := withGoXLA(t, func() (string, error) { return "", errors.New("unreachable") })
	var log bytes.Buffer
	if _, err := Open(Options{Name: "xla:cpu", Log: &log}); !errors.Is(err, errNoPlugin) || *runs != 1 {
		t.Errorf("got %v after %d runs", err, *runs)
	}
	if !strings.Contains(log.String(), path+" is damaged") {
		t.Errorf("log %q", log.String())
	}
}
