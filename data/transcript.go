package data

import "strings"

const (
	humanTurn     = "\n\nHuman:"
	assistantTurn = "\n\nAssistant:"
)

// isTranscript reports whether s looks like an hh-rlhf conversation.
func isTranscript(s string) bool {
	return strings.HasPrefix(s, humanTurn) && strings.Contains(s, assistantTurn)
}

// SplitTranscripts splits two hh-rlhf transcripts that differ in their last
// reply. The prompt is everything up to and including the last
// "\n\nAssistant:" of the common prefix, so prompt+a and prompt+b are the
// transcripts again, byte for byte. reason says why a pair cannot be one
// prompt and two replies, and is "" when it can.
func SplitTranscripts(chosen, rejected string) (prompt, a, b, reason string) {
	if chosen == rejected {
		return "", "", "", SkipIdentical
	}
	i := strings.LastIndex(chosen[:commonBytes(chosen, rejected)], assistantTurn)
	if i < 0 {
		return "", "", "", SkipNoPrompt
	}
	i += len(assistantTurn)
	prompt, a, b = chosen[:i], chosen[i:], rejected[i:]
	for _, s := range []string{a, b} {
		if strings.Contains(s, humanTurn) || strings.Contains(s, assistantTurn) {
			return "", "", "", SkipDiverged
		}
	}
	return prompt, a, b, ""
}

func commonBytes(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
