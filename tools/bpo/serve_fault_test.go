package main

import (
	"bufio"
	"io"
	"maps"
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

	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/bpo/annotate"
	"gobpo/models"
	"gobpo/models/tokenizer"
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

// teaJudge writes a model that goes on by the last token alone: it answers a question that ends in " jam" with
// "Preferred: A", in " tea" with "preferred:** B". Of the two it prefers tea.
func teaJudge(t *testing.T) (dir string) {
	t.Helper()
	tok, err := tokenizer.FromWords([]string{"tea", "jam", "Preferred", "preferred", ":**", "A", "B"})
	if err != nil {
		t.Fatal(err)
	}
	c := models.Config{
		Architecture: "llama", VocabSize: tok.VocabSize(), HiddenSize: 16, IntermediateSize: 16, NumLayers: 1, NumHeads: 2, NumKVHeads: 1,
		HeadDim: 8, MaxPositions: 48, RopeTheta: 10000, RMSNormEps: 1e-5,
	}
	flat := map[string][]float32{}
	for name, dims := range c.Shapes() {
		if len(dims) == 2 { // all but the norms: the layer adds nothing
			flat[name] = make([]float32, dims[0]*dims[1])
		}
	}
	dim := 0 // each token has its own, which the head reads as the next token
	for _, words := range [][]string{{" jam", "Preferred", ":", " A", "<|endoftext|>"}, {" tea", "preferred", ":**", " B", "<|endoftext|>"}} {
		for i, word := range words[1:] {
			from, to := tok.EncodeWithSpecials(words[i]), tok.EncodeWithSpecials(word)
			if len(from) != 1 || len(to) != 1 {
				t.Fatalf("%q is %v, %q %v", words[i], from, word, to)
			}
			flat["model.embed_tokens.weight"][int(from[0])*c.HiddenSize+dim] = 1
			flat["lm_head.weight"][int(to[0])*c.HiddenSize+dim] = 1
			dim++
		}
	}
	m := &models.Model{Config: c, Base: models.InitWeights(c, 1), Tokenizer: tok}
	for name, dims := range c.Shapes() {
		if flat[name] != nil {
			m.Base[name] = tensors.FromFlatDataAndDimensions(flat[name], dims...)
		}
	}
	dir = filepath.Join(t.TempDir(), "tea")
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The judge asks a server process through a proxy that fails in every way once before it lets a request through, and gets
// the answers that it gets without the faults, byte for byte, from a model whose answers are verdicts and from a run's
// policy that has not learned any.
func TestJudgeOutlivesFaults(t *testing.T) {
	dir := tinyDir(t)
	if _, stderr, status := cli(t, dir, "", "train", "tiny.yaml", "--set", "refresh=1", "--set", "reference=sft", "--set", "steps=1", "--out", "runs"); status != 0 {
		t.Fatal(stderr)
	}
	runs, _ := filepath.Glob(filepath.Join(dir, "runs", "tiny", "*", "policy.safetensors"))
	if len(runs) != 1 {
		t.Fatalf("runs %v", runs)
	}
	question := filepath.Join(dir, "short.tmpl") // both models have a context of 48 tokens
	if err := os.WriteFile(question, []byte("{{.Prompt}} {{.A}} {{.B}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, model string
		verdict     int
		unparsed    float64
	}{{"verdicts", teaJudge(t), 1, 0}, {"babble", filepath.Dir(runs[0]), 0, 2}} {
		t.Run(c.name, func(t *testing.T) {
			proxy := faultyProxy(t, served(t, dir, c.model))
			judge := func() (annotate.Judgment, map[string]float64, map[string]string) {
				t.Helper()
				cache := t.TempDir()
				a, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{
					"endpoint": proxy + "/v1", "model": "tiny", "template": question, "cache": cache, "max_tokens": 8, "max_unparsed": 1.0, "timeout": 1, "concurrency": 1, "retries": 8,
				}})
				if err != nil {
					t.Fatal(err)
				}
				j, err := a.Annotate(t.Context(), []annotate.Request{{Prompt: "pack", Completions: []string{"tea", "jam"}}}, 0)
				if err != nil {
					t.Fatal(err)
				}
				files, _ := filepath.Glob(filepath.Join(cache, "*", "*.json"))
				answers := map[string]string{}
				for _, file := range files {
					raw, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					answers[filepath.Base(file)] = string(raw)
				}
				return j[0], annotate.Usage(a), answers
			}
			got, faulty, answers := judge()
			plain, clean, want := judge() // the proxy has no faults left
			if !maps.Equal(answers, want) || len(want) != 2 {
				t.Errorf("answers through faults %v, without %v", answers, want)
			}
			if got.Compare(0, 1) != c.verdict || plain.Compare(0, 1) != c.verdict || faulty["judge/unparsed"] != c.unparsed || clean["judge/unparsed"] != c.unparsed {
				t.Errorf("%v with %v, without faults %v with %v, answers %v", got, faulty, plain, clean, want)
			}
			if faulty["judge/retries"] != 6 || faulty["judge/requests"] != 8 || clean["judge/retries"] != 0 || clean["judge/requests"] != 2 || clean["judge/completion_tokens"] != faulty["judge/completion_tokens"] {
				t.Errorf("usage %v, without faults %v", faulty, clean)
			}
		})
	}
}

// faultyProxy stands before a server and fails its first six requests. A Retry-After in between starts the judge's waits
// over, which would grow to a minute.
func faultyProxy(t *testing.T, address string) string {
	t.Helper()
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
			_, _ = io.WriteString(w, `{"choices": [{"message": {"content": "Preferred: A"`) // whole, but no JSON
		case 2:
			w.Header().Set("Retry-After", "0")
			http.Error(w, `{"error": {"message": "slow down"}}`, http.StatusTooManyRequests)
		case 3: // a body that ends before its length
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"choices": [`)
		case 4:
			w.Header().Set("Retry-After", "0")
			http.Error(w, "oops", http.StatusInternalServerError)
		case 5:
			time.Sleep(1500 * time.Millisecond) // beyond the judge's timeout
		case 6: // a connection that is cut
			panic(http.ErrAbortHandler)
		default:
			through.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}
