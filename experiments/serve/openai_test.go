package serve

import (
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// OpenAI's own Python client understands the server: models, chat, streams, completions, errors.
func TestOpenAIClient(t *testing.T) {
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import openai").Run(); err != nil {
		t.Skipf("%s cannot import openai (pip install openai, or set GOBPO_PYTHON: tools/peer/install)", python)
	}
	s := newServer(t)
	cmd := exec.CommandContext(t.Context(), python, "testdata/client.py", s.URL+"/v1")
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, chat := post(t, s, "/v1/chat/completions", chatBody+"}")
	_, plain := post(t, s, "/v1/completions", `{"prompt": "pack", "max_tokens": 5, "temperature": 0}`)
	for i := range 2 {
		want := at(chat, "choices", i, "message", "content")
		logProbs := at(got, "logprobs", i).([]any)
		if at(got, "chat", i) != want || at(got, "stream", i) != want || at(got, "parts", i) != want || want == "" {
			t.Errorf("choice %d: chat %q, stream %q, parts %q, want %q", i, at(got, "chat", i), at(got, "stream", i), at(got, "parts", i), want)
		}
		if together := at(got, "put together", i); !reflect.DeepEqual(together, []any{"assistant", want}) {
			t.Errorf("choice %d put together: %q, want the assistant's %q", i, together, want)
		}
		if len(logProbs) != len(at(chat, "choices", i, "logprobs", "content").([]any)) || !reflect.DeepEqual(at(got, "stream logprobs", i), any(logProbs)) {
			t.Errorf("choice %d: log-probs %v, stream %v", i, logProbs, at(got, "stream logprobs", i))
		}
	}
	for _, same := range []struct{ got, want any }{
		{got["models"], []any{"tiny"}}, {got["model"], "tiny"}, {got["not found"], "model_not_found"},
		{at(got, "prompts", 0), []any{0.0, got["completion"]}}, {at(got, "prompts", 1), []any{1.0, got["completion"]}}, {got["usage"], chat["usage"]}, {got["stream usage"], chat["usage"]}, {got["stream reasons"], got["reasons"]},
		{got["completion"], at(plain, "choices", 0, "text")}, {got["completion stream"], got["completion"]},
		{at(got, "error", 0), "context_length_exceeded"}, {at(got, "error", 1), "invalid_request_error"},
	} {
		if !reflect.DeepEqual(same.got, same.want) {
			t.Errorf("got %v, want %v", same.got, same.want)
		}
	}
	if text := at(got, "error", 2).(string); !strings.Contains(text, "maximum context length is 512 tokens") {
		t.Errorf("error %q", text)
	}
}
