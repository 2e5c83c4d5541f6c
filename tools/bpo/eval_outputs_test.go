package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"gobpo/data"
)

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const (
	twoReferences = `{"prompt": "p", "reference": "r"}` + "\n" + `{"prompt": "q", "reference": "s"}` + "\n"
	twoRows       = `{"prompt": "p", "text": "one"}` + "\n" + `{"prompt": "q", "text": ""}` + "\n"
	alpaca        = `{"dataset": "d", "instruction": "p", "output": "one", "generator": "g", "id": 7}` + "\n" + `{"instruction": "q", "output": "", "generator": "g"}` + "\n"
)

// Every form of the same two outputs, the second of them empty, is read as these.
func TestOutputsOfAllForms(t *testing.T) {
	dir := t.TempDir()
	refs := filepath.Join(dir, "refs.jsonl")
	list := "[" + strings.Replace(strings.TrimSpace(alpaca), "\n", ",\n", 1) + "]"
	files := map[string]string{
		"refs.jsonl": twoReferences,
		"a.jsonl":    twoRows, "a.ndjson": twoRows, "a.jsonl.gz": zipped(t, twoRows), "a.ndjson.gz": zipped(t, twoRows), "b.json": twoRows,
		"alpaca.jsonl": alpaca, "alpaca.json": list, "alpaca.json.gz": zipped(t, list),
		"completion.jsonl": strings.ReplaceAll(twoRows, `"text"`, `"completion"`),
		"a.txt":            "one\n\n", "c.txt": "\ufeffone\r\n\r\n", "a.txt.gz": zipped(t, "one\n\n"), "plain": "one\n\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := data.Write(filepath.Join(dir, "a.parquet"), []data.Completion{{Prompt: "p", Text: "one"}, {Prompt: "q"}}, nil); err != nil {
		t.Fatal(err)
	}
	type published struct {
		Instruction string `parquet:"instruction"`
		Output      string `parquet:"output"`
		Generator   string `parquet:"generator"`
	}
	if err := parquet.WriteFile(filepath.Join(dir, "b.parquet"), []published{{"p", "one", "g"}, {"q", "", "g"}}); err != nil {
		t.Fatal(err)
	}
	files["a.parquet"], files["b.parquet"] = "", ""
	for name := range files {
		if name == "refs.jsonl" {
			continue
		}
		got, err := outputsFrom(filepath.Join(dir, name), refs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(got) != 2 || got[0].Text != "one" || got[1].Text != "" || got[0].Prompt != "p" || got[1].Reference != "s" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Published outputs are references too.
	others := filepath.Join(dir, "others.json")
	if err := os.WriteFile(others, []byte(`[{"instruction": "p", "output": "R"}, {"instruction": "q", "output": "S"}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := outputsFrom(filepath.Join(dir, "alpaca.jsonl"), others); err != nil || got[0].Reference != "R" || got[1].Reference != "S" {
		t.Errorf("%+v, %v", got, err)
	}
}

// What would be judged as something that it is not is refused in one line.
func TestOutputsRefused(t *testing.T) {
	long := strings.Repeat("x", 50)
	for name, c := range map[string]struct{ file, text, refs, want string }{
		"other order":    {"o.jsonl", `{"prompt": "q", "text": "1"}` + "\n" + `{"prompt": "p", "text": "2"}`, twoReferences, `o.jsonl: row 1 answers "q", but row 1 of DIR/refs.jsonl is "p" (they part at byte 1); the prompts are the same, in another order`},
		"other prompt":   {"o.jsonl", `{"prompt": "p", "text": "1"}` + "\n" + `{"prompt": "` + long + `", "text": "2"}`, twoReferences, `o.jsonl: row 2 answers "` + long[:40] + `", but row 2 of DIR/refs.jsonl is "q" (they part at byte 1)`},
		"JSON as text":   {"o.txt", twoRows, twoReferences, "o.txt: every line is a JSON object: call it .jsonl"},
		"unknown name":   {"o.csv", "a,b\n", twoReferences, "o.csv: outputs are .jsonl, .ndjson, .json or .parquet, or .txt with one output a line; not .csv"},
		"binary":         {"o.txt", "one\n\x00\x01\n", twoReferences, "o.txt: line 2 is not text (UTF-8)"},
		"Latin-1":        {"o.txt", "one\ntwo\xe9\n", twoReferences, "o.txt: line 2 is not text (UTF-8)"},
		"cut gzip":       {"o.txt.gz", zipped(t, "one\ntwo\n")[:20], twoReferences, "o.txt.gz: truncated or corrupt gzip data"},
		"no text":        {"o.jsonl", `{"prompt": "p", "text": "1"}` + "\n" + `{"prompt": "q", "txet": "2"}`, twoReferences, "o.jsonl: row 2: no text: its keys are {prompt, txet}; name it text, output or completion"},
		"null":           {"o.jsonl", `{"prompt": "p", "text": null}`, twoReferences, "o.jsonl: row 1: no text"},
		"number":         {"o.jsonl", `{"prompt": "p", "output": 3}`, twoReferences, `o.jsonl: row 1: key "output" is not text`},
		"input":          {"o.jsonl", `{"instruction": "p", "input": "it", "output": "3"}`, twoReferences, `o.jsonl: row 1: an "input" beside the instruction; put both into "prompt"`},
		"prompt amiss":   {"o.jsonl", `{"promt": "p", "text": "1", "reference": "r"}`, "", "o.jsonl: row 1 has no prompt: its keys are {promt, reference, text}"},
		"reference":      {"o.jsonl", `{"prompt": "p", "text": "1", "refrence": "r"}`, "", "o.jsonl: output 1 has no reference text; give them with --references"},
		"no references":  {"o.txt", "one\n", `{"prompt": "p"}`, "refs.jsonl: row 1 has no reference text"},
		"one line short": {"o.txt", "one", twoReferences, "refs.jsonl has 2 rows for the 1 outputs of"},
	} {
		dir := t.TempDir()
		path, refs := filepath.Join(dir, c.file), ""
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if c.refs != "" {
			refs = filepath.Join(dir, "refs.jsonl")
			if err := os.WriteFile(refs, []byte(c.refs), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, err := outputsFrom(path, refs)
		if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(c.want, "DIR", dir)) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
	// Rows of our keys only need no prompt: not every evaluator reads it.
	path := filepath.Join(t.TempDir(), "o.jsonl")
	if err := os.WriteFile(path, []byte(`{"text": "1", "reference": "r"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := outputsFrom(path, ""); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
