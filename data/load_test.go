package data

import (
	"os"
	"path/filepath"
	"testing"
)

// shared is a file of the project's real data, which lies beside the
// repository and is not part of it; the test is skipped where it is absent.
func shared(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		p := filepath.Join(d, "shared", "data", name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
		if d == filepath.Dir(d) {
			t.Skipf("no shared/data/%s above %s: real data not here", name, dir)
		}
	}
}

func TestLoadPromptsReal(t *testing.T) {
	for name, want := range map[string]int{
		"hh/train.jsonl": 10000, "hh/sampling.jsonl": 10000, "hh/dev.jsonl": 500, "hh/test.jsonl": 500,
		"tldr/dev.jsonl": 1000, "tldr/test.jsonl": 1000, "harm/dev.jsonl": 500, "harm/test.jsonl": 500,
	} {
		t.Run(name, func(t *testing.T) {
			prompts, err := LoadPrompts(shared(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if len(prompts) != want {
				t.Fatalf("%d prompts, want %d", len(prompts), want)
			}
			for i, p := range prompts {
				if p.Prompt == "" || p.ID != ID(p.Prompt, p.Reference) {
					t.Fatalf("row %d: %+v", i+1, p)
				}
			}
		})
	}
}
