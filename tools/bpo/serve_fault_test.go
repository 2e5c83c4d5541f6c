package main

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gobpo/bpo/annotate"
)

// served starts bpo serve as a process of its own and gives its address.
func served(t *testing.T, dir, model string) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", "-m", model, "--addr", "127.0.0.1:0", "--name", "tiny")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOMLX_BACKEND=go")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // a signal ends it well
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("bpo serve: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(line), " at ")
	if err != nil || !ok {
		t.Fatalf("bpo serve said %q, %v", line, err)
	}
	return address
}

// The judge asks a server process through a proxy that fails in every way once before it lets a request through, and
// judges as it does without the faults.
func TestJudgeOutlivesFaults(t *testing.T) {
	dir := tinyDir(t)
	if _, stderr, status := cli(t, dir, "", "train", "tiny.yaml", "--set", "refresh=1", "--set", "reference=sft", "--set", "steps=1", "--out", "runs"); status != 0 {
		t.Fatal(stderr)
	}
	runs, _ := filepath.Glob(filepath.Join(dir, "runs", "tiny", "*", "policy.safetensors"))
	if len(runs) != 1 {
		t.Fatalf("runs %v", runs)
	}
	address := served(t, dir, filepath.Dir(runs[0]))
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	target.Path = ""
	through := httputil.NewSingleHostReverseProxy(target)
	var n atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			w.Header().Set("Retry-After", "0")
			http.Error(w, `{"error": {"message": "slow down"}}`, http.StatusTooManyRequests)
		case 2:
			http.Error(w, "oops", http.StatusInternalServerError)
		case 3:
			_, _ = io.WriteString(w, `{"choices": [{"message": {"content": "Preferred: A"`) // whole, but no JSON
		case 4: // a body that ends before its length
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"choices": [`)
		case 5:
			time.Sleep(1500 * time.Millisecond) // beyond the judge's timeout
		case 6: // a connection that is cut
			panic(http.ErrAbortHandler)
		default:
			through.ServeHTTP(w, r)
		}
	}))
	defer proxy.Close()
	question := filepath.Join(dir, "short.tmpl") // the trial's model has a context of 48 tokens
	if err := os.WriteFile(question, []byte("{{.Prompt}} {{.A}} {{.B}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	judge := func(endpoint string) (annotate.Judgment, map[string]float64) {
		t.Helper()
		a, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{
			"endpoint": endpoint, "model": "tiny", "template": question, "cache": "none", "max_tokens": 4, "max_unparsed": 1.0, "timeout": 1, "concurrency": 1, "retries": 8,
		}})
		if err != nil {
			t.Fatal(err)
		}
		j, err := a.Annotate(t.Context(), []annotate.Request{{Prompt: "pack", Completions: []string{"tea", "jam"}}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return j[0], annotate.Usage(a)
	}
	plain, clean := judge(address)
	got, faulty := judge(proxy.URL + "/v1")
	if plain.Compare(0, 1) != got.Compare(0, 1) || clean["judge/completion_tokens"] != faulty["judge/completion_tokens"] || clean["judge/unparsed"] != faulty["judge/unparsed"] {
		t.Errorf("%v with %v, through faults %v with %v", plain, clean, got, faulty)
	}
	if faulty["judge/retries"] != 6 || faulty["judge/requests"] != 8 || clean["judge/retries"] != 0 {
		t.Errorf("usage %v, without faults %v", faulty, clean)
	}
}
