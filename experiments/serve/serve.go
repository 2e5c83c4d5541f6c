// Package serve answers OpenAI's API with a policy of ours: /v1/models, /v1/chat/completions and /v1/completions.
package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"gobpo/experiments"
	"gobpo/models"
	"gobpo/models/sample"
	"gobpo/models/tokenizer"
)

// server holds one policy; the device does one request at a time, others wait.
type server struct {
	policy *experiments.Policy
	name   string
	turn   chan struct{}
	count  atomic.Uint64
}

// New makes the handler; name is what the model is called there.
func New(p *experiments.Policy, name string) http.Handler {
	s := &server{policy: p, name: name, turn: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	model := map[string]any{"id": name, "object": "model", "created": time.Now().Unix(), "owned_by": "gobpo"}
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"object": "list", "data": []any{model}})
	})
	mux.HandleFunc("GET /v1/models/{id...}", func(w http.ResponseWriter, r *http.Request) {
		if id := r.PathValue("id"); id != name {
			fail(w, http.StatusNotFound, s.notServed(id))
			return
		}
		reply(w, model)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, true) })
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, false) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("%s %s is not served; /v1/models, /v1/chat/completions and /v1/completions are", r.Method, r.URL.Path))
	})
	return mux
}

func (s *server) complete(w http.ResponseWriter, r *http.Request, chat bool) {
	var q request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<20)).Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("the request is not JSON as expected: %w", err))
		return
	}
	if err := q.check(s, chat); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	asks, err := q.asks(s, chat)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	made := answer{server: s, chat: chat, id: fmt.Sprintf("gobpo-%d", s.count.Add(1)), at: time.Now().Unix(), logProbs: chat && q.LogProbs == true}
	var stream *stream
	if q.Stream {
		stream = newStream(w, made, q, len(asks))
	}
	choices := []any{}
	usage := map[string]int{}
	for i, in := range asks {
		var partial func([]ending)
		if q.Stream {
			partial = func(soFar []ending) { stream.more(i*q.N, soFar) }
		}
		out, err := s.sample(r.Context(), q, i, in, partial)
		switch {
		case r.Context().Err() != nil:
			return // nobody waits
		case err != nil && q.Stream && stream.begun:
			stream.fail(err)
			return
		case err != nil:
			fail(w, http.StatusInternalServerError, err)
			return
		}
		usage["prompt_tokens"] += len(in.tokens)
		for _, c := range out {
			usage["completion_tokens"] += len(c.tokens)
			choices = append(choices, made.choice(len(choices), "message", c))
		}
		if q.Stream {
			stream.more(i*q.N, out)
		}
	}
	usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
	if q.Stream {
		stream.end(usage)
		return
	}
	body := made.head("")
	body["choices"], body["usage"] = choices, usage
	reply(w, body)
}

// sample draws completions of the request's prompt i when it is its turn; partial, if not nil, hears what there is of them. It
// ends when every completion has.
func (s *server) sample(ctx context.Context, q request, i int, in ask, partial func([]ending)) ([]ending, error) {
	// Few lengths, each of which is compiled once.
	o := sample.Options{Temperature: 1, TopP: 1, MaxNewTokens: models.Bucket(in.most), Limit: in.most, N: q.N, Batch: 1, Seed: uint64(*q.Seed), Stop: s.policy.Stop()}
	if q.Temperature != nil {
		o.Temperature, o.Greedy = *q.Temperature, *q.Temperature == 0
	}
	if q.TopP != nil {
		o.TopP = *q.TopP
	}
	read := func(all []sample.Completion, last bool) (out []ending, open bool) {
		for _, c := range all {
			e := endingOf(s.policy.Model.Tokenizer, c, q.Stop, last)
			out, open = append(out, e), open || e.reason == ""
		}
		return out, open
	}
	inner, enough := context.WithCancel(ctx)
	defer enough()
	var out []ending // if stop texts ended all
	if partial != nil || len(q.Stop) > 0 {
		o.Partial = func(batch [][]sample.Completion) {
			soFar, open := read(batch[0], false)
			if !open {
				out = soFar
				enough()
			} else if partial != nil {
				partial(soFar)
			}
		}
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	key := "request"
	if i > 0 { // equal prompts of one request have answers of their own
		key = fmt.Sprintf("request %d", i)
	}
	drawn, err := s.policy.Sampler.Sample(inner, s.policy.Policy, []sample.Prompt{{Key: experiments.Key(key), Tokens: in.tokens}}, o, nil)
	if out != nil {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	out, _ = read(drawn[0], true)
	return out, nil
}

// ending is a completion up to the token that completes its first stop text.
type ending struct {
	tokens   []int32
	logProbs []float32
	text     string // before the stop text
	reason   string // why it ended; empty while it goes on, and then text has only what is certain by now
}

// endingOf looks for the end of a completion, which is at its last token if that is the last to come.
func endingOf(t *tokenizer.Tokenizer, c sample.Completion, stop []string, last bool) ending {
	ids, longest := c.Tokens, 0
	if c.Stopped {
		ids = ids[:len(ids)-1]
	}
	for _, s := range stop {
		longest = max(longest, len(s))
	}
	var text strings.Builder
	decoder := t.NewDecoder()
	for i := range len(ids) + 1 {
		more := ""
		switch {
		case i < len(ids):
			more = decoder.Push(ids[i])
		case last || c.Stopped:
			more = decoder.Flush()
		}
		from := max(0, text.Len()-longest+1) // a stop text that ends in more begins no earlier
		text.WriteString(more)
		first := -1
		for _, s := range stop {
			if at := strings.Index(text.String()[from:], s); at >= 0 && (first < 0 || from+at < first) {
				first = from + at
			}
		}
		if first >= 0 {
			n := min(i+1, len(ids))
			return ending{c.Tokens[:n], c.PolicyLogProbs[:n], text.String()[:first], "stop"}
		}
	}
	e := ending{c.Tokens, c.PolicyLogProbs, text.String(), ""}
	switch {
	case c.Stopped:
		e.reason = "stop"
	case last:
		e.reason = "length"
	}
	return e
}

// answer writes what both kinds of response have in common.
type answer struct {
	*server
	chat     bool
	id       string
	at       int64
	logProbs bool
}

func (a answer) head(part string) map[string]any {
	object := "text_completion"
	if a.chat {
		object = "chat.completion" + part
	}
	return map[string]any{"id": a.id, "object": object, "created": a.at, "model": a.name}
}

// choice is one of a response's; field is message, or delta in a stream.
func (a answer) choice(i int, field string, c ending) map[string]any {
	choice := map[string]any{"index": i, "finish_reason": nil}
	if c.reason != "" {
		choice["finish_reason"] = c.reason
	}
	if !a.chat {
		choice["text"] = c.text
		return choice
	}
	choice[field] = map[string]any{"role": "assistant", "content": c.text}
	if a.logProbs {
		content := make([]any, len(c.tokens))
		for k, id := range c.tokens {
			token := a.policy.Model.Tokenizer.Decode([]int32{id})
			content[k] = map[string]any{"token": token, "logprob": c.logProbs[k], "bytes": nil, "top_logprobs": []any{}}
		}
		choice["logprobs"] = map[string]any{"content": content}
	}
	return choice
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func fail(w http.ResponseWriter, code int, err error) {
	kind := "invalid_request_error"
	if code >= http.StatusInternalServerError {
		kind = "server_error"
	}
	body := map[string]any{"message": strings.Join(strings.Fields(err.Error()), " "), "type": kind, "param": nil, "code": nil}
	var r refusal
	if errors.As(err, &r) {
		body["code"] = r.code
	}
	if r.code == modelNotFound {
		code = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": body})
}
