package data

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func jsonOf(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSplitTranscripts(t *testing.T) {
	const p = "\n\nHuman: a\n\nAssistant:"
	for _, c := range []struct{ chosen, rejected, prompt, a, b, reason string }{
		{p + " x", p + " y", p, " x", " y", ""},
		{p + " the same start, x", p + " the same start, y", p, " the same start, x", " the same start, y", ""},
		{p + " x", p + " x and more", p, " x", " x and more", ""},
		{p + " x\n\nHuman: b\n\nAssistant: y", p + " x\n\nHuman: b\n\nAssistant: z", p + " x\n\nHuman: b\n\nAssistant:", " y", " z", ""},
		{p + " x", p + " x", "", "", "", SkipIdentical},
		{p + " x\n\nHuman: b\n\nAssistant: y", p + " z\n\nHuman: b\n\nAssistant: y", "", "", "", SkipDiverged},
		{p + " x\n\nAssistant: again", p + " x", "", "", "", SkipDiverged},
		{"blue", "green", "", "", "", SkipNoPrompt},
		{"\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: x", "", "", "", SkipNoPrompt},
		{"", "x", "", "", "", SkipNoPrompt},
	} {
		prompt, a, b, reason := SplitTranscripts(c.chosen, c.rejected)
		if prompt != c.prompt || a != c.a || b != c.b || reason != c.reason {
			t.Errorf("%q, %q: got %q %q %q %q", c.chosen, c.rejected, prompt, a, b, reason)
		}
	}
}

// checkSplit states what a split promises for any two texts.
func checkSplit(t interface{ Fatalf(string, ...any) }, chosen, rejected string) {
	prompt, a, b, reason := SplitTranscripts(chosen, rejected)
	if reason != "" {
		if prompt+a+b != "" {
			t.Fatalf("%q, %q: texts beside the reason %q", chosen, rejected, reason)
		}
		return
	}
	switch {
	case prompt+a != chosen || prompt+b != rejected:
		t.Fatalf("%q, %q: %q + %q / %q do not give them back", chosen, rejected, prompt, a, b)
	case !strings.HasSuffix(prompt, assistantTurn):
		t.Fatalf("%q, %q: prompt %q does not end with a turn", chosen, rejected, prompt)
	case strings.Contains(a, assistantTurn) || strings.Contains(b, humanTurn) || a == b:
		t.Fatalf("%q, %q: completions %q, %q", chosen, rejected, a, b)
	}
	// The other order gives the same split with the sides swapped.
	if p, x, y, _ := SplitTranscripts(rejected, chosen); p != prompt || x != b || y != a {
		t.Fatalf("%q, %q: not symmetric", chosen, rejected)
	}
}

func TestSplitTranscriptsProperties(t *testing.T) {
	piece := rapid.SampledFrom([]string{humanTurn, assistantTurn, " a", " b", "\n\nAss", "istant:", "é", ""})
	draw := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "") })
	rapid.Check(t, func(t *rapid.T) {
		head := draw.Draw(t, "head")
		checkSplit(t, head+draw.Draw(t, "chosen"), head+draw.Draw(t, "rejected"))
	})
}

func FuzzSplitTranscripts(f *testing.F) {
	f.Add("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: a\n\nAssistant: y")
	f.Add("\n\nAssistant:", "\n\nAssistant:\n\nHuman:")
	f.Add("", "x")
	f.Fuzz(func(t *testing.T, chosen, rejected string) { checkSplit(t, chosen, rejected) })
}

// FuzzRow feeds any bytes through every layout: an error or a record with an
// ID, never a panic.
func FuzzRow(f *testing.F) {
	for _, s := range []string{
		`{"prompt":"Q","label":"A"}`, `{"prompt":[{"role":"user","content":"Q"}],"completion":[{"role":"assistant","content":"A"}]}`,
		`{"chosen":"\n\nHuman: a\n\nAssistant: x","rejected":"\n\nHuman: a\n\nAssistant: y"}`, `{"chosen":[],"rejected":[null]}`,
		`{"id":-1,"prompt":"Q","chosen":"A","rejected":"B","chosen_score":1e400}`, `{"messages":[{"from":"gpt","value":"x"}]}`, `[`, `null`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		fields, err := parseLine(line)
		if err != nil {
			return
		}
		raw := rawRow{at: "fuzz: line 1", fields: fields}
		if _, err := detect(raw); err != nil && !strings.HasPrefix(err.Error(), raw.at) {
			t.Fatalf("error does not say where: %v", err)
		}
		for _, layout := range Layouts[1:] {
			r, err := convert(raw, layout)
			switch {
			case err != nil:
				if !strings.HasPrefix(err.Error(), raw.at) {
					t.Fatalf("layout %s: error does not say where: %v", layout, err)
				}
			case r.skip != "":
			case r.prompt != nil && r.prompt.ID != "" && r.prompt.Prompt != "":
			case r.pair != nil && r.pair.ID != "" && r.pair.PromptID != "" && r.pair.Chosen != r.pair.Rejected:
			default:
				t.Fatalf("layout %s: neither record, reason nor error: %+v", layout, r)
			}
		}
	})
}

func TestRenderMessages(t *testing.T) {
	for want, msgs := range map[string][]Message{
		"":                          nil,
		"user:\nHi\n\nassistant:\n": {{"user", "Hi"}},
		"system:\nS\n\nuser:\nHi\n\nassistant:\nYo\n\nuser:\nBye\n\nassistant:\n": {{"system", "S"}, {"user", "Hi"}, {"assistant", "Yo"}, {"user", "Bye"}},
		"user:\nHi\n\nassistant:\nSure,":                                          {{"user", "Hi"}, {"assistant", "Sure,"}},
	} {
		if got := RenderMessages(msgs); got != want {
			t.Errorf("%v: %q, want %q", msgs, got, want)
		}
	}
}
