// Package chat renders conversations with the chat templates models come with: Jinja
// as Hugging Face transformers runs it (sandboxed, trim_blocks and lstrip_blocks on).
package chat

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// Message is one turn of a conversation; Role is what the template knows: usually
// system, user or assistant.
type Message struct{ Role, Content string }

// Render writes msgs by a chat template, with the beginning of the assistant's turn if
// addGenerationPrompt. bos and eos are the texts of these tokens, "" if there are none.
// The text has special tokens in it: encode it with Tokenizer.Encode, and do not add
// BOS, which the template writes itself.
//
// Templates are compiled once and kept. A template's own raise_exception is an error
// with its message. Render is safe for concurrent use.
func Render(template string, msgs []Message, addGenerationPrompt bool, bos, eos string) (text string, err error) {
	defer func() {
		// The engine panics on some templates; one bad file must not end a run.
		if p := recover(); p != nil {
			text, err = "", fmt.Errorf("chat template: %v", p)
		}
	}()
	t, err := compile(template)
	if err != nil {
		return "", err
	}
	turns := make([]any, len(msgs))
	for i, m := range msgs {
		turns[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	text, err = t.ExecuteToString(exec.NewContext(map[string]any{
		"messages": turns, "add_generation_prompt": addGenerationPrompt, "bos_token": bos, "eos_token": eos,
		"tools": nil, "documents": nil,
	}))
	if err != nil {
		if raised := (*raisedError)(nil); errors.As(err, &raised) {
			return "", fmt.Errorf("chat template: %s", oneLine(raised.message))
		}
		return "", fmt.Errorf("chat template: %s", oneLine(err.Error()))
	}
	return text, nil
}

var (
	compiled   = map[string]*exec.Template{}
	compiledMu sync.Mutex
)

// maxCompiled bounds the cache; a program has one template, rarely a few.
const maxCompiled = 64

func compile(template string) (*exec.Template, error) {
	compiledMu.Lock()
	defer compiledMu.Unlock()
	if t, ok := compiled[template]; ok {
		return t, nil
	}
	c := config.New()
	c.TrimBlocks, c.LeftStripBlocks = true, true
	// Nothing but the template itself can be loaded: include and import find no file.
	loader, err := loaders.NewMemoryLoader(map[string]string{"/template": template})
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	t, err := exec.NewTemplate("/template", c, loader, environment())
	if err != nil {
		return nil, fmt.Errorf("chat template: %s", oneLine(strings.ReplaceAll(err.Error(), template, "")))
	}
	if len(compiled) >= maxCompiled {
		clear(compiled)
	}
	compiled[template] = t
	return t, nil
}

// oneLine makes an engine's message fit for a line of its own.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
