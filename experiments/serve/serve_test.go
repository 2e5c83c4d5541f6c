package serve

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/experiments"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/sample"
	"gobpo/models/tokenizer"
)

func newServer(t *testing.T) *httptest.Server {
	t.Helper()
	tok, err := tokenizer.FromWords([]string{"tea", "jam", "pack", "user", "assistant"})
	if err != nil {
		t.Fatal(err)
	}
	c := models.Config{
		Architecture: "llama", VocabSize: tok.VocabSize(), HiddenSize: 16, IntermediateSize: 16, NumLayers: 1, NumHeads: 2, NumKVHeads: 1,
		HeadDim: 8, MaxPositions: 512, RopeTheta: 10000, RMSNormEps: 1e-5, TieEmbeddings: true,
	}
	b := backendtest.XLA(t)
	m := &models.Model{Config: c, Base: models.InitWeights(c, 1), Tokenizer: tok,
		ChatTemplate: "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}assistant "}
	s := sample.New(b, c, nil)
	t.Cleanup(s.Finalize)
	server := httptest.NewServer(New(&experiments.Policy{Model: m, Policy: models.Policy{Base: m.Base}, Sampler: s, Chat: "auto"}, "tiny"))
	t.Cleanup(server.Close)
	return server
}

func post(t *testing.T, s *httptest.Server, path, body string) (code int, out map[string]any) {
	t.Helper()
	res, err := http.Post(s.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		t.Fatalf("%s %s: %v", path, body, err)
	}
	return res.StatusCode, out
}

// at walks through maps by name and slices by number.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			v = v.(map[string]any)[p]
		case int:
			v = v.([]any)[p]
		}
	}
	return v
}

const chatBody = `{"model": "tiny", "messages": [{"role": "user", "content": "pack tea"}], "max_tokens": 9, "seed": 5, "n": 2, "logprobs": true`

func TestChat(t *testing.T) {
	s := newServer(t)
	code, out := post(t, s, "/v1/chat/completions", chatBody+"}")
	if code != 200 || at(out, "object") != "chat.completion" || len(at(out, "choices").([]any)) != 2 {
		t.Fatalf("%d %v", code, out)
	}
	first, second := at(out, "choices", 0, "message", "content").(string), at(out, "choices", 1, "message", "content").(string)
	if first == second || first == "" || at(out, "choices", 0, "message", "role") != "assistant" {
		t.Errorf("%q and %q", first, second)
	}
	if n := at(out, "usage", "completion_tokens").(float64); n < 2 || n > 18 || at(out, "usage", "total_tokens").(float64) != n+at(out, "usage", "prompt_tokens").(float64) {
		t.Errorf("usage %v", at(out, "usage"))
	}
	sum := 0.0
	for _, token := range at(out, "choices", 0, "logprobs", "content").([]any) {
		sum += at(token, "logprob").(float64)
	}
	if sum >= 0 {
		t.Errorf("log-prob %v", sum)
	}
	if _, again := post(t, s, "/v1/chat/completions", chatBody+"}"); at(again, "choices", 0, "message", "content") != first {
		t.Error("the same seed gives another answer")
	}
	letters := []rune(first)
	stop := string(letters[len(letters)/2:])
	_, cut := post(t, s, "/v1/chat/completions", chatBody+fmt.Sprintf(`, "stop": [%q]}`, stop))
	if got := at(cut, "choices", 0, "message", "content").(string); strings.Contains(got, stop) || !strings.HasPrefix(first, got) || at(cut, "choices", 0, "finish_reason") != "stop" {
		t.Errorf("stopped at %q: %q of %q", stop, got, first)
	}
}

// A stream puts together to the answer.
func TestStream(t *testing.T) {
	s := newServer(t)
	_, whole := post(t, s, "/v1/chat/completions", chatBody+"}")
	res, err := http.Post(s.URL+"/v1/chat/completions", "application/json", strings.NewReader(chatBody+`, "stream": true, "stream_options": {"include_usage": true}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	texts, reasons, usage, done := map[int]string{}, map[int]any{}, any(nil), false
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if text == "[DONE]" {
			done = true
			continue
		}
		var chunk map[string]any
		if err := json.Unmarshal([]byte(text), &chunk); err != nil || at(chunk, "object") != "chat.completion.chunk" {
			t.Fatalf("%s: %v", text, err)
		}
		for _, c := range at(chunk, "choices").([]any) {
			i := int(at(c, "index").(float64))
			texts[i] += at(c, "delta", "content").(string)
			reasons[i] = at(c, "finish_reason")
		}
		if u := at(chunk, "usage"); u != nil {
			usage = u
		}
	}
	for i := range 2 {
		if texts[i] != at(whole, "choices", i, "message", "content") || reasons[i] != at(whole, "choices", i, "finish_reason") {
			t.Errorf("choice %d streams %q (%v), want %v", i, texts[i], reasons[i], at(whole, "choices", i))
		}
	}
	if !done || fmt.Sprint(usage) != fmt.Sprint(at(whole, "usage")) {
		t.Errorf("done %v, usage %v", done, usage)
	}
}

func TestCompletionsAndModels(t *testing.T) {
	s := newServer(t)
	code, out := post(t, s, "/v1/completions", `{"prompt": "pack", "max_tokens": 3, "temperature": 0}`)
	if code != 200 || at(out, "object") != "text_completion" || at(out, "choices", 0, "text") == "" || at(out, "usage", "prompt_tokens") != 1.0 {
		t.Errorf("%d %v", code, out)
	}
	res, err := http.Get(s.URL + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil || at(out, "data", 0, "id") != "tiny" {
		t.Errorf("%v %v", out, err)
	}
}

func TestErrors(t *testing.T) {
	s := newServer(t)
	for body, want := range map[string]string{
		`{`: "not JSON",
		`{"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}`: `model: "gpt-4" is not served, "tiny" is`,
		`{"messages": []}`: "messages: empty",
		`{"messages": [{"role": "user", "content": "x"}], "max_tokens": 600}`: "max_tokens: 600 does not fit",
		`{"messages": [{"role": "user", "content": "x"}], "top_p": 2}`:        "top_p: 2 is not",
		`{"messages": [{"role": "user", "content": "x"}], "temperature": -1}`: "temperature: -1",
		`{"messages": [{"role": "user", "content": "x"}], "n": 99}`:           "n: 99",
		`{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}`:     "tools are not supported",
		`{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3}`: "top_logprobs",
		`{"messages": [{"role": "user", "content": "x"}], "stop": 3}`:         "not JSON as expected",
	} {
		code, out := post(t, s, "/v1/chat/completions", body)
		if code != 400 || !strings.Contains(at(out, "error", "message").(string), want) {
			t.Errorf("%s: %d %v, want %q", body, code, out, want)
		}
	}
	if code, out := post(t, s, "/v1/embeddings", "{}"); code != 404 || !strings.Contains(at(out, "error", "message").(string), "is not served") {
		t.Errorf("%d %v", code, out)
	}
}

// Many clients at once get what each would get alone.
func TestConcurrent(t *testing.T) {
	s := newServer(t)
	ask := func(seed int) any {
		_, out := post(t, s, "/v1/completions", fmt.Sprintf(`{"prompt": "pack", "max_tokens": 4, "seed": %d}`, seed))
		return at(out, "choices", 0, "text")
	}
	var want, got [6]any
	for i := range want {
		want[i] = ask(i)
	}
	var wait sync.WaitGroup
	for i := range got {
		wait.Go(func() { got[i] = ask(i) })
	}
	wait.Wait()
	if got != want {
		t.Errorf("%v at once, %v one by one", got, want)
	}
}

// The judge works through the server; what an untrained model says is no verdict, and counted so.
func TestJudgeOverServer(t *testing.T) {
	s := newServer(t)
	a, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{
		"endpoint": s.URL + "/v1", "model": "tiny", "cache": t.TempDir(), "max_tokens": 4, "max_unparsed": 1.0,
	}})
	if err != nil {
		t.Fatal(err)
	}
	j, err := a.Annotate(t.Context(), []annotate.Request{{Prompt: "pack", Completions: []string{"tea", "jam"}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if u := annotate.Usage(a); j[0].Compare(0, 1) != 0 || u["judge/unparsed"] != 2 || u["judge/requests"] != 2 || u["judge/completion_tokens"] < 2 {
		t.Errorf("ranks %v, usage %v", j[0].Ranks, u)
	}
}

// streamed puts a stream together: the text of choice 0, and in how many pieces it came.
func streamed(t *testing.T, s *httptest.Server, body string) (text string, pieces int) {
	t.Helper()
	res, err := http.Post(s.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		raw, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || raw == "[DONE]" {
			continue
		}
		var chunk map[string]any
		if err := json.Unmarshal([]byte(raw), &chunk); err != nil {
			t.Fatal(err)
		}
		if piece := at(chunk, "choices", 0, "delta", "content").(string); piece != "" {
			text, pieces = text+piece, pieces+1
		}
	}
	return text, pieces
}

// A long answer comes in pieces, and is the one that comes whole; so is one that a stop text ends.
func TestStreamIsIncremental(t *testing.T) {
	s := newServer(t)
	body := `{"messages": [{"role": "user", "content": "pack"}], "seed": 5, "max_tokens": 40`
	_, whole := post(t, s, "/v1/chat/completions", body+"}")
	want := at(whole, "choices", 0, "message", "content").(string)
	got, pieces := streamed(t, s, body+`, "stream": true}`)
	if got != want || pieces < 3 {
		t.Errorf("streamed %q in %d pieces, want %q", got, pieces, want)
	}
	runes := []rune(want)
	stop, _ := json.Marshal(string(runes[len(runes)/2 : len(runes)/2+3]))
	_, whole = post(t, s, "/v1/chat/completions", body+`, "stop": `+string(stop)+"}")
	if got, _ := streamed(t, s, body+`, "stream": true, "stop": `+string(stop)+"}"); got != at(whole, "choices", 0, "message", "content") {
		t.Errorf("up to %s streamed %q, whole %q", stop, got, at(whole, "choices", 0, "message", "content"))
	}
}

func TestStreamHoldsBack(t *testing.T) {
	s := &stream{q: request{Stop: []string{"END", "\n\n"}}}
	for text, want := range map[string]string{"abc": "abc", "abcE": "abc", "abcEN": "abc", "abcENX": "abcENX", "abc\n": "abc", "ab\ufffd": "ab", "": ""} {
		if got := s.certain(text); got != want {
			t.Errorf("%q: %q is certain, want %q", text, got, want)
		}
	}
}
