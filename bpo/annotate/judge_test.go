package annotate_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"gobpo/bpo/annotate"
	"gobpo/bpo/annotate/annotatetest"
)

const key = "sk-secret"

// judgeServer speaks the API: it prefers the longer text, of equal lengths the greater. fault may answer in its place.
type judgeServer struct {
	*httptest.Server
	key    string
	mu     sync.Mutex
	tries  map[string]int // by request
	asked  int
	fault  func(w http.ResponseWriter, try int) bool
	answer func(a, b string) string
}

func newJudgeServer(t *testing.T) *judgeServer {
	t.Helper()
	s := &judgeServer{key: key, tries: map[string]int{}, answer: func(a, b string) string {
		if len(a) > len(b) || len(a) == len(b) && a > b {
			return "It says more. Preferred: B would be wrong.\nPreferred: A"
		}
		return "preferred: **B**"
	}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	t.Setenv("TEST_KEY", key)
	return s
}

func (s *judgeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	var q struct{ Messages []struct{ Content string } }
	if err := json.Unmarshal(raw, &q); err != nil || r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer "+s.key {
		http.Error(w, "no such thing, "+r.Header.Get("Authorization"), http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	s.asked++
	s.tries[string(raw)]++
	try := s.tries[string(raw)]
	s.mu.Unlock()
	if s.fault != nil && s.fault(w, try) {
		return
	}
	_, texts, _ := strings.Cut(q.Messages[0].Content, "<<")
	a, b, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(texts), ">>"), ">><<")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id":      fmt.Sprint(try),
		"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": s.answer(a, b)}}},
		"usage":   map[string]any{"prompt_tokens": 100, "completion_tokens": 10},
	})
}

func (s *judgeServer) judge(t *testing.T, params map[string]any) annotate.Annotator {
	t.Helper()
	file := filepath.Join(t.TempDir(), "question.tmpl")
	if err := os.WriteFile(file, []byte("{{.Prompt}} <<{{.A}}>><<{{.B}}>>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"endpoint": s.URL + "/v1", "model": "m", "template": file, "api_key_env": "TEST_KEY", "cache": "none", "timeout": 1, "retries": 6}
	for k, v := range params {
		all[k] = v
	}
	a, err := annotate.New(annotate.Config{Name: "judge", Params: all})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var twoAnswers = []annotate.Request{{Prompt: "p", Completions: []string{"short", "much longer"}}}

func TestJudgeKeepsTheContract(t *testing.T) {
	s := newJudgeServer(t)
	annotatetest.Run(t, func() annotate.Annotator { return s.judge(t, nil) })
}

// Three completions meet in pairs; ranks are those of the answers.
func TestJudgeRanks(t *testing.T) {
	j, err := newJudgeServer(t).judge(t, nil).Annotate(t.Context(), []annotate.Request{{Prompt: "p", Completions: []string{"bb", "a", "cccc", "bb"}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(j[0].Ranks); got != "[1 3 0 1]" {
		t.Errorf("ranks %s", got)
	}
}

// A judge that always says A has no opinion.
func TestJudgeOrdersDisagree(t *testing.T) {
	s := newJudgeServer(t)
	s.answer = func(_, _ string) string { return "Preferred: A" }
	j, err := s.judge(t, nil).Annotate(t.Context(), twoAnswers, 0)
	if err != nil {
		t.Fatal(err)
	}
	if j[0].Compare(0, 1) != 0 {
		t.Errorf("ranks %v, want a tie", j[0].Ranks)
	}
}

func TestJudgeRetries(t *testing.T) {
	for name, fault := range map[string]func(w http.ResponseWriter){
		"429": func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"500":            func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"malformed JSON": func(w http.ResponseWriter) { fmt.Fprint(w, `{"choices": [{"mess`) },
		"no choices":     func(w http.ResponseWriter) { fmt.Fprint(w, `{"choices": []}`) },
		"truncated": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"choices": [`)
		},
		"timeout": func(http.ResponseWriter) { time.Sleep(1200 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newJudgeServer(t)
			s.fault = func(w http.ResponseWriter, try int) bool {
				if try == 1 {
					fault(w)
				}
				return try == 1
			}
			a := s.judge(t, map[string]any{"price_in": 10, "price_out": 1000})
			j, err := a.Annotate(t.Context(), twoAnswers, 0)
			if err != nil {
				t.Fatal(err)
			}
			if j[0].Compare(1, 0) != 1 {
				t.Errorf("ranks %v", j[0].Ranks)
			}
			// Two orders, each tried twice; 2·100 tokens in at 10 and 2·10 out at 1000 a million.
			u := annotate.Usage(a)
			if u["judge/requests"] != 4 || u["judge/retries"] != 2 || u["judge/prompt_tokens"] != 200 || u["judge/completion_tokens"] != 20 || u["judge/cost"] < 0.0219 || u["judge/cost"] > 0.0221 {
				t.Errorf("usage %v", u)
			}
		})
	}
}

func TestJudgeGivesUp(t *testing.T) {
	s := newJudgeServer(t)
	s.fault = func(w http.ResponseWriter, _ int) bool {
		http.Error(w, "down for\nrepair, "+key, http.StatusServiceUnavailable)
		return true
	}
	_, err := s.judge(t, map[string]any{"retries": 1, "timeout": 1}).Annotate(t.Context(), twoAnswers, 0)
	if err == nil || !strings.Contains(err.Error(), "after 2 tries: 503 Service Unavailable: down for repair") || strings.Contains(err.Error(), key) {
		t.Errorf("error %v", err)
	}
	t.Setenv("TEST_KEY", "wrong")
	asked := s.asked
	_, err = s.judge(t, nil).Annotate(t.Context(), twoAnswers, 0)
	if err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "wrong") || s.asked > asked {
		t.Errorf("error %v: a wrong key isn't worth another try", err)
	}
}

// What a server says is cut for an error after the key is out of it: a part of one would not be found.
func TestJudgeKeepsTheKey(t *testing.T) {
	s := newJudgeServer(t)
	s.key = "sk-" + strings.Repeat("0123456789abcdef", 10)[:157]
	t.Setenv("TEST_KEY", s.key)
	for status, body := range map[int]string{
		http.StatusBadRequest: strings.Repeat("x", 100) + " " + s.key,
		http.StatusOK:         "{\"choices\": [],\n\"x\": \"" + strings.Repeat("x", 100) + " " + s.key + "\"}",
	} {
		s.fault = func(w http.ResponseWriter, _ int) bool {
			http.Error(w, body, status)
			return true
		}
		_, err := s.judge(t, map[string]any{"retries": 0}).Annotate(t.Context(), twoAnswers, 0)
		if err == nil || !strings.Contains(err.Error(), "x [key]") || strings.Contains(err.Error(), "sk-") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d: error %v", status, err)
		}
	}
}

// Retry-After counts with every status that is tried again, in seconds or as a date, and is told on the error's one line. A very
// long one is not waited for, however many retries are left.
func TestJudgeRetryAfter(t *testing.T) {
	for _, c := range []struct {
		status, retries int
		after, want     string
	}{
		{http.StatusTooManyRequests, 0, "7", " (retry after 7s)"},
		{http.StatusInternalServerError, 0, "7", " (retry after 7s)"},
		{http.StatusConflict, 0, time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), " (retry after 5"},
		{http.StatusTooManyRequests, 6, "3600", ": oops; it wants to be left alone for 1h0m0s"},
		{http.StatusServiceUnavailable, 0, "Mon, 02 Jan 2006 15:04:05 GMT", " (retry after 0s)"},
		{http.StatusServiceUnavailable, 0, "-5", " (retry after 0s)"},
		{http.StatusServiceUnavailable, 0, "soon", ": oops"},
		{http.StatusBadRequest, 0, "7", ": oops"},
	} {
		s := newJudgeServer(t)
		s.fault = func(w http.ResponseWriter, _ int) bool {
			w.Header().Set("Retry-After", c.after)
			http.Error(w, "oops", c.status)
			return true
		}
		_, err := s.judge(t, map[string]any{"retries": c.retries}).Annotate(t.Context(), twoAnswers, 0)
		if err == nil || !strings.Contains(err.Error(), "oops") || strings.Contains(err.Error(), " tries: ") || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "retry after") != strings.Contains(c.want, "retry after") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d, %q: error %v, want %q", c.status, c.after, err, c.want)
		}
	}
}

// A Retry-After is waited for where it is longer than the first wait is by itself, a quarter to three quarters of a second.
func TestJudgeWaitsAsTold(t *testing.T) {
	for after, least := range map[string]time.Duration{"1": time.Second, "0": time.Second / 4, "Mon, 02 Jan 2006 15:04:05 GMT": time.Second / 4} {
		t.Run(after, func(t *testing.T) {
			s := newJudgeServer(t)
			var at []time.Time // of all tries
			s.fault = func(w http.ResponseWriter, try int) bool {
				at = append(at, time.Now())
				if len(at) > 1 {
					return false
				}
				w.Header().Set("Retry-After", after)
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			if _, err := s.judge(t, map[string]any{"concurrency": 1}).Annotate(t.Context(), twoAnswers, 0); err != nil {
				t.Fatal(err)
			}
			if waited := at[1].Sub(at[0]); len(at) != 3 || waited < least {
				t.Errorf("%d tries, the second after %v", len(at), waited)
			}
		})
	}
}

// atOnce lets judges of the same options, as a sweep's trials are, annotate at the same time.
func (s *judgeServer) atOnce(t *testing.T, judges int, params map[string]any, reqs ...annotate.Request) {
	t.Helper()
	var group errgroup.Group
	for range judges {
		j := s.judge(t, params)
		group.Go(func() error {
			_, err := j.Annotate(t.Context(), reqs, 0)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// As many requests as configured are under way at a time, and no more, whoever asks.
func TestJudgeConcurrency(t *testing.T) {
	s := newJudgeServer(t)
	var now, most atomic.Int64
	s.fault = func(http.ResponseWriter, int) bool {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(20 * time.Millisecond)
		return false
	}
	s.atOnce(t, 3, map[string]any{"concurrency": 3}, annotate.Request{Completions: []string{"a", "bb", "ccc", "dddd"}})
	if n := most.Load(); n < 2 || n > 3 {
		t.Errorf("%d requests at a time, want 3", n)
	}
}

// A question without one of the texts would be answered all the same.
func TestJudgeTemplate(t *testing.T) {
	for text, want := range map[string]string{
		"{{.Prompt}} {{.A}} {{.B}}":                         "",
		"{{with .Prompt}}{{.}} {{end}}{{.B}} {{.A}}":        "",
		"{{.Prompt}} {{.A}}":                                "does not ask about {{.B}}",
		"{{.Prompt}} {{.B}} {{.B}}":                         "does not ask about {{.A}}",
		"{{.A}} {{.B}}":                                     "does not ask about {{.Prompt}}",
		"{{.Prompt}} {{.A}} {{if eq .A \"\"}}{{.B}}{{end}}": "does not ask about {{.B}}",
		"Prompt A B":                                        "does not ask about {{.Prompt}}",
		"{{.Prompt}} {{.A}} {{.C}}":                         "can't evaluate field C",
		"{{.Prompt}} {{.A}} {{if .B}}{{.B}} {{.C}}{{end}}":  "can't evaluate field C",
		"{{.Prompt}} {{.A}} {{.B":                           "unclosed action",
	} {
		file := filepath.Join(t.TempDir(), "mine.tmpl")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := annotate.JudgeTemplate(file)
		if want == "" && err == nil {
			continue
		}
		if err == nil || want == "" || !strings.HasPrefix(err.Error(), "template: ") || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// What was answered once is not asked again, by another process either; a broken file of the cache is.
func TestJudgeCache(t *testing.T) {
	s, cache := newJudgeServer(t), t.TempDir()
	for i, want := range []int{2, 2, 3} {
		a := s.judge(t, map[string]any{"cache": cache})
		if _, err := a.Annotate(t.Context(), twoAnswers, uint64(i)); err != nil {
			t.Fatal(err)
		}
		if s.asked != want {
			t.Errorf("round %d: %d questions, want %d", i, s.asked, want)
		}
		if i == 1 {
			if u := annotate.Usage(a); u["judge/cached"] != 2 || u["judge/requests"] != 0 {
				t.Errorf("usage %v", u)
			}
			files, err := filepath.Glob(filepath.Join(cache, "*", "*.json"))
			if err != nil || len(files) != 2 {
				t.Fatalf("%v, %v", files, err)
			}
			raw, err := os.ReadFile(files[0])
			if err != nil || strings.Contains(string(raw), key) {
				t.Errorf("%s, %v", raw, err)
			}
			if err := os.WriteFile(files[0], raw[:5], 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An answer is kept under all that it depends on, and under nothing else.
func TestJudgeCacheKey(t *testing.T) {
	s, cache := newJudgeServer(t), t.TempDir()
	another := filepath.Join(t.TempDir(), "another.tmpl")
	if err := os.WriteFile(another, []byte("Well: {{.Prompt}} <<{{.A}}>><<{{.B}}>>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		params map[string]any
		seed   uint64
		asks   int
	}{
		{nil, 0, 2},
		{nil, 0, 0},
		{nil, 1, 0}, // at temperature 0
		{map[string]any{"concurrency": 1, "rate": 1000, "retries": 1, "timeout": 2, "price_in": 1, "price_out": 1, "max_unparsed": 1}, 0, 0},
		{map[string]any{"endpoint": s.URL + "/v1/"}, 0, 2},
		{map[string]any{"model": "n"}, 0, 2},
		{map[string]any{"template": another}, 0, 2},
		{map[string]any{"max_tokens": 255}, 0, 2},
		{map[string]any{"sampling_temperature": 0.5}, 1, 2},
		{map[string]any{"sampling_temperature": 0.6}, 1, 2},
		{map[string]any{"sampling_temperature": 0.5}, 2, 2},
		{map[string]any{"sampling_temperature": 0.5}, 1, 0},
		{map[string]any{"model": "n"}, 0, 0},
		{nil, 0, 0},
	} {
		params := map[string]any{"cache": cache}
		maps.Copy(params, c.params)
		before := s.asked
		if _, err := s.judge(t, params).Annotate(t.Context(), twoAnswers, c.seed); err != nil {
			t.Fatal(err)
		}
		if asked := s.asked - before; asked != c.asks {
			t.Errorf("%v, seed %d: %d questions, want %d", c.params, c.seed, asked, c.asks)
		}
	}
}

func TestJudgeCountsWhatItCannotRead(t *testing.T) {
	s := newJudgeServer(t)
	s.answer = func(a, _ string) string {
		if a == "short" {
			return "I would rather not say."
		}
		return "Preferred: A"
	}
	a := s.judge(t, map[string]any{"max_unparsed": 0.5})
	j, err := a.Annotate(t.Context(), twoAnswers, 0)
	if err != nil {
		t.Fatal(err)
	}
	if j[0].Compare(1, 0) != 1 || annotate.Usage(a)["judge/unparsed"] != 1 {
		t.Errorf("ranks %v, usage %v", j[0].Ranks, annotate.Usage(a))
	}
	if _, err = s.judge(t, map[string]any{"max_unparsed": 0}).Annotate(t.Context(), twoAnswers, 0); err == nil || !strings.HasSuffix(err.Error(), `: 1 of 2 answers so far have no line "Preferred: A", "B" or "tie", more than max_unparsed = 0 explains; one ends "I would rather not say."`) {
		t.Errorf("error %v", err)
	}
}

// The share of answers without a verdict is that of all calls, and fails a judge where it cannot be chance.
func TestJudgeMaxUnparsed(t *testing.T) {
	for _, c := range []struct {
		every   int // so many answers one has no verdict
		max     float64
		fails   int // at the call, of two questions each; 0: never
		message string
	}{
		{1, 0.1, 2, "4 of 4 answers so far"},
		{1, 1, 0, ""},
		{2, 0.1, 6, "6 of 12 answers so far"}, // by chance 0.0005; 5 of 10 are 0.0016
		{33, 0.1, 0, ""},
		{33, 0.001, 50, "3 of 100 answers so far"},
		{33, 0, 17, "1 of 34 answers so far"},
	} {
		s := newJudgeServer(t)
		s.answer = func(_, _ string) string {
			if s.asked%c.every == 0 {
				return "I would rather not say."
			}
			return "Preferred: A"
		}
		a, failed, message := s.judge(t, map[string]any{"max_unparsed": c.max, "concurrency": 1}), 0, ""
		for call := 1; call <= 200 && failed == 0; call++ {
			if _, err := a.Annotate(t.Context(), twoAnswers, 0); err != nil {
				failed, message = call, err.Error()
			}
		}
		if failed != c.fails || !strings.Contains(message, c.message) {
			t.Errorf("one in %d at %g fails at call %d, want %d: %s", c.every, c.max, failed, c.fails, message)
		}
	}
}

func TestJudgeRateLimit(t *testing.T) {
	s := newJudgeServer(t)
	start := time.Now()
	s.atOnce(t, 3, map[string]any{"rate": 20}, annotate.Request{Completions: []string{"a", "bb", "ccc"}})
	if took := time.Since(start); took < 17*50*time.Millisecond {
		t.Errorf("three judges' six questions each at 20 a second took %v", took)
	}
}

func TestJudgeConfig(t *testing.T) {
	for want, params := range map[string]map[string]any{
		"endpoint: required":                      {"model": "m"},
		"model: required":                         {"endpoint": "http://localhost/v1"},
		"endpoint: not a URL":                     {"endpoint": "localhost", "model": "m"},
		"concurrency: 0 is not at least 1":        {"endpoint": "http://localhost/v1", "model": "m", "concurrency": 0},
		`template: "nonsense" is not one of tldr`: {"endpoint": "http://localhost/v1", "model": "m", "template": "nonsense"},
		"rate: -1 is negative":                    {"endpoint": "http://localhost/v1", "model": "m", "rate": -1},
	} {
		if _, err := annotate.New(annotate.Config{Name: "judge", Params: params}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", params, err, want)
		}
	}
	if _, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{"endpoint": "http://localhost/v1", "model": "m", "concurrency": 1e300}}); err != nil {
		t.Errorf("no limit: %v", err)
	}
	for _, c := range []struct{ want, endpoint, env string }{ // none shows what may be a key
		{"endpoint: not a URL", "me:" + key + "@host/v1", "KEY"},
		{"endpoint: not a URL", "http://" + key + ":x/v1", "KEY"},
		{"endpoint: it holds a user", "https://me:" + key + "@host/v1", "KEY"},
		{"endpoint: it holds a user", "https://" + key + "@host/v1", "KEY"},
		{"endpoint: it holds a user", "https://host/v1?api-key=" + key, "KEY"},
		{"endpoint: it holds a user", "https://host/v1?", "KEY"},
		{"endpoint: it holds a user", "https://host/v1#" + key, "KEY"},
		{"endpoint: it holds a user", "https://host/v1#", "KEY"},
		{"api_key_env: not the name", "https://host/v1", key},
		{"api_key_env: not the name", "https://host/v1", "KEY\n"},
		{"api_key_env: not the name", "https://host/v1", "1KEY"},
		{"api_key_env: not the name", "https://host/v1", ""},
	} {
		_, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{"endpoint": c.endpoint, "model": "m", "api_key_env": c.env}})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q, %q: error %v, want %q", c.endpoint, c.env, err, c.want)
		}
	}
	for _, name := range []string{"tldr", "helpfulness", "harmlessness"} {
		a, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{"endpoint": "http://localhost/v1", "model": "m", "template": name}})
		if err != nil || strings.Contains(a.Name(), "sk-") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
