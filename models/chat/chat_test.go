package chat

import (
	"encoding/json"
	"os"
	"strings"
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
				if err != nil && i < 1 {
					t.Log(err)
				}
			}
		})
	}
}
