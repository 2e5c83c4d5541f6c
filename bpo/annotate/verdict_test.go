package annotate

import (
	"strings"
	"testing"
)

// What a verdict is, and what only looks like one.
func TestVerdict(t *testing.T) {
	for want, answers := range map[string][]string{
		"A": {
			"Preferred: A", "preferred: a", "PREFERRED:A", "Preferred: A.", "Preferred: **A**.", "**Preferred: A**", "**Preferred:** A", "Preferred: __A__",
			"Preferred: _A_", "Preferred: `A`", "Preferred: \"A\"", "Preferred: [A]", "Preferred: (A)", "Preferred: A!", "Preferred: A  ", "Preferred: A\r\n",
			"Preferred:\nA", "**Preferred:**\n\n**A**", "Preferred: A\nor B", "Preferred: A\nB is wordy.",
			"Preferred: A (clearer)", "Preferred: A, because B is wordy", "Preferred: A because B is wordy", "Preferred: **A** since it is brief", "Preferred: A - it is brief",
			"Preferred: **A** — it is brief", "Preferred: A. It is brief.", "Preferred: A: brief and right", "Preferred: A (not B)",
			"Preferred: B would be wrong.\nPreferred: A", "Preferred: tie? No.\nPreferred: A", "Preferred: B\n\nPreferred: A\n", "Preferred: A\nPreferred: neither",
		},
		"B": {"Preferred: B", "preferred: b.", "Preferred: **B**\n", "Preferred: B (clearer)", "Preferred: B, as A is wordy", "Preferred: A\nPreferred: B"},
		"tie": {
			"Preferred: tie", "Preferred: Tie.", "Preferred: a tie", "Preferred: A tie", "Preferred: **a tie**", "Preferred: a  tie between A and B", "Preferred: tie, A and B say the same",
			"Preferred: __tie__", "Preferred: A\nPreferred: tie",
		},
		"": {
			"", "A", "I would rather not say.", "Preferred:", "Preferred: neither", "Preferred: both", "Preferred: Alice", "Preferred: Bob", "Preferred A",
			"Preferred: A or B", "preferred: a or b", "Preferred: B or A", "Preferred: A and B", "Preferred: A/B", "Preferred: A / B", "Preferred: A|B", "Preferred: A & B",
			"Preferred: A vs B", "Preferred: A vs. B", "Preferred: A versus B", "Preferred: A, B", "Preferred: A, B or tie", "Preferred: A, or B", "Preferred: A (or B)", "Preferred: **A** or **B**",
			"Preferred: A-B", "Preferred: A = B", "Preferred: A > B", "Preferred: A+B", "Preferred: A/tie", "Preferred: A, tie", "Preferred: A (a tie)", "Preferred: A. B.",
			"Preferred: a draw", "Preferred: a difficult question", "Preferred: A better answer is B", "Preferred: a tiebreak",
			"Preferred: B\nPreferred: A or B",
		},
	} {
		for _, answer := range answers {
			v, ok := verdict(answer)
			got := map[float64]string{1: "A", 0: "B", 0.5: "tie"}[v]
			if !ok {
				got = strings.TrimPrefix(got, "tie") // what cannot be read must count as one
			}
			if got != want {
				t.Errorf("%q is %q, want %q", answer, got, want)
			}
		}
	}
}
