package data

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// All 2,312 real pairs are imported or counted.
func TestImportRealTranscripts(t *testing.T) {
	in := shared(t, "hh-rlhf/harmless-base-test.jsonl.gz")
	out := filepath.Join(t.TempDir(), "pairs.parquet")
	rep, err := Import(t.Context(), []string{in}, out, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := ImportReport{
		Schema: "preferences/v1", Layouts: []string{"hh"}, Rows: 2312, Written: map[string]int{out: 2303},
		Skipped: map[string]int{SkipEmpty: 4, SkipDiverged: 5},
	}
	if !reflect.DeepEqual(rep, want) {
		t.Errorf("got %+v\nwant %+v", rep, want)
	}
	pairs, err := Read[Preference](out)
	if err != nil || len(pairs) != 2303 {
		t.Fatalf("%d pairs, %v", len(pairs), err)
	}
	for _, p := range pairs {
		if !strings.HasPrefix(p.Prompt, humanTurn) || !strings.HasSuffix(p.Prompt, assistantTurn) || strings.Contains(p.Chosen+p.Rejected, humanTurn) {
			t.Errorf("pair %+v", p)
		}
	}
	info, err := Describe(out)
	if err != nil || info.Rows != 2303 || info.Schema != "preferences/v1" || !strings.Contains(info.Meta["gobpo.import"], `"rows":2312`) {
		t.Errorf("Describe: %+v, %v", info, err)
	}
	if _, err := Import(t.Context(), []string{in}, out, ImportOptions{}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("second import: %v, want a refusal", err)
	}
}

func TestImportRealPrompts(t *testing.T) {
	in := shared(t, "hh/train.jsonl")
	dir := t.TempDir()
	for dedup, want := range map[string]int{"": 10000, "exact": 7493, "prompt": 7465} {
		rep, err := Import(t.Context(), []string{in}, filepath.Join(dir, "x"+dedup+".parquet"), ImportOptions{Dedup: dedup})
		if err != nil {
			t.Fatal(err)
		}
		if n := rep.Rows - rep.Duplicates; n != want || rep.Rows != 10000 {
			t.Errorf("dedup %q: %d rows left, want %d", dedup, n, want)
		}
	}
	out := filepath.Join(dir, "hh.parquet")
	splits, err := ParseSplits("train=0.9,dev=0.05,test=0.05")
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Import(t.Context(), []string{in}, out, ImportOptions{Splits: splits, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, s := range splits {
		p := outputName(out, s.Name)
		paths = append(paths, p)
		if got := float64(rep.Written[p]) / 10000; got < s.Share*0.8 || got > s.Share*1.2 {
			t.Errorf("split %s has %.3f of the rows, want about %.2f", s.Name, got, s.Share)
		}
	}
	if c := Check(CheckOptions{}, paths...); len(c.Errors) > 0 {
		t.Errorf("splits leak: %v", c.Errors)
	}

	// A share is split again by another seed only.
	again, half := filepath.Join(dir, "again.parquet"), Splits{{"a", 0.5}, {"b", 0.5}}
	_, err = Import(t.Context(), paths[:1], again, ImportOptions{Splits: half, Seed: 3})
	if err == nil || !strings.Contains(err.Error(), "hh-train.parquet: came of a split with seed 3") {
		t.Errorf("a share split by the same seed: %v", err)
	}
	shares, err := Import(t.Context(), paths[:1], again, ImportOptions{Splits: half, Seed: 4})
	if err != nil {
		t.Fatal(err)
	}
	for path, n := range shares.Written {
		if got := float64(n) / float64(rep.Written[paths[0]]); got < 0.45 || got > 0.55 {
			t.Errorf("%s has %.3f of the rows, want about 0.5", path, got)
		}
	}
}

// An import that fails, at any row or by a cancelled context, leaves nothing.
func TestImportLeavesNothing(t *testing.T) {
	good := file(t, "good.jsonl", strings.Repeat(`{"prompt":"Q","label":"A"}`+"\n", 3000))
	bad := file(t, "bad.jsonl", strings.Repeat(`{"prompt":"Q","label":"A"}`+"\n", 3000)+"oops")
	pairs := file(t, "pairs.jsonl", `{"prompt":"Q","chosen":"A","rejected":"B"}`)
	same := file(t, "same.jsonl", `{"prompt":"Q","chosen":"A","rejected":"A"}`)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		inputs []string
		o      ImportOptions
		want   string
	}{
		"malformed row":      {t.Context(), []string{good, bad}, ImportOptions{}, "bad.jsonl: line 3001: not a JSON object"},
		"cancelled":          {cancelled, []string{good}, ImportOptions{}, "context canceled"},
		"prompts as pairs":   {t.Context(), []string{good}, ImportOptions{As: "preferences"}, "line 1: a row of layout prompt-label has no chosen"},
		"pairs, prompts":     {t.Context(), []string{good, pairs}, ImportOptions{}, "pairs.jsonl: line 1: a preference after prompts"},
		"nothing left":       {t.Context(), []string{same}, ImportOptions{}, "1: chosen and rejected are identical"},
		"unknown layout":     {t.Context(), []string{good}, ImportOptions{Layout: "csv"}, `layout: "csv" is not one of auto`},
		"unknown dedup":      {t.Context(), []string{good}, ImportOptions{Dedup: "all"}, "dedup:"},
		"unknown kind":       {t.Context(), []string{good}, ImportOptions{As: "rows"}, "as:"},
		"no inputs":          {t.Context(), nil, ImportOptions{}, "no input"},
		"layout not fitting": {t.Context(), []string{good}, ImportOptions{Layout: "hh"}, `no key "chosen"`},
	} {
		dir := t.TempDir()
		_, err := Import(c.ctx, c.inputs, filepath.Join(dir, "o.parquet"), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		onlyFile(t, dir)
	}
	if _, err := Import(cancelled, []string{good}, "x", ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v is no context.Canceled", err)
	}
}

func TestImportPairsAsPrompts(t *testing.T) {
	in := file(t, "pairs.jsonl", `{"prompt":"Q","chosen":"A","rejected":"B"}`+"\n"+`{"prompt":"Q","chosen":"C","rejected":"B"}`)
	out := filepath.Join(t.TempDir(), "o.parquet")
	calls := 0
	rep, err := Import(t.Context(), []string{in}, out, ImportOptions{As: "prompts", Dedup: "prompt", OnRow: func(ImportReport) { calls++ }})
	if err != nil || rep.Written[out] != 1 || rep.Duplicates != 1 || calls != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	got, err := LoadPrompts(out)
	if err != nil || len(got) != 1 || got[0].Reference != "A" || got[0].ID != ID("Q", "A") {
		t.Errorf("%+v, %v", got, err)
	}
	for _, want := range []string{"2 rows read (layout trl)", "1 left out: duplicates", "prompts/v1"} {
		if !strings.Contains(rep.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, rep)
		}
	}
}

// What an import writes, it reads back the same, also through JSON lines.
func TestImportRoundTrip(t *testing.T) {
	dir := t.TempDir()
	a, b, lines := filepath.Join(dir, "a.parquet"), filepath.Join(dir, "b.parquet"), filepath.Join(dir, "l.jsonl")
	rapid.Check(t, func(t *rapid.T) {
		p := drawPreference(t)
		p.Chosen, p.Rejected, p.Prompt = "c"+p.Chosen, "r"+p.Rejected, "p"+p.Prompt
		if len(p.Messages) > 0 {
			p.Prompt = RenderMessages(p.Messages)
		}
		p.ID, p.PromptID = "i"+p.ID, "j"+p.PromptID
		if err := Write(a, []Preference{p}, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(lines, jsonBytes(t, p), 0o666); err != nil {
			t.Fatal(err)
		}
		for _, in := range []string{a, lines} {
			if _, err := Import(context.Background(), []string{in}, b, ImportOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			got, err := Read[Preference](b)
			if err != nil || len(got) != 1 || !reflect.DeepEqual(canon(got[0]), canon(p)) {
				t.Fatalf("%s: %v\n got %+v\nwant %+v", in, err, got, p)
			}
		}
	})
}

func TestProgress(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in.jsonl")
	writeRows(t, in, 5000)
	var seen []int
	_, err := Import(t.Context(), []string{in}, filepath.Join(t.TempDir(), "o.parquet"), ImportOptions{OnRow: func(r ImportReport) { seen = append(seen, r.Rows) }})
	if want := []int{1024, 2048, 3072, 4096}; err != nil || fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("progress at %v, %v; want %v", seen, err, want)
	}
}
