package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// stream sends a response in server-sent events, a few tokens at a time.
type stream struct {
	answer
	w     http.ResponseWriter
	q     request
	begun bool     // the header is sent
	sent  []ending // of each choice
	named []bool   // of each choice, whether its role is sent
}

func newStream(w http.ResponseWriter, a answer, q request, prompts int) *stream {
	return &stream{answer: a, w: w, q: q, sent: make([]ending, prompts*q.N), named: make([]bool, prompts*q.N)}
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

// more sends what completions, the first of which is choice first, have beyond what was sent. Until they end, text is held back
// that could turn out to be part of a stop text.
func (s *stream) more(first int, out []ending) {
	for i, c := range out {
		i += first
		sent := &s.sent[i]
		if sent.reason != "" {
			continue
		}
		if c.reason == "" {
			c.text = s.certain(c.text)
		}
		rest := c.text[min(len(sent.text), len(c.text)):]
		if rest == "" && c.reason == "" {
			continue
		}
		piece := ending{c.tokens[len(sent.tokens):], c.logProbs[len(sent.tokens):], rest, ""}
		if rest != "" {
			s.send([]any{s.delta(i, piece)}, nil)
			piece.tokens, piece.text = nil, ""
		}
		if c.reason != "" {
			piece.reason = c.reason
			s.send([]any{s.delta(i, piece)}, nil)
		}
		*sent = c
	}
}

// delta is a choice's next piece. Only the first has the role: clients put together the texts of all.
func (s *stream) delta(i int, piece ending) map[string]any {
	choice := s.choice(i, "delta", piece)
	if delta, chat := choice["delta"].(map[string]any); chat && s.named[i] {
		delete(delta, "role")
	}
	s.named[i] = true
	return choice
}

// certain is the part of an unfinished text that no stop text can take away any more.
func (s *stream) certain(text string) string {
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
