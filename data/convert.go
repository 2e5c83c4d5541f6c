package data

import (
	"fmt"
	"strings"
)

// row is what a converter makes of a rawRow: one of the two records, the
// reason an import leaves it out, or both (a record too flawed to keep).
type row struct {
	prompt *Prompt
	pair   *Preference
	skip   string
}

// convert reads r as the given layout (not "auto").
func convert(r rawRow, layout string) (row, error) {
	switch layout {
	case "prompts", "prompt-label", "prompt-completion", "prompt-only":
		return convertPrompt(r, layout)
	case "messages":
		return convertConversation(r)
	case "preferences":
		p := new(Preference)
		if _, err := r.need("prompt"); err != nil {
			return row{}, err
		}
		if err := r.decode(p); err != nil {
			return row{}, err
		}
		if err := r.conversation(p.Messages, p.Prompt); err != nil {
			return row{}, err
		}
		return finishPair(p), nil
	case "hh":
		chosen, err := r.need("chosen")
		if err != nil {
			return row{}, err
		}
		rejected, err := r.need("rejected")
		if err != nil {
			return row{}, err
		}
		p := new(Preference)
		var reason string
		if p.Prompt, p.Chosen, p.Rejected, reason = SplitTranscripts(chosen, rejected); reason != "" {
			return row{skip: reason}, nil
		}
		return finishPair(p), nil
	case "trl":
		return convertPair(r)
	}
	return row{}, fmt.Errorf("layout %q is not one of %s", layout, strings.Join(Layouts, ", "))
}

func convertPrompt(r rawRow, layout string) (row, error) {
	p := new(Prompt)
	msgs, list, err := r.messages("prompt")
	if err != nil {
		return row{}, err
	}
	if list {
		p.Messages, p.Prompt = msgs, RenderMessages(msgs)
	} else if p.Prompt, err = r.need("prompt"); err != nil {
		return row{}, err
	}
	if p.ID, err = r.id(); err != nil {
		return row{}, err
	}
	if layout == "prompts" && r.fields["messages"] != nil && string(r.fields["messages"]) != "[]" {
		given, _, err := r.messages("messages")
		if err == nil {
			err = r.conversation(given, p.Prompt)
		}
		if err != nil {
			return row{}, err
		}
		if given != nil {
			p.Messages = given
		}
	}
	switch layout {
	case "prompt-label", "prompt-completion":
		key := strings.TrimPrefix(layout, "prompt-")
		if r.fields[key] == nil {
			return row{}, fmt.Errorf("%s: no key %q", r.at, key)
		}
		skip := ""
		if p.Reference, skip, err = r.reply(key); err != nil || skip != "" {
			return row{skip: skip}, err
		}
	case "prompts":
		if p.Reference, err = r.text("reference"); err != nil {
			return row{}, err
		}
	}
	return finishPrompt(p), nil
}

// conversation is an error where a row's messages are not its prompt's: other tools keep the answer there too, which a model
// with a chat template would then be asked with.
func (r rawRow) conversation(msgs []Message, prompt string) error {
	if len(msgs) > 0 && RenderMessages(msgs) != prompt {
		return fmt.Errorf("%s: key \"messages\" is not the prompt as a conversation: prompt is not its plain rendering", r.at)
	}
	return nil
}

// reply is a completion: text, or a list of exactly one assistant message.
func (r rawRow) reply(key string) (text, skip string, err error) {
	msgs, list, err := r.messages(key)
	switch {
	case err != nil:
		return "", "", err
	case !list:
		text, err = r.text(key)
		return text, "", err
	case len(msgs) != 1 || msgs[0].Role != "assistant":
		return "", SkipNoReply, nil
	}
	return msgs[0].Content, "", nil
}

// convertConversation takes a conversation's last assistant turn as reference.
func convertConversation(r rawRow) (row, error) {
	msgs, list, err := r.messages("messages")
	if err != nil {
		return row{}, err
	}
	if !list {
		return row{}, fmt.Errorf("%s: key \"messages\" is not a list of messages", r.at)
	}
	n := len(msgs) - 1
	if n == 0 || msgs[n].Role != "assistant" {
		return row{skip: SkipNoReply}, nil
	}
	return finishPrompt(&Prompt{Prompt: RenderMessages(msgs[:n]), Messages: msgs[:n], Reference: msgs[n].Content}), nil
}

func finishPrompt(p *Prompt) row {
	if p.ID == "" {
		p.ID = ID(p.Prompt, p.Reference)
	}
	if strings.TrimSpace(p.Prompt) == "" {
		return row{prompt: p, skip: SkipEmptyPrompt}
	}
	return row{prompt: p}
}

func finishPair(p *Preference) row {
	if p.PromptID == "" {
		p.PromptID = ID(p.Prompt, p.Reference)
	}
	if p.ID == "" {
		p.ID = ID(p.Prompt, p.Chosen, p.Rejected)
	}
	r := row{pair: p}
	switch {
	case strings.TrimSpace(p.Prompt) == "":
		r.skip = SkipEmptyPrompt
	case p.Chosen == p.Rejected:
		r.skip = SkipIdentical
	case strings.TrimSpace(p.Chosen) == "" || strings.TrimSpace(p.Rejected) == "":
		r.skip = SkipEmpty
	}
	return r
}
