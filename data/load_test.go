package data

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
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

// Pairs are read from any file that holds some; those of our own files as they stand, with rows that an import would leave out.
func TestPairs(t *testing.T) {
	read := func(path string) (out []Preference, err error) {
		for p, err := range Pairs(path) {
			if err != nil {
				return out, err
			}
			out = append(out, p)
		}
		return out, nil
	}
	trl := `{"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 2}` + "\n\n" + `{"prompt": "R", "chosen": "C", "rejected": "D"}` + "\n"
	want, err := LoadPreferences(file(t, "x.jsonl", trl))
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "hub.parquet")
	if err := parquet.WriteFile(foreign, []struct {
		Prompt   string   `parquet:"prompt"`
		Chosen   string   `parquet:"chosen"`
		Rejected string   `parquet:"rejected"`
		Score    *float64 `parquet:"score_chosen,optional"`
	}{{"Q", "A", "B", want[0].ChosenScore}, {"R", "C", "D", nil}}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file(t, "x.jsonl", trl), file(t, "x.jsonl.gz", trl), foreign} {
		if got, err := read(path); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	own := filepath.Join(t.TempDir(), "own.parquet")
	rows := []Preference{{PromptIDs: []int32{1}, ChosenIDs: []int32{2}, RejectedIDs: []int32{3}}, {Prompt: "Q", Chosen: "A", Rejected: "A"}}
	if err := Write(own, rows, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := read(own); err != nil || len(got) != 2 || got[0].ChosenIDs[0] != 2 || got[1].Rejected != "A" {
		t.Errorf("our own: %+v, %v", got, err)
	}
	for content, want := range map[string]string{
		trl + `{"prompt": "S", "chosen": "E", "rejected": "E"}`: "x.jsonl: line 4: chosen and rejected are identical (`bpo data import` counts",
		`{"prompt": "Q", "label": "A"}`:                         "x.jsonl: line 1: a prompt, not a pair of a chosen and a rejected text",
		"\n":                                                    "x.jsonl: no pairs in it",
		trl + "{":                                               "x.jsonl: line 4: not a JSON object",
	} {
		if _, err := read(file(t, "x.jsonl", content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
	}
	if _, err := read(filepath.Join(t.TempDir(), "none")); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a missing file: %v", err)
	}
}
