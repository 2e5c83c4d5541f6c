package serve

import (
	"bufio"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"gobpo/bpo/annotate"
	"gobpo/experiments"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/sample"
	"gobpo/models/tokenizer"
)

func newServer(t *testing.T, changes ...func(*experiments.Policy)) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(New(newPolicy(t, changes...), "tiny"))
	t.Cleanup(server.Close)
	return server
}

func newPolicy(t *testing.T, changes ...func(*experiments.Policy)) *experiments.Policy {
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
	p := &experiments.Policy{Model: m, Policy: models.Policy{Base: m.Base}, Chat: "auto"}
	for _, change := range changes {
		change(p)
	}
	p.Sampler = sample.New(b, m.Config, nil)
	t.Cleanup(p.Sampler.Finalize)
	return p
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
	stop := string(letters[len(letters)/2 : len(letters)/2+1])
	_, cut := post(t, s, "/v1/chat/completions", chatBody+fmt.Sprintf(`, "stop": [%q]}`, stop))
	told := 0
	for i := range 2 {
		told += len(at(cut, "choices", i, "logprobs", "content").([]any))
	}
	if n := at(cut, "usage", "completion_tokens").(float64); n != float64(told) || n >= at(out, "usage", "completion_tokens").(float64) {
		t.Errorf("%g tokens, %d with log-probs, %v without the stop text", n, told, at(out, "usage"))
	}
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
	texts, roles, reasons, usage, done := map[int]string{}, map[int][]any{}, map[int]any{}, any(nil), false
	logProbs := map[int][]any{}
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
			roles[i] = append(roles[i], at(c, "delta", "role"))
			reasons[i] = at(c, "finish_reason")
			logProbs[i] = append(logProbs[i], at(c, "logprobs", "content").([]any)...)
		}
		if u := at(chunk, "usage"); u != nil {
			usage = u
		}
	}
	for i := range 2 {
		if texts[i] != at(whole, "choices", i, "message", "content") || reasons[i] != at(whole, "choices", i, "finish_reason") {
			t.Errorf("choice %d streams %q (%v), want %v", i, texts[i], reasons[i], at(whole, "choices", i))
		}
		if r := roles[i]; len(r) < 2 || r[0] != "assistant" || slices.ContainsFunc(r[1:], func(role any) bool { return role != nil }) {
			t.Errorf("choice %d streams the roles %v, want the first piece's alone", i, r)
		}
		if want := at(whole, "choices", i, "logprobs", "content"); !reflect.DeepEqual(any(logProbs[i]), want) {
			t.Errorf("choice %d streams log-probs %v, want %v", i, logProbs[i], want)
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
	for id, want := range map[string]int{"tiny": 200, "org/other": 404} {
		res, err := http.Get(s.URL + "/v1/models/" + id)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		err = json.NewDecoder(res.Body).Decode(&got)
		res.Body.Close()
		if err != nil || res.StatusCode != want || want == 200 && (got["id"] != "tiny" || got["object"] != "model") || want == 404 && at(got, "error", "code") != "model_not_found" {
			t.Errorf("%s: %d %v %v", id, res.StatusCode, got, err)
		}
	}
}

// The choices of a list of prompts are those of each alone, in order, streamed or not; equal prompts are drawn anew.
func TestListOfPrompts(t *testing.T) {
	s := newServer(t)
	const more = `, "max_tokens": 6, "temperature": 0, "n": 2, "stream_options": {"include_usage": true}`
	code, out := post(t, s, "/v1/completions", `{"prompt": ["pack", "tea jam"]`+more+"}")
	choices := at(out, "choices").([]any)
	if code != 200 || len(choices) != 4 {
		t.Fatalf("%d %v", code, out)
	}
	texts, reasons, usage := streamedTexts(t, s, `{"prompt": ["pack", "tea jam"], "stream": true`+more+"}")
	var total float64
	for p, prompt := range []string{"pack", "tea jam"} {
		_, alone := post(t, s, "/v1/completions", fmt.Sprintf(`{"prompt": %q%s}`, prompt, more))
		total += at(alone, "usage", "total_tokens").(float64)
		for k := range 2 {
			i, want := 2*p+k, at(alone, "choices", k, "text")
			if c := choices[i]; at(c, "index") != float64(i) || at(c, "text") != want || want == "" || any(texts[i]) != want || reasons[i] != at(c, "finish_reason") {
				t.Errorf("choice %d: %v, streamed %q (%v), alone %q", i, c, texts[i], reasons[i], want)
			}
		}
	}
	if at(out, "usage", "total_tokens") != total || at(out, "usage", "prompt_tokens") != 3.0 || !reflect.DeepEqual(usage, at(out, "usage")) {
		t.Errorf("usage %v, streamed %v, of each alone %v", at(out, "usage"), usage, total)
	}
	const drawn = `, "max_tokens": 12, "seed": 3}`
	_, out = post(t, s, "/v1/completions", `{"prompt": ["pack", "pack"]`+drawn)
	_, alone := post(t, s, "/v1/completions", `{"prompt": "pack"`+drawn)
	if first := at(out, "choices", 0, "text"); first != at(alone, "choices", 0, "text") || first == at(out, "choices", 1, "text") {
		t.Errorf("%v, alone %v", out, alone)
	}
	if code, out := post(t, s, "/v1/completions", `{"prompt": ["pack", "tea jam"], "max_tokens": 511}`); code != 400 || at(out, "error", "code") != "context_length_exceeded" {
		t.Errorf("%d %v", code, out)
	}
}

// chunks are what a stream sends.
func chunks(t *testing.T, s *httptest.Server, path, body string) iter.Seq[map[string]any] {
	return func(yield func(map[string]any) bool) {
		t.Helper()
		res, err := http.Post(s.URL+path, "application/json", strings.NewReader(body))
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
			if !yield(chunk) {
				return
			}
		}
	}
}

// streamedTexts puts the stream of /v1/completions together, by choice.
func streamedTexts(t *testing.T, s *httptest.Server, body string) (texts map[int]string, reasons map[int]any, usage any) {
	t.Helper()
	texts, reasons = map[int]string{}, map[int]any{}
	for chunk := range chunks(t, s, "/v1/completions", body) {
		for _, c := range at(chunk, "choices").([]any) {
			i := int(at(c, "index").(float64))
			texts[i] += at(c, "text").(string)
			reasons[i] = at(c, "finish_reason")
		}
		if u := chunk["usage"]; u != nil {
			usage = u
		}
	}
	return texts, reasons, usage
}

func TestErrors(t *testing.T) {
	s := newServer(t)
	for body, want := range map[string]string{
		`{`:                "not JSON",
		`{"messages": []}`: "messages: empty",
		`{"messages": [{"role": "user", "content": "x"}], "max_tokens": 600}`: "maximum context length is 512 tokens. However, you requested 605 tokens (5 in the messages, 600 in the completion)",
		`{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}`:   "max_tokens: 0 is not at least 1",
		`{"messages": [{"role": "user", "content": "x"}], "seed": 1.5}`:       "seed: 1.5 is not an integer",
		`{"messages": [{"role": "user", "content": null}]}`:                   "messages[0]: no content",
		`{"messages": [{"role": "user", "content": 3}]}`:                      "messages[0]: content is neither",
		`{"messages": [{"content": "x"}]}`:                                    "messages[0]: no role",
		`{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]}`: `messages[1]: content has a part of type "image_url"`,
		`{"messages": [{"role": "user", "content": "x"}], "top_p": 2}`:                                                                          "top_p: 2 is not",
		`{"messages": [{"role": "user", "content": "x"}], "temperature": -1}`:                                                                   "temperature: -1",
		`{"messages": [{"role": "user", "content": "x"}], "n": 99}`:                                                                             "n: 99",
		`{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}`:                                                                       "tools are not supported",
		`{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3}`:                                                                   "top_logprobs",
		`{"messages": [{"role": "user", "content": "x"}], "stop": 3}`:                                                                           "not JSON as expected",
		`{"messages": [{"role": "user", "content": "x"}], "functions": [{}]}`:                                                                   "tools are not supported",
		`{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"5": -100}}`:                                                           "logit_bias: not supported",
		`{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}}`:                                          `response_format: "json_object" is not supported`,
		`{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}`:            `response_format: "json_schema" is not supported`,
		`{"messages": [{"role": "user", "content": "x"}], "response_format": "json"}`:                                                           "not JSON as expected",
		`{"messages": [{"role": "user", "content": "x"}], "echo": true}`:                                                                        "echo: ",
		`{"messages": [{"role": "user", "content": "x"}], "suffix": "y"}`:                                                                       "suffix: ",
		`{"messages": [{"role": "user", "content": "x"}], "best_of": 2}`:                                                                        "best_of: 2 completions are not made to choose 1",
		`{"messages": [{"role": "user", "content": "x"}], "n": 2, "best_of": 3, "stream": true}`:                                                "best_of: 3 completions",
	} {
		code, out := post(t, s, "/v1/chat/completions", body)
		if code != 400 || at(out, "error", "type") != "invalid_request_error" || !strings.Contains(at(out, "error", "message").(string), want) {
			t.Errorf("%s: %d %v, want %q", body, code, out, want)
		}
	}
	// What asks for nothing else than is done passes.
	if code, out := post(t, s, "/v1/completions", `{"prompt": "pack", "max_tokens": 1, "n": 2, "best_of": 2, "echo": false, "suffix": null, "logit_bias": {}, "response_format": {"type": "text"}, "tools": [], "user": "me"}`); code != 200 {
		t.Errorf("%d %v", code, out)
	}
	if code, out := post(t, s, "/v1/chat/completions", `{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "best_of": 1, "echo": null, "suffix": "", "logit_bias": null, "response_format": null}`); code != 200 {
		t.Errorf("%d %v", code, out)
	}
	for body, want := range map[string]string{
		`{"prompt": []}`:                     "prompt: want a text, or a list of texts",
		`{"prompt": ["x", 3]}`:               "not JSON as expected",
		`{"prompt": "x", "logprobs": 1}`:     "logprobs: not given here; /v1/chat/completions gives",
		`{"prompt": "x", "logprobs": true}`:  "logprobs: not given here",
		`{"prompt": "x", "top_logprobs": 2}`: "top_logprobs: ",
	} {
		if code, out := post(t, s, "/v1/completions", body); code != 400 || !strings.HasPrefix(strings.TrimPrefix(at(out, "error", "message").(string), "the request is "), want) {
			t.Errorf("%s: %d %v, want %q", body, code, out, want)
		}
	}
	if code, out := post(t, s, "/v1/completions", `{"model": "gpt-4", "prompt": "x"}`); code != 404 || at(out, "error", "code") != "model_not_found" || at(out, "error", "message") != `model: "gpt-4" is not served, "tiny" is` {
		t.Errorf("%d %v", code, out)
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

// The judge works through the server: what it keeps are the server's greedy answers to its two questions. What an untrained
// model says is no verdict, and counted so.
func TestJudgeOverServer(t *testing.T) {
	s, cache := newServer(t), t.TempDir()
	a, err := annotate.New(annotate.Config{Name: "judge", Params: map[string]any{
		"endpoint": s.URL + "/v1", "model": "tiny", "cache": cache, "max_tokens": 4, "max_unparsed": 1.0,
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
	var got, want []string
	files, _ := filepath.Glob(filepath.Join(cache, "*", "*.json"))
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var kept map[string]any
		if err := json.Unmarshal(raw, &kept); err != nil {
			t.Fatal(err)
		}
		got = append(got, at(kept, "choices", 0, "message", "content").(string))
	}
	question, err := annotate.JudgeTemplate("helpfulness")
	if err != nil {
		t.Fatal(err)
	}
	for _, texts := range [][2]string{{"tea", "jam"}, {"jam", "tea"}} {
		q, err := question("pack", texts[0], texts[1])
		if err != nil {
			t.Fatal(err)
		}
		_, out := post(t, s, "/v1/chat/completions", fmt.Sprintf(`{"messages": [{"role": "user", "content": %q}], "temperature": 0, "max_tokens": 4}`, q))
		want = append(want, at(out, "choices", 0, "message", "content").(string))
	}
	slices.Sort(got) // the files' names are hashes
	slices.Sort(want)
	if !slices.Equal(got, want) || want[0] == "" {
		t.Errorf("kept %q, the server says %q", got, want)
	}
}

// streamed puts a stream together: the text of choice 0, and in how many pieces it came.
func streamed(t *testing.T, s *httptest.Server, body string) (text string, pieces int) {
	t.Helper()
	for chunk := range chunks(t, s, "/v1/chat/completions", body) {
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
	for text, want := range map[string]string{"abc": "abc", "abcE": "abc", "abcEN": "abc", "abcENX": "abcENX", "abc\n": "abc", "": ""} {
		if got := s.certain(text); got != want {
			t.Errorf("%q: %q is certain, want %q", text, got, want)
		}
	}
}

func without(model bool) func(*experiments.Policy) {
	return func(p *experiments.Policy) {
		if p.Chat = "none"; model {
			p.Model.ChatTemplate, p.Chat = "", "auto"
		}
	}
}

// A policy that was trained on plain texts is asked with one, whether its model has a template or not. More than one
// message has no such form.
func TestChatWithoutTemplate(t *testing.T) {
	for name, change := range map[string]func(*experiments.Policy){"model without": without(true), "policy without": without(false)} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, change)
			_, plain := post(t, s, "/v1/completions", `{"prompt": "pack tea", "max_tokens": 5, "temperature": 0}`)
			_, asked := post(t, s, "/v1/chat/completions", `{"messages": [{"role": "user", "content": "pack tea"}], "max_tokens": 5, "temperature": 0}`)
			if at(asked, "choices", 0, "message", "content") != at(plain, "choices", 0, "text") || at(asked, "usage", "prompt_tokens") != 2.0 {
				t.Errorf("%v, want as %v", asked, plain)
			}
			code, out := post(t, s, "/v1/chat/completions", `{"messages": [{"role": "system", "content": "jam"}, {"role": "user", "content": "pack tea"}]}`)
			if code != 400 || !strings.Contains(at(out, "error", "message").(string), `"tiny" has no chat template`) {
				t.Errorf("%d %v", code, out)
			}
		})
	}
}

// Without max_tokens an answer has what room there is; what has none is refused, not cut.
func TestContext(t *testing.T) {
	s := newServer(t, func(p *experiments.Policy) { p.Model.Config.MaxPositions, p.Model.EOS = 80, nil })
	ask := func(words int, more string) (int, map[string]any) {
		return post(t, s, "/v1/completions", fmt.Sprintf(`{"prompt": "pack%s", "seed": 1, "temperature": 0%s}`, strings.Repeat(" tea", words-1), more))
	}
	for _, words := range []int{1, 20, 79} {
		code, out := ask(words, "")
		if code != 200 || at(out, "choices", 0, "finish_reason") == "length" && at(out, "usage", "total_tokens") != 80.0 {
			t.Errorf("%d words: %d %v", words, code, out)
		}
	}
	if code, out := ask(20, `, "max_tokens": 60`); code != 200 {
		t.Errorf("just fits: %d %v", code, out)
	}
	for words, more := range map[int]string{20: `, "max_tokens": 61`, 80: "", 500: `, "max_tokens": 1, "stream": true`} {
		code, out := ask(words, more)
		if code != 400 || at(out, "error", "code") != "context_length_exceeded" || !strings.Contains(at(out, "error", "message").(string), fmt.Sprintf("(%d in the prompt,", words)) {
			t.Errorf("%d words%s: %d %v", words, more, code, out)
		}
	}
}

func TestSeed(t *testing.T) {
	s := newServer(t)
	ask := func(seed string) any {
		code, out := post(t, s, "/v1/completions", `{"prompt": "pack", "max_tokens": 12`+seed+`}`)
		if code != 200 {
			t.Fatalf("%s: %v", seed, out)
		}
		return at(out, "choices", 0, "text")
	}
	if one, other := ask(""), ask(`, "seed": null`); one == other {
		t.Errorf("twice %q without a seed", one)
	}
	for _, seed := range []string{"0", "-1", "-9223372036854775808", "18446744073709551615"} {
		if one, other := ask(`, "seed": `+seed), ask(`, "seed": `+seed); one != other {
			t.Errorf("seed %s: %q and %q", seed, one, other)
		}
	}
}

func TestContentParts(t *testing.T) {
	s := newServer(t)
	ask := func(content string) any {
		_, out := post(t, s, "/v1/chat/completions", `{"messages": [{"role": "user", "content": `+content+`}], "max_tokens": 5, "temperature": 0}`)
		return at(out, "choices", 0, "message", "content")
	}
	if one, other := ask(`"pack tea"`), ask(`[{"type": "text", "text": "pack"}, {"type": "text", "text": " tea"}]`); one != other {
		t.Errorf("%q, in parts %q", one, other)
	}
}

// A completion ends with the token that completes a stop text, wherever that lies in tokens.
func TestEnding(t *testing.T) {
	tok := newPolicy(t).Model.Tokenizer
	ids := tok.EncodePlain("pack tea jam!pack é")
	for _, c := range []struct {
		stop    []string
		stopped bool
		n       int
		text    string
		reason  string
	}{
		{nil, false, len(ids), "pack tea jam!pack é", "length"},
		{nil, true, len(ids) + 1, "pack tea jam!pack é", "stop"},
		{[]string{"ea"}, true, 2, "pack t", "stop"},
		{[]string{"tea ja"}, false, 3, "pack ", "stop"},
		{[]string{"jam", "a", "tea"}, false, 1, "p", "stop"},
		{[]string{"m!p"}, false, 5, "pack tea ja", "stop"},
		{[]string{"é"}, true, len(ids), "pack tea jam!pack ", "stop"},
		{[]string{"rug"}, true, len(ids) + 1, "pack tea jam!pack é", "stop"},
	} {
		all := sample.Completion{Tokens: ids, Stopped: c.stopped}
		if c.stopped {
			all.Tokens = append(slices.Clone(ids), tok.EOS())
		}
		all.PolicyLogProbs = make([]float32, len(all.Tokens))
		e := endingOf(tok, all, c.stop, true)
		if len(e.tokens) != c.n || len(e.logProbs) != c.n || e.text != c.text || e.reason != c.reason {
			t.Errorf("%q, stopped %v: %d tokens %q %s, want %d %q %s", c.stop, c.stopped, len(e.tokens), e.text, e.reason, c.n, c.text, c.reason)
		}
	}
	half := sample.Completion{Tokens: ids[:len(ids)-1], PolicyLogProbs: make([]float32, len(ids)-1)} // of é
	if e := endingOf(tok, half, nil, false); e.text != "pack tea jam!pack " || e.reason != "" {
		t.Errorf("%q %q", e.text, e.reason)
	}
}

// Sampling goes on no longer than a completion lacks its stop text: a hundredth of the time here.
func TestStopSavesTime(t *testing.T) {
	s := newServer(t, func(p *experiments.Policy) { p.Model.Config.MaxPositions = 1400 })
	ask := func(stop any) (took time.Duration, out map[string]any) {
		raw, _ := json.Marshal(map[string]any{"prompt": "pack", "max_tokens": 1200, "temperature": 0, "stop": stop})
		start := time.Now()
		_, out = post(t, s, "/v1/completions", string(raw))
		return time.Since(start), out
	}
	_, out := ask(nil) // compiles
	first, _ := utf8.DecodeRuneInString(at(out, "choices", 0, "text").(string))
	long, out := ask("no such text")
	short, cut := ask(string(first))
	if at(out, "usage", "completion_tokens") != 1200.0 || at(cut, "choices", 0, "text") != "" || short > long/5 {
		t.Errorf("%v for %v, %v for %v", long, at(out, "usage"), short, at(cut, "usage"))
	}
}
