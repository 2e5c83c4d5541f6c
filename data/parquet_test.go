package data

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/parquet-go/parquet-go"
	"pgregory.net/rapid"
)

func ptr[T any](v T) *T { return &v }

func drawText(t *rapid.T, label string) string { return rapid.String().Draw(t, label) }

func drawMessages(t *rapid.T) []Message {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Message {
		return Message{rapid.SampledFrom([]string{"system", "user", "assistant"}).Draw(t, "role"), drawText(t, "content")}
	}), 0, 4).Draw(t, "messages")
}

func drawPreference(t *rapid.T) Preference {
	ids := rapid.SliceOfN(rapid.Int32(), 0, 8)
	logps := rapid.SliceOfN(rapid.Float32Max(0), 0, 8)
	p := Preference{
		ID: drawText(t, "id"), PromptID: drawText(t, "prompt id"), Prompt: drawText(t, "prompt"), Reference: drawText(t, "reference"),
		Messages: drawMessages(t), Chosen: drawText(t, "chosen"), Rejected: drawText(t, "rejected"),
		PromptIDs: ids.Draw(t, "p"), ChosenIDs: ids.Draw(t, "c"), RejectedIDs: ids.Draw(t, "r"),
		ChosenLogps: logps.Draw(t, "cl"), RejectedLogps: logps.Draw(t, "rl"), RefChosenLogps: logps.Draw(t, "rcl"), RefRejectedLogps: logps.Draw(t, "rrl"),
		Annotator: drawText(t, "annotator"), BehaviorVersion: rapid.Int().Draw(t, "v"), Phase: rapid.Int().Draw(t, "phase"), Step: rapid.Int().Draw(t, "step"),
	}
	if rapid.Bool().Draw(t, "scored") {
		p.ChosenScore, p.RejectedScore = ptr(rapid.Float64().Draw(t, "cs")), ptr(rapid.Float64().Draw(t, "rs"))
	}
	return p
}

// canon makes nil and empty lists, which Parquet does not tell apart, equal.
func canon(p Preference) Preference {
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return p
}

func TestPreferenceRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.parquet")
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(drawPreference), 0, 5).Draw(t, "rows")
		if err := Write(path, rows, map[string]string{"who": "test"}); err != nil {
			t.Fatal(err)
		}
		got, err := Read[Preference](path)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(rows) {
			t.Fatalf("%d rows back, want %d", len(got), len(rows))
		}
		for i := range rows {
			if !reflect.DeepEqual(canon(got[i]), canon(rows[i])) {
				t.Fatalf("row %d:\n got %+v\nwant %+v", i, got[i], rows[i])
			}
		}
	})
}

// Rows of many batches and row groups come back in order, and a row's lists
// survive the next read.
func TestRowsManyGroups(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "c.parquet")
	n := 2*rowsPerGroup + 17
	w, err := Create[Completion](path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		c := Completion{ID: fmt.Sprint(i), Text: "x", IDs: make([]int32, i%5), Stopped: i%2 == 0}
		for j := range c.IDs {
			c.IDs[j] = int32(i)
		}
		if i%3 == 0 {
			c.Score = ptr(float64(i))
		}
		if err := w.Write(c); err != nil {
			t.Fatal(err)
		}
	}
	if w.Rows() != int64(n) {
		t.Errorf("Rows() = %d, want %d", w.Rows(), n)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rows, err := Read[Completion](path)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != n {
		t.Fatalf("%d rows, want %d", len(rows), n)
	}
	for i, c := range rows {
		if c.ID != fmt.Sprint(i) || len(c.IDs) != i%5 || (c.Score != nil) != (i%3 == 0) || c.Stopped != (i%2 == 0) {
			t.Fatalf("row %d: %+v", i, c)
		}
		for _, id := range c.IDs {
			if id != int32(i) {
				t.Fatalf("row %d: ids %v", i, c.IDs)
			}
		}
	}
	for range Rows[Completion](path) {
		break // leaving early must neither panic nor report
	}
}

func TestConsumerPanicPasses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.parquet")
	if err := Write(path, []Prompt{{Prompt: "a"}}, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != "mine" {
			t.Errorf("recovered %v, want the loop body's own panic", p)
		}
	}()
	for range Rows[Prompt](path) {
		panic("mine")
	}
}

func TestSchemaRefused(t *testing.T) {
	dir := t.TempDir()
	prompts, foreign, lying := filepath.Join(dir, "prompts.parquet"), filepath.Join(dir, "foreign.parquet"), filepath.Join(dir, "lying.parquet")
	if err := Write(prompts, []Prompt{{Prompt: "a"}}, nil); err != nil {
		t.Fatal(err)
	}
	type other struct {
		Prompt string `parquet:"prompt"`
		ID     int64  `parquet:"id"`
	}
	if err := parquet.WriteFile(foreign, []other{{"a", 1}}); err != nil {
		t.Fatal(err)
	}
	if err := parquet.WriteFile(lying, []other{{"a", 1}}, parquet.KeyValueMetadata(SchemaKey, Schema[Prompt]())); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"another of ours": {second(Read[Preference](prompts)), []string{prompts, "prompts/v1", "preferences/v1"}},
		"foreign":         {second(Read[Prompt](foreign)), []string{foreign, "prompts/v1", "bpo data import"}},
		"lying":           {second(Read[Prompt](lying)), []string{lying, `"id"`}},
		"absent":          {second(Read[Prompt](dir + "/absent")), []string{dir + "/absent"}},
		"directory":       {second(Read[Prompt](dir)), []string{dir, "directory"}},
	} {
		if c.err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(c.err.Error(), w) || strings.Contains(c.err.Error(), "\n") {
				t.Errorf("%s: error %q lacks %q or is longer than a line", name, c.err, w)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Every truncation, and every flipped byte, must give the rows that were
// written or an error naming the file: never a panic, never other rows.
func TestCorruptParquet(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.parquet")
	var rows []Preference
	for i := range 40 {
		rows = append(rows, Preference{ID: fmt.Sprint("row ", i), Prompt: strings.Repeat("prompt ", i), Chosen: "yes", Rejected: "no", ChosenIDs: []int32{1, int32(i)}, ChosenScore: ptr(1.5)})
	}
	if err := Write(path, rows, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.parquet")
	read := func(what string, content []byte) error {
		if err := os.WriteFile(bad, content, 0o666); err != nil {
			t.Fatal(err)
		}
		got, err := Read[Preference](bad)
		if err != nil && !strings.HasPrefix(err.Error(), bad+": ") {
			t.Errorf("%s: error does not name the file: %v", what, err)
		}
		if err == nil {
			same := len(got) == len(rows)
			for i := range got {
				same = same && reflect.DeepEqual(canon(got[i]), canon(rows[i]))
			}
			if !same {
				t.Errorf("%s: other rows and no error", what)
			}
		}
		if _, err := LoadPrompts(bad); err == nil && what[0] == 't' {
			t.Errorf("%s: LoadPrompts gave no error", what)
		}
		return err
	}
	for n := 0; n < len(whole); n += 1 + len(whole)/60 {
		if err := read(fmt.Sprintf("truncated to %d bytes", n), whole[:n]); err == nil {
			t.Errorf("truncated to %d of %d bytes: no error", n, len(whole))
		}
	}
	quiet, flipStride := 0, 1+len(whole)/400
	if os.Getenv("BPO_BIG_TESTS") != "" {
		flipStride = 1
	}
	for i := 4; i < len(whole)-8; i += flipStride {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 0x55
		if read(fmt.Sprintf("byte %d flipped", i), flipped) == nil {
			quiet++
		}
	}
	t.Logf("%d flips were in bytes that carry no rows", quiet)
}

func TestWriterAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.parquet")
	if err := Write(path, []Prompt{{Prompt: "old"}}, nil); err != nil {
		t.Fatal(err)
	}
	w, err := Create[Prompt](path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Prompt{Prompt: "new"}); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if err := w.Write(Prompt{}); err == nil {
		t.Error("write after abort: no error")
	}
	rows, err := Read[Prompt](path)
	if err != nil || len(rows) != 1 || rows[0].Prompt != "old" {
		t.Errorf("after an aborted write: %v, %v; want the old file", rows, err)
	}
	onlyFile(t, dir, "p.parquet")
	if _, err := Create[Prompt](filepath.Join(path, "below", "x.parquet"), nil); err == nil || !strings.Contains(err.Error(), "x.parquet") {
		t.Errorf("directory that cannot be made: %v", err)
	}
}

func onlyFile(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s holds %v, want %v", dir, got, want)
	}
}

// TestFullDisk runs itself in a process whose files may not grow, which is
// what a full disk looks like to a writer.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv("DATA_TEST_FULL_DISK"); dir != "" {
		signal.Ignore(syscall.SIGXFSZ) // the write then fails with EFBIG
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: 4096}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "out.parquet")
		var text strings.Builder
		for i := range 200_000 {
			fmt.Fprint(&text, ID(fmt.Sprint(i)))
		}
		err := Write(path, []Prompt{{Prompt: text.String()}}, nil)
		if !errors.Is(err, syscall.EFBIG) || !strings.HasPrefix(err.Error(), path+": ") {
			t.Fatalf("error %v, want EFBIG naming %s", err, path)
		}
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "DATA_TEST_FULL_DISK="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	onlyFile(t, dir)
}
