package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"gobpo/data"
)

// request is what is understood of both kinds, and what would change the text and is refused (see check); other fields are
// ignored, as by most servers.
type request struct {
	Model       string    `json:"model"`
	Messages    []message `json:"messages"`
	Prompt      oneOrMore `json:"prompt"`
	MaxTokens   *int      `json:"max_tokens"`
	MaxNew      *int      `json:"max_completion_tokens"`
	Temperature *float64  `json:"temperature"`
	TopP        *float64  `json:"top_p"`
	N           int       `json:"n"`
	Seed        *seed     `json:"seed"`
	Stop        oneOrMore `json:"stop"`
	Stream      bool      `json:"stream"`
	Options     struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
	LogProbs         any                `json:"logprobs"` // bool in chat, number in completions
	TopLogProbs      int                `json:"top_logprobs"`
	FrequencyPenalty float64            `json:"frequency_penalty"`
	PresencePenalty  float64            `json:"presence_penalty"`
	Tools            []any              `json:"tools"`
	Functions        []any              `json:"functions"` // the older name of tools
	LogitBias        map[string]float64 `json:"logit_bias"`
	Format           struct {
		Type string `json:"type"`
	} `json:"response_format"`
	Echo   bool   `json:"echo"`
	Suffix string `json:"suffix"`
	BestOf int    `json:"best_of"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// text is the content: a text, or a list of parts that are texts.
func (m message) text() (string, error) {
	var one *string
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	switch {
	case len(m.Content) == 0 || string(m.Content) == "null":
		return "", errors.New("no content")
	case json.Unmarshal(m.Content, &one) == nil:
		return *one, nil
	case json.Unmarshal(m.Content, &parts) != nil:
		return "", errors.New("content is neither a text nor a list of parts")
	}
	all := ""
	for _, p := range parts {
		if p.Type != "text" {
			return "", fmt.Errorf("content has a part of type %q, only text is understood", p.Type)
		}
		if p.Text == nil {
			return "", errors.New("content has a part without its text")
		}
		all += *p.Text
	}
	return all, nil
}

// seed is any integer of 64 bits: OpenAI's are signed, the judge's are not.
type seed uint64

func (s *seed) UnmarshalJSON(raw []byte) error {
	signed, err := strconv.ParseInt(string(raw), 10, 64)
	if *s = seed(signed); err == nil {
		return nil
	}
	unsigned, err := strconv.ParseUint(string(raw), 10, 64)
	if *s = seed(unsigned); err != nil {
		return fmt.Errorf("seed: %s is not an integer of 64 bits", raw)
	}
	return nil
}

// oneOrMore is a text or a list of texts in JSON.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(raw []byte) error {
	var one *string
	if json.Unmarshal(raw, &one) == nil {
		if one != nil {
			*o = []string{*one}
		}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(o))
}

// check fills in the API's defaults, but for max_tokens: see prompt.
func (q *request) check(s *server, chat bool) error {
	if q.MaxNew != nil { // the newer name
		q.MaxTokens = q.MaxNew
	}
	q.N = max(q.N, 1)
	if q.Seed == nil {
		drawn := seed(rand.Uint64())
		q.Seed = &drawn
	}
	q.Stop = slices.DeleteFunc(q.Stop, func(s string) bool { return s == "" })
	wanted := func(v any) bool { return v != nil && v != false && v != 0.0 }
	switch {
	case q.Model != "" && q.Model != s.name:
		return s.notServed(q.Model)
	case chat && len(q.Messages) == 0:
		return errors.New("messages: empty")
	case !chat && len(q.Prompt) == 0:
		return errors.New("prompt: want a text, or a list of texts")
	case q.MaxTokens != nil && *q.MaxTokens < 1:
		return fmt.Errorf("max_tokens: %d is not at least 1", *q.MaxTokens)
	case q.Temperature != nil && *q.Temperature < 0:
		return fmt.Errorf("temperature: %g is negative", *q.Temperature)
	case q.TopP != nil && !(*q.TopP > 0 && *q.TopP <= 1):
		return fmt.Errorf("top_p: %g is not in (0, 1]", *q.TopP)
	case q.N > 16:
		return fmt.Errorf("n: %d is more than 16", q.N)
	case !chat && wanted(q.LogProbs):
		return errors.New("logprobs: not given here; /v1/chat/completions gives those of the sampled tokens")
	case q.TopLogProbs > 0:
		return errors.New("top_logprobs: log-probs of other tokens than the sampled one are not given")
	case q.FrequencyPenalty != 0 || q.PresencePenalty != 0 || len(q.Tools)+len(q.Functions) > 0:
		return errors.New("penalties and tools are not supported")
	case len(q.LogitBias) > 0:
		return errors.New("logit_bias: not supported")
	case q.Format.Type != "" && q.Format.Type != "text":
		return fmt.Errorf("response_format: %q is not supported, text is", q.Format.Type)
	case q.Echo:
		return errors.New("echo: the prompt is not repeated")
	case q.Suffix != "":
		return errors.New("suffix: not supported")
	case q.BestOf > q.N: // as many as n are all of them
		return fmt.Errorf("best_of: %d completions are not made to choose %d of them", q.BestOf, q.N)
	}
	return nil
}

// ask is one of a request's prompts, and how many tokens may follow.
type ask struct {
	tokens []int32
	most   int
}

// asks are the request's texts as the policy was trained to see them. They are never cut.
func (q *request) asks(s *server, chat bool) ([]ask, error) {
	policy, texts, what := *s.policy, []data.Prompt{}, "messages"
	if chat {
		in := data.Prompt{ID: "request"}
		for i, m := range q.Messages {
			text, err := m.text()
			if err == nil && m.Role == "" {
				err = errors.New("no role")
			}
			if err != nil {
				return nil, fmt.Errorf("messages[%d]: %w", i, err)
			}
			in.Messages = append(in.Messages, data.Message{Role: m.Role, Content: text})
		}
		if policy.Model.ChatTemplate == "" || policy.Chat != "auto" { // trained on plain texts
			if len(in.Messages) != 1 || in.Messages[0].Role != "user" {
				return nil, fmt.Errorf("messages: %q has no chat template, or does without it, and takes one message of the user alone", s.name)
			}
			in.Prompt = in.Messages[0].Content
		}
		texts = append(texts, in)
	} else {
		policy.Chat, what = "none", "prompt"
		for _, text := range q.Prompt {
			texts = append(texts, data.Prompt{ID: "request", Prompt: text})
		}
	}
	prompts, _, err := policy.Prompts(texts, math.MaxInt)
	if err != nil {
		return nil, err
	}
	var out []ask
	for _, p := range prompts {
		n, context := len(p.Tokens), policy.Model.Config.MaxPositions
		most := max(1, min(256, context-n))
		if q.MaxTokens != nil {
			most = *q.MaxTokens
		}
		if most > context-n { // in OpenAI's words, which clients look for
			return nil, refusal{"context_length_exceeded", fmt.Sprintf("This model's maximum context length is %d tokens. However, you requested %d tokens (%d in the %s, %d in the completion).",
				context, n+most, n, what, most)}
		}
		out = append(out, ask{p.Tokens, most})
	}
	return out, nil
}

// refusal is an error with OpenAI's code for it.
type refusal struct{ code, text string }

func (r refusal) Error() string { return r.text }

const modelNotFound = "model_not_found"

func (s *server) notServed(model string) error {
	return refusal{modelNotFound, fmt.Sprintf("model: %q is not served, %q is", model, s.name)}
}
