package data

import (
	"regexp"
	"strings"
)

// turn begins a turn of a rendered conversation: RenderMessages's form, or hh-rlhf's "\n\nHuman:".
var turn = regexp.MustCompile(`(?:^|\n\n)(system|user|assistant|tool):\n|\n\n(Human|Assistant):`)

// Conversation takes a prompt's text apart into the messages that it was rendered from, by [RenderMessages] or as
// hh-rlhf's transcripts are; the assistant's turn that is asked for at the end is left out. Any other text is one message
// of the user's.
func Conversation(prompt string) []Message {
	starts := turn.FindAllStringSubmatchIndex(prompt, -1)
	if len(starts) == 0 || starts[0][0] != 0 {
		return []Message{{Role: "user", Content: prompt}}
	}
	var msgs []Message
	for i, at := range starts {
		end, role, hh := len(prompt), "", at[4] >= 0
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		content := prompt[at[1]:end]
		if hh {
			role, content = roleName(prompt[at[4]:at[5]]), strings.TrimSpace(content)
		} else {
			role = prompt[at[2]:at[3]]
		}
		if i == len(starts)-1 && role == "assistant" && content == "" {
			break
		}
		msgs = append(msgs, Message{role, content})
	}
	return msgs
}
