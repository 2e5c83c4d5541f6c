package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"gobpo/models/sample"
)

// stream sends a response in server-sent events, a few tokens at a time.
type stream struct {
	answer
	w     http.ResponseWriter
	q     request
	begun bool     // the header is sent
	sent  []string // of each choice
	ended []bool
}

func newStream(w http.ResponseWriter, a answer, q request) *stream {
	return &stream{answer: a, w: w, q: q, sent: make([]string, q.N), ended: make([]bool, q.N)}
}

func (s *stream) send(choices []any, more map[string]any) {
	if !s.begun {
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("Cache-Control", "no-cache")
		s.begun = true
	}
	body := s.head(".chunk")
	body["choices"] = choices
	for k, v := range more {
		body[k] = v
	}
	s.event(body)
}

func (s *stream) event(body any) {
	raw, _ := json.Marshal(body) // maps of plain values
	fmt.Fprintf(s.w, "data: %s\n\n", raw)
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

// more sends what completions have beyond what was sent. Until they are final, text is held back that could turn out to be
// part of a stop text or of a character.
func (s *stream) more(out []sample.Completion, final bool) {
	for i, c := range out {
		if s.ended[i] {
			continue
		}
		text, reason := s.text(c, s.q.Stop)
		done := final || c.Stopped || reason == "stop"
		if !done {
			text = s.certain(text)
		}
		if rest, ok := strings.CutPrefix(text, s.sent[i]); ok && rest != "" {
			s.send([]any{s.choice(i, "delta", rest, "", c)}, nil)
			s.sent[i] = text
		}
		if done {
			s.ended[i] = true
			s.send([]any{s.choice(i, "delta", "", reason, c)}, nil)
		}
	}
}

// certain is the part of an unfinished text that no further token can change.
func (s *stream) certain(text string) string {
	text = strings.TrimRight(text, string(utf8.RuneError)) // the beginning of a character
	held := 0
	for _, stop := range s.q.Stop {
		for n := min(len(stop)-1, len(text)); n > held; n-- {
			if strings.HasSuffix(text, stop[:n]) {
				held = n
			}
		}
	}
	return text[:len(text)-held]
}

// fail ends a stream that has begun; its status cannot tell any more.
func (s *stream) fail(err error) {
	s.event(map[string]any{"error": map[string]any{"message": err.Error(), "type": "server_error"}})
}

func (s *stream) end(usage map[string]int) {
	if s.q.Options.Usage {
		s.send([]any{}, map[string]any{"usage": usage})
	}
	fmt.Fprint(s.w, "data: [DONE]\n\n")
}
