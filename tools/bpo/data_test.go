package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobpo/data"
)

// dataCmd runs one `bpo data` command line.
func dataCmd(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, progress bytes.Buffer
	cmd := newDataCmd()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&progress)
	err = cmd.ExecuteContext(context.Background())
	return out.String(), err
}

func dataFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustContain(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}

const transcripts = `{"chosen":"\n\nHuman: Hi\n\nAssistant: Hello there","rejected":"\n\nHuman: Hi\n\nAssistant: No"}
{"chosen":"\n\nHuman: Bye\n\nAssistant: See you","rejected":"\n\nHuman: Bye\n\nAssistant: See you"}
`

func TestDataImportShow(t *testing.T) {
	in := dataFile(t, "pairs.jsonl", transcripts)
	out := filepath.Join(t.TempDir(), "pairs.parquet")
	text, err := dataCmd(t, "import", in, "--out", out)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, text, "2 rows read (layout hh)", "1 → "+out, "1 left out: chosen and rejected are identical")

	text, err = dataCmd(t, "show", out)
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, text, "parquet, schema preferences/v1, 1 rows", "gobpo.source = pairs.jsonl", "chosen_score double?", "messages list<{",
		"── row 1", "    Human: Hi", "chosen:  Hello there", "rejected:  No")

	text, err = dataCmd(t, "show", out, "--json")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var info data.Info
	var row data.Preference
	if len(lines) != 2 || json.Unmarshal([]byte(lines[0]), &info) != nil || json.Unmarshal([]byte(lines[1]), &row) != nil {
		t.Fatalf("not two JSON lines:\n%s", text)
	}
	if info.Rows != 1 || row.Chosen != " Hello there" {
		t.Errorf("info %+v, row %+v", info, row)
	}
	if _, err := dataCmd(t, "show", out, "--row", "2"); err == nil || !strings.Contains(err.Error(), "row 2: there are only 1 rows") {
		t.Errorf("row after the last: %v", err)
	}
	text, err = dataCmd(t, "show", in, "--row", "2", "--n", "1")
	if err != nil {
		t.Fatal(err)
	}
	mustContain(t, text, "jsonl, schema not ours", "── row 2", "Human: Bye")
	if strings.Contains(text, "Hello") {
		t.Errorf("row 1 shown too:\n%s", text)
	}
}

func TestDataImportRefuses(t *testing.T) {
	in := dataFile(t, "in.jsonl", `{"prompt":"Q","label":"A"}`)
	out := filepath.Join(t.TempDir(), "o.parquet")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"import", in}, "--out"},
		{[]string{"import", "--out", out}, "at least 1 arg"},
		{[]string{"import", in, "--out", out, "--split", "a=0.4,b=0.4"}, "--split: "},
		{[]string{"import", in, "--out", out, "--layout", "cvs"}, `"cvs" is not one of auto`},
		{[]string{"import", in + ".absent", "--out", out}, "in.jsonl.absent"},
		{[]string{"show", in, "--row", "0"}, "--row counts from 1"},
		{[]string{"show", in + ".absent"}, "in.jsonl.absent"},
	} {
		if _, err := dataCmd(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a refused import left a file")
	}
}

func TestDataCheckStatus(t *testing.T) {
	a := dataFile(t, "a.jsonl", `{"prompt":"Q","label":"A"}`+"\n"+`{"prompt":"R","label":""}`)
	b := dataFile(t, "b.jsonl", `{"prompt":"Q","label":"A"}`)
	c := dataFile(t, "c.jsonl", `{"prompt":"S","label":"A"}`)
	text, err := dataCmd(t, "check", a, b)
	if err == nil || !strings.Contains(err.Error(), "1 errors") {
		t.Errorf("leakage: %v", err)
	}
	mustContain(t, text, "error: leakage: 1 of 2 rows", "warning: "+a+": 1 of 2 rows: the reference (label) is empty")
	if text, err = dataCmd(t, "check", a, b, "--allow-leakage"); err != nil {
		t.Errorf("allowed leakage: %v", err)
	}
	mustContain(t, text, "warning: leakage")
	if _, err := dataCmd(t, "check", a, c); err != nil {
		t.Errorf("only warnings: %v", err)
	}
	text, err = dataCmd(t, "check", "--json", a, b)
	var rep data.CheckReport
	if err == nil || json.Unmarshal([]byte(text), &rep) != nil || len(rep.Leaks) != 1 || rep.Files[0].Rows != 2 {
		t.Errorf("JSON report: %v\n%s", err, text)
	}
	if _, err := dataCmd(t, "check", a+".absent"); err == nil {
		t.Error("absent file: no error")
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"short", []string{"short"}},
		{"aaaa bbbb cccc dddd eeee", []string{"aaaa bbbb cccc dddd", "eeee"}},
		{"a\n\nb\n", []string{"a", "", "b"}},
		{strings.Repeat("é", 45), []string{strings.Repeat("é", 20), strings.Repeat("é", 20), "ééééé"}},
		{"red \x1b[31m", []string{"red \ufffd[31m"}},
	} {
		if got := wrap(c.text, 20); strings.Join(got, "|") != strings.Join(c.want, "|") {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}
