package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// RenderMessages is the one plain-text form of a conversation: every turn is
// its role, a colon and a newline, its content and a blank line; then, unless
// the last turn is already the assistant's (a prefill), "assistant:\n" asks
// for the next. A completion is that turn's content, verbatim:
//
//	user:\nHi\n\nassistant:\n
//
// Models with a chat template should be given Prompt.Messages instead.
func RenderMessages(msgs []Message) string {
	var b strings.Builder
	for i, m := range msgs {
		if i > 0 {
			b.WriteString("\n\n")
		}
		b.WriteString(m.Role + ":\n" + m.Content)
	}
	if len(msgs) > 0 && msgs[len(msgs)-1].Role != "assistant" {
		b.WriteString("\n\nassistant:\n")
	}
	return b.String()
}

// decodeMessages reads a list of {"role","content"}; content may also be a
// list of {"type":"text","text":…} parts. ok is false if raw is not a list.
func decodeMessages(raw json.RawMessage) (msgs []Message, ok bool, err error) {
	if len(raw) == 0 || raw[0] != '[' {
		return nil, false, nil
	}
	var list []struct {
		Role, From *string
		Content    json.RawMessage
		Value      json.RawMessage // ShareGPT's name
		ToolCalls  json.RawMessage `json:"tool_calls"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, true, fmt.Errorf("not a list of role/content messages: %w", err)
	}
	if len(list) == 0 {
		return nil, true, errors.New("an empty list of messages")
	}
	for i, m := range list {
		if m.Role == nil {
			m.Role = m.From
		}
		if m.Content == nil {
			m.Content = m.Value
		}
		if m.Role == nil || *m.Role == "" {
			return nil, true, fmt.Errorf("message %d has no role", i)
		}
		if len(m.ToolCalls) > 2 && string(m.ToolCalls) != "null" {
			return nil, true, fmt.Errorf("message %d calls tools, which only text can be imported", i)
		}
		text, err := decodeContent(m.Content)
		if err != nil {
			return nil, true, fmt.Errorf("message %d: %w", i, err)
		}
		msgs = append(msgs, Message{Role: roleName(*m.Role), Content: text})
	}
	return msgs, true, nil
}

func decodeContent(raw json.RawMessage) (string, error) {
	var s string
	if len(raw) > 0 && raw[0] == '"' {
		return s, json.Unmarshal(raw, &s)
	}
	var parts []struct{ Type, Text string }
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &parts) != nil {
		return "", errors.New("content is neither text nor a list of text parts")
	}
	for _, p := range parts {
		if p.Type != "text" {
			return "", fmt.Errorf("content has a part of type %q; only text can be imported", p.Type)
		}
		s += p.Text
	}
	return s, nil
}

// roleName maps the other names in use to the three chat templates know.
func roleName(role string) string {
	switch r := strings.ToLower(role); r {
	case "human":
		return "user"
	case "gpt":
		return "assistant"
	default:
		return r
	}
}

// commonTurns is the number of leading messages a and b share.
func commonTurns(a, b []Message) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
