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
	turns := make(list, len(msgs))
	for i, m := range msgs {
		turns[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	raised := "" // kept here because the engine's errors do not wrap those of functions
	text, err = t.ExecuteToString(exec.NewContext(map[string]any{
		"messages": turns, "add_generation_prompt": addGenerationPrompt, "bos_token": bos, "eos_token": eos,
		"tools": nil, "documents": nil,
		"raise_exception": func(message string) (string, error) {
			raised = message
			return "", errors.New(message)
		},
	}))
	if err != nil && raised != "" {
		return "", fmt.Errorf("chat template: %s", oneLine(raised))
	}
	if err != nil {
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
		// The engine repeats the whole template in front of what it has to say.
		reason := strings.TrimPrefix(err.Error(), "failed to parse template '"+template+"': ")
		return nil, fmt.Errorf("chat template: %s", oneLine(reason))
	}
	if len(compiled) >= maxCompiled {
		clear(compiled)
	}
	compiled[template] = t
	return t, nil
}

// oneLine makes an engine's message fit for a line of its own. Its end says what went
// wrong; the chain before it, where.
func oneLine(s string) string {
	const most = 240
	s = strings.Join(strings.Fields(s), " ")
	if cut := len(s) - most; cut > 0 {
		if at := strings.IndexByte(s[cut:], ' '); at >= 0 {
			s = "… " + s[cut+at+1:]
		}
	}
	return s
}
