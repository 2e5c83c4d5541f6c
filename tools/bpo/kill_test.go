package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A run killed with SIGKILL in the middle of its training, and started again by the same command, ends with the bytes of
// the uninterrupted run.
func TestKillNineAndContinue(t *testing.T) {
	dir := tinyDir(t)
	args := []string{"train", "tiny.yaml", "--set", "refresh=2", "--set", "reference=behavior", "--set", "steps=12", "--set", "checkpoint_every=2"}
	if _, stderr, status := cli(t, dir, "", append(args, "--out", "whole")...); status != 0 {
		t.Fatal(stderr)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(args, "--out", "killed")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOMLX_BACKEND=go")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	one := func(pattern string) []byte {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		if len(found) == 0 {
			return nil
		}
		raw, _ := os.ReadFile(found[0])
		return raw
	}
	for deadline := time.Now().Add(time.Minute); bytes.Count(one("killed/tiny/*/metrics.jsonl"), []byte("\n")) < 5; {
		if time.Now().After(deadline) {
			t.Fatal("the run did not reach its fifth step")
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || one("killed/tiny/*/policy.safetensors") != nil {
		t.Skip("the run ended before it was killed")
	}
	if _, stderr, status := cli(t, dir, "", append(args, "--out", "killed")...); status != 0 {
		t.Fatal(stderr)
	}
	for _, file := range []string{"policy.safetensors", "config.yaml"} {
		want, got := one("whole/tiny/*/"+file), one("killed/tiny/*/"+file)
		if len(want) == 0 || !bytes.Equal(got, want) {
			t.Errorf("%s differs from the uninterrupted run's", file)
		}
	}
	if want, got := strings.Count(string(one("whole/tiny/*/metrics.jsonl")), "\n"), strings.Count(string(one("killed/tiny/*/metrics.jsonl")), "\n"); got != want {
		t.Errorf("%d steps in metrics.jsonl, want %d", got, want)
	}
}
