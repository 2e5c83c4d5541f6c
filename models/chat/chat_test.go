package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

type golden struct {
	Name, Template string
	Cases          []struct {
		Messages    []Message
		Prompt      bool
		Text, Error string
	}
}

// goldens are what Python's Jinja renders, made by testdata/make_goldens.py.
func goldens(t testing.TB) []golden {
	t.Helper()
	data, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []golden
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func stopClock(t testing.TB) {
	old := now
	now = func() time.Time { return time.Date(2024, 7, 5, 9, 8, 7, 0, time.UTC) }
	t.Cleanup(func() { now = old })
}

func TestGoldens(t *testing.T) {
	stopClock(t)
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			for i, c := range g.Cases {
				got, err := Render(g.Template, c.Messages, c.Prompt, "<s>", "</s>")
				switch {
				case c.Error != "" && err == nil:
					t.Errorf("case %d: %q, but Jinja says %q", i, got, c.Error)
				case c.Error == "" && err != nil:
					t.Errorf("case %d: %v", i, err)
				case c.Error == "" && got != c.Text:
					t.Errorf("case %d:\n%q, want\n%q", i, got, c.Text)
				case err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 300):
					t.Errorf("case %d: not one short line: %q", i, err)
				}
			}
		})
	}
}

// smolLM2 is the real model's template and what its golden log-probs were made for.
func smolLM2(t *testing.T) (template string, logps []smolPrompt) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for ; data == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		data, _ = os.ReadFile(filepath.Join(dir, "..", "shared", "goldens", "smollm2.json"))
	}
	if data == nil {
		t.Skip("../shared/goldens/smollm2.json is not here")
	}
	var g struct {
		ChatTemplate string `json:"chat_template"`
		Logps        []smolPrompt
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g.ChatTemplate, g.Logps
}

type smolPrompt struct {
	Prompt    string
	PromptIDs []int32 `json:"prompt_ids"`
}

// The real model's template gives the prompts its golden log-probs were made for.
func TestSmolLM2(t *testing.T) {
	template, logps := smolLM2(t)
	system := "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
	for _, c := range []struct {
		messages []Message
		prompt   bool
		want     string
	}{
		{[]Message{{"user", "How do I teach kids to meditate?"}}, true, logps[0].Prompt},
		{[]Message{{"user", "a"}, {"assistant", "b"}}, false, system + "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"},
		{[]Message{{"system", "s"}, {"user", " {{ a }} "}}, true, "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n {{ a }} <|im_end|>\n<|im_start|>assistant\n"},
		{nil, true, "<|im_start|>assistant\n"},
		{nil, false, ""},
	} {
		got, err := Render(template, c.messages, c.prompt, "<|im_start|>", "<|im_end|>")
		if err != nil || got != c.want {
			t.Errorf("%v: %q, %v; want %q", c.messages, got, err, c.want)
		}
	}
}

func TestErrorsSayWhatFailed(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"{{ raise_exception('Only user\n and assistant') }}", "chat template: Only user and assistant"},
		{"{% if %}{% endif %}", `"if"`},
		{"{% for m in messages %}", "endfor"},
		{"a\n{{ messages | nosuch }}", "line 2"},
		{"{{ nosuch() }}", "nosuch"},
		{"{{ messages[0].content.nosuch() }}", "nosuch"},
		{"{% include 'x' %}", "x"},
		{"{% import '/etc/passwd' as p %}", "/etc/passwd"},
		{"{{ strftime_now('%Q') }}", "%Q is not supported"},
		{"{{ strftime_now('%') }}", "ends in %"},
		{"{{ messages | tojson(sort_keys=true) }}", "sort_keys"},
		{"{{ raise_exception | tojson }}", "not JSON serializable"},
		{"{{ 'a'.split('') }}", "separator"},
		{"{{ 'a'.split(none, 1) }}", "maxsplit"},
		{"{{ 'a'.replace('a') }}", "replace"},
		{"{% generation 3 %}{% endgeneration %}", "generation"},
		{"{% generation %}", "endgeneration"},
		{"{{", ""}, {"{% set %}", ""}, {"{{ a.b.c }}", ""},
	} {
		text, err := Render(c.template, []Message{{"user", "Hi"}}, true, "", "")
		if err == nil {
			t.Errorf("%s gives %q, want an error", c.template, text)
			continue
		}
		s := err.Error()
		if !strings.HasPrefix(s, "chat template: ") || !strings.Contains(s, c.want) || strings.Contains(s, "\n") || len(s) > 300 {
			t.Errorf("%s: %q does not say %q in one line", c.template, s, c.want)
		}
	}
}

func TestTemplatesAreKept(t *testing.T) {
	const template = "{{ messages[0].content }}"
	if _, err := Render(template, []Message{{"user", "a"}}, false, "", ""); err != nil {
		t.Fatal(err)
	}
	first := compiled[template]
	for i := range 2 * maxCompiled {
		if got, err := Render(template, []Message{{"user", "b"}}, false, "", ""); err != nil || got != "b" {
			t.Fatalf("%q, %v", got, err)
		}
		if i == 0 && compiled[template] != first {
			t.Error("the template is compiled again")
		}
		if _, err := Render(strings.Repeat("x", i), nil, false, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	if len(compiled) > maxCompiled {
		t.Errorf("%d templates are kept", len(compiled))
	}
}

// Values set while one conversation is rendered must not leak into another.
func TestConcurrentRenders(t *testing.T) {
	const template = "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s + m.content.strip() %}{% set x = m.role %}{% endfor %}{{ ns.s }}{{ x }}"
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := string(rune('a' + i))
			for range 200 {
				got, err := Render(template, []Message{{"user", c}, {"user", c + " "}}, false, "", "")
				if err != nil || got != c+c {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestToJSON(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{`"a\"\\\n\t<é>'" | tojson`, `"a\"\\\n\t<é>'"`},
		{`messages | tojson`, `[{"role": "user", "content": "\u0001\b\f\r` + "\u2028" + `"}]`},
		{`[] | tojson`, `[]`}, {`{} | tojson(indent=2)`, `{}`}, {`[1, [2]] | tojson(indent=1)`, "[\n 1,\n [\n  2\n ]\n]"},
		{`1.5 | tojson`, "1.5"}, {`2.0 | tojson`, "2.0"}, {`-3 | tojson`, "-3"}, {`true | tojson`, "true"}, {`none | tojson`, "null"},
		{`{"z": {"a": none}, "b": messages[0].role} | tojson`, `{"z": {"a": null}, "b": "user"}`},
	} {
		got, err := Render("{{ "+c.expression+" }}", []Message{{"user", "\x01\b\f\r\u2028"}}, false, "", "")
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.expression, got, err, c.want)
		}
	}
}

// FuzzRender: a broken template is an error, never a crash; a conversation's text
// never counts as template.
func FuzzRender(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.Template, "Hi {{ x }} {% y %}")
	}
	f.Fuzz(func(t *testing.T, template, content string) {
		if len(template) > 2000 || strings.Contains(template, "range") || strings.Contains(template, "*") {
			t.Skip("templates may compute for ever; that is not what is tested")
		}
		if _, err := Render(template, []Message{{"user", content}}, true, "<s>", "</s>"); err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("an error of several lines: %q", err)
		}
		if got, err := Render("{{ messages[0].content }}", []Message{{"user", content}}, true, "", ""); err != nil || got != content {
			t.Fatalf("%q is rendered as %q, %v", content, got, err)
		}
	})
}
