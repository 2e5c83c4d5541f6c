// Package serve answers OpenAI's API with a policy of ours: /v1/models, /v1/chat/completions and /v1/completions.
package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gobpo/data"
	"gobpo/experiments"
	"gobpo/models"
	"gobpo/models/sample"
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
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": name, "object": "model", "owned_by": "gobpo"}}})
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, true) })
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, false) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("%s %s is not served; /v1/models, /v1/chat/completions and /v1/completions are", r.Method, r.URL.Path))
	})
	return mux
}

// request is what is understood of both kinds; other fields are ignored, as by most servers, but for those that would
// change the text (see check).
type request struct {
	Model       string         `json:"model"`
	Messages    []data.Message `json:"messages"`
	Prompt      oneOrMore      `json:"prompt"`
	MaxTokens   int            `json:"max_tokens"`
	MaxNew      int            `json:"max_completion_tokens"`
	Temperature *float64       `json:"temperature"`
	TopP        *float64       `json:"top_p"`
	N           int            `json:"n"`
	Seed        uint64         `json:"seed"`
	Stop        oneOrMore      `json:"stop"`
	Stream      bool           `json:"stream"`
	Options     struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
	LogProbs         any     `json:"logprobs"` // bool in chat, number in completions
	TopLogProbs      int     `json:"top_logprobs"`
	FrequencyPenalty float64 `json:"frequency_penalty"`
	PresencePenalty  float64 `json:"presence_penalty"`
	Tools            []any   `json:"tools"`
}

// oneOrMore is a text or a list of texts in JSON.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*o = []string{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(o))
}

// check fills in the API's defaults.
func (q *request) check(s *server, chat bool) error {
	q.MaxTokens = max(q.MaxTokens, q.MaxNew)
	if q.MaxTokens == 0 {
		q.MaxTokens = 256
	}
	q.N = max(q.N, 1)
	wanted := func(v any) bool { return v != nil && v != false && v != 0.0 }
	switch {
	case q.Model != "" && q.Model != s.name:
		return fmt.Errorf("model: %q is not served, %q is", q.Model, s.name)
	case chat && len(q.Messages) == 0:
		return errors.New("messages: empty")
	case !chat && len(q.Prompt) != 1:
		return fmt.Errorf("prompt: want one text, got %d", len(q.Prompt))
	case q.MaxTokens < 1 || q.MaxTokens >= s.policy.Model.Config.MaxPositions:
		return fmt.Errorf("max_tokens: %d does not fit the context of %d", q.MaxTokens, s.policy.Model.Config.MaxPositions)
	case q.Temperature != nil && *q.Temperature < 0:
		return fmt.Errorf("temperature: %g is negative", *q.Temperature)
	case q.TopP != nil && !(*q.TopP > 0 && *q.TopP <= 1):
		return fmt.Errorf("top_p: %g is not in (0, 1]", *q.TopP)
	case q.N > 16:
		return fmt.Errorf("n: %d is more than 16", q.N)
	case q.TopLogProbs > 0 || wanted(q.LogProbs) && !chat:
		return errors.New("top_logprobs: log-probs of other tokens than the sampled one are not given")
	case q.FrequencyPenalty != 0 || q.PresencePenalty != 0 || len(q.Tools) > 0:
		return errors.New("penalties and tools are not supported")
	}
	return nil
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
	made := answer{server: s, chat: chat, id: fmt.Sprintf("gobpo-%d", s.count.Add(1)), at: time.Now().Unix(), logProbs: chat && q.LogProbs == true}
	var stream *stream
	var partial func([]sample.Completion)
	if q.Stream {
		stream = newStream(w, made, q)
		partial = func(out []sample.Completion) { stream.more(out, false) }
	}
	out, prompt, err := s.sample(r.Context(), q, chat, partial)
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
	usage := map[string]int{"prompt_tokens": prompt, "completion_tokens": 0}
	for _, c := range out {
		usage["completion_tokens"] += len(c.Tokens)
	}
	usage["total_tokens"] = prompt + usage["completion_tokens"]
	if q.Stream {
		stream.more(out, true)
		stream.end(usage)
		return
	}
	choices := make([]any, len(out))
	for i, c := range out {
		text, reason := made.text(c, q.Stop)
		choices[i] = made.choice(i, "message", text, reason, c)
	}
	body := made.head("")
	body["choices"], body["usage"] = choices, usage
	reply(w, body)
}

// sample draws the completions when it is the request's turn; partial, if not nil, hears what there is of them.
func (s *server) sample(ctx context.Context, q request, chat bool, partial func([]sample.Completion)) (out []sample.Completion, prompt int, err error) {
	p := *s.policy
	in := data.Prompt{ID: "request", Messages: q.Messages}
	if !chat {
		p.Chat, in = "none", data.Prompt{ID: "request", Prompt: q.Prompt[0]}
	} else if p.Model.ChatTemplate == "" { // as the policy was trained: the last message is the prompt
		in.Prompt = q.Messages[len(q.Messages)-1].Content
	}
	// Few lengths, each of which is compiled once; what is too long is cut off below.
	most := p.Model.Config.MaxPositions
	length := min(models.Bucket(q.MaxTokens), most-1)
	rows, _, err := p.Prompts([]data.Prompt{in}, most-length)
	if err != nil {
		return nil, 0, err
	}
	o := sample.Options{Temperature: 1, TopP: 1, MaxNewTokens: length, N: q.N, Batch: 1, Seed: q.Seed, Stop: p.Model.Stop()}
	cut := func(all []sample.Completion) []sample.Completion {
		for i, c := range all {
			if len(c.Tokens) > q.MaxTokens {
				all[i].Tokens, all[i].Stopped = c.Tokens[:q.MaxTokens], false
			}
		}
		return all
	}
	if partial != nil {
		o.Partial = func(batch [][]sample.Completion) { partial(cut(batch[0])) }
	}
	if q.Temperature != nil {
		o.Temperature, o.Greedy = *q.Temperature, *q.Temperature == 0
	}
	if q.TopP != nil {
		o.TopP = *q.TopP
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	drawn, err := p.Sampler.Sample(ctx, p.Policy, []sample.Prompt{{Key: experiments.Key("request"), Tokens: rows[0].Tokens}}, o, nil)
	if err != nil {
		return nil, 0, err
	}
	return cut(drawn[0]), len(rows[0].Tokens), nil
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

// text is a completion up to its first stop text, and why it ended.
func (a answer) text(c sample.Completion, stop []string) (text, reason string) {
	ids := c.Tokens
	if c.Stopped {
		ids = ids[:len(ids)-1]
	}
	text, reason = a.policy.Model.Tokenizer.Decode(ids), "length"
	if c.Stopped {
		reason = "stop"
	}
	for _, s := range stop {
		if at := strings.Index(text, s); s != "" && at >= 0 {
			text, reason = text[:at], "stop"
		}
	}
	return text, reason
}

// choice is one of a response's; field is message, or delta in a stream.
func (a answer) choice(i int, field, text, reason string, c sample.Completion) map[string]any {
	choice := map[string]any{"index": i, "finish_reason": nil}
	if reason != "" {
		choice["finish_reason"] = reason
	}
	if !a.chat {
		choice["text"] = text
		return choice
	}
	choice[field] = map[string]any{"role": "assistant", "content": text}
	if a.logProbs && field == "message" {
		content := make([]any, len(c.Tokens))
		for k, id := range c.Tokens {
			token := a.policy.Model.Tokenizer.Decode([]int32{id})
			content[k] = map[string]any{"token": token, "logprob": c.PolicyLogProbs[k], "bytes": nil, "top_logprobs": []any{}}
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
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": strings.Join(slices.Collect(strings.FieldsSeq(err.Error())), " "), "type": kind}})
}
