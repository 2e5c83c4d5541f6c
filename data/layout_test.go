package data

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// file writes content under a name in a new directory; .gz names compress it.
func file(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	b := []byte(content)
	if strings.HasSuffix(name, ".gz") {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		if _, err := z.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		b = buf.Bytes()
	}
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func oneRow(t *testing.T, line string) located {
	t.Helper()
	for r, err := range convertAll(file(t, "x.jsonl", line), "auto") {
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return r
	}
	t.Fatalf("%s: no row", line)
	return located{}
}

func TestPromptLayouts(t *testing.T) {
	hi := []Message{{"user", "Hi"}}
	for _, c := range []struct {
		line, layout string
		want         Prompt
	}{
		{`{"prompt":"Q","label":"A"}`, "prompt-label", Prompt{Prompt: "Q", Reference: "A"}},
		{`{"id":7,"prompt":"Q","label":null,"extra":[1]}`, "prompt-label", Prompt{ID: "7", Prompt: "Q"}},
		{`{"prompt":"Q","completion":" A"}`, "prompt-completion", Prompt{Prompt: "Q", Reference: " A"}},
		{`{"prompt":"Q"}`, "prompt-only", Prompt{Prompt: "Q"}},
		{`{"id":"x","prompt":"Q","reference":"A"}`, "prompts", Prompt{ID: "x", Prompt: "Q", Reference: "A"}},
		{`{"prompt":"user:\nHi\n\nassistant:\n","reference":"A","messages":[{"role":"user","content":"Hi"}]}`, "prompts", Prompt{Prompt: "user:\nHi\n\nassistant:\n", Reference: "A", Messages: hi}},
		{`{"id":"x","prompt":[{"role":"user","content":"Hi"}],"messages":null}`, "prompts", Prompt{ID: "x", Prompt: "user:\nHi\n\nassistant:\n", Messages: hi}},
		{`{"prompt":[{"role":"user","content":"Hi"}]}`, "prompt-only", Prompt{Prompt: "user:\nHi\n\nassistant:\n", Messages: hi}},
		{`{"prompt":[{"role":"user","content":"Hi"}],"completion":[{"role":"assistant","content":"Yo"}]}`, "prompt-completion",
			Prompt{Prompt: "user:\nHi\n\nassistant:\n", Messages: hi, Reference: "Yo"}},
		{`{"messages":[{"role":"system","content":"S"},{"role":"user","content":[{"type":"text","text":"H"},{"type":"text","text":"i"}]},{"role":"assistant","content":"Yo"}]}`, "messages",
			Prompt{Prompt: "system:\nS\n\nuser:\nHi\n\nassistant:\n", Messages: []Message{{"system", "S"}, {"user", "Hi"}}, Reference: "Yo"}},
		{`{"messages":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Yo"}]}`, "messages", Prompt{Prompt: "user:\nHi\n\nassistant:\n", Messages: hi, Reference: "Yo"}},
	} {
		r := oneRow(t, c.line)
		if c.want.ID == "" {
			c.want.ID = ID(c.want.Prompt, c.want.Reference)
		}
		if r.layout != c.layout || r.skip != "" || r.prompt == nil || !reflect.DeepEqual(*r.prompt, c.want) {
			t.Errorf("%s:\n got %s %q %+v\nwant %s %+v", c.line, r.layout, r.skip, r.prompt, c.layout, c.want)
		}
	}
}

func TestPairLayouts(t *testing.T) {
	const u, a, b = `{"role":"user","content":"Q"}`, `{"role":"assistant","content":"A"}`, `{"role":"assistant","content":"B"}`
	msgs := []Message{{"user", "Q"}}
	rendered := "user:\nQ\n\nassistant:\n"
	for _, c := range []struct {
		line string
		want Preference
		skip string
	}{
		{`{"prompt":"Q","chosen":"A","rejected":"B"}`, Preference{Prompt: "Q", Chosen: "A", Rejected: "B"}, ""},
		{`{"prompt":"Q","chosen":"A","rejected":"B","score_chosen":3,"rejected_score":-1.5}`, Preference{Prompt: "Q", Chosen: "A", Rejected: "B", ChosenScore: ptr(3.0), RejectedScore: ptr(-1.5)}, ""},
		{`{"prompt":[` + u + `],"chosen":[` + a + `],"rejected":[` + b + `]}`, Preference{Prompt: rendered, Messages: msgs, Chosen: "A", Rejected: "B"}, ""},
		{`{"prompt":[` + u + `],"chosen":"A","rejected":"B"}`, Preference{Prompt: rendered, Messages: msgs, Chosen: "A", Rejected: "B"}, ""},
		{`{"chosen":[` + u + `,` + a + `],"rejected":[` + u + `,` + b + `]}`, Preference{Prompt: rendered, Messages: msgs, Chosen: "A", Rejected: "B"}, ""},
		{`{"prompt":"Q","prompt_id":"9","chosen":[` + u + `,` + a + `],"rejected":[` + u + `,` + b + `]}`, Preference{Prompt: rendered, Messages: msgs, Chosen: "A", Rejected: "B"}, ""},
		{`{"prompt":"Q","chosen":[` + a + `],"rejected":[` + b + `]}`, Preference{Prompt: rendered, Messages: msgs, Chosen: "A", Rejected: "B"}, ""},
		{`{"chosen":"\n\nHuman: Q\n\nAssistant: A","rejected":"\n\nHuman: Q\n\nAssistant: B"}`, Preference{Prompt: "\n\nHuman: Q\n\nAssistant:", Chosen: " A", Rejected: " B"}, ""},
		{`{"prompt":"Q","prompt_id":"p","chosen":"A","rejected":"B","chosen_ids":[1,2],"chosen_logps":[-0.25],"annotator":"sum","step":4}`,
			Preference{PromptID: "p", Prompt: "Q", Chosen: "A", Rejected: "B", ChosenIDs: []int32{1, 2}, ChosenLogps: []float32{-0.25}, Annotator: "sum", Step: 4}, ""},
		{`{"prompt":"Q","chosen":"A","rejected":"A"}`, Preference{}, SkipIdentical},
		{`{"prompt":"Q","chosen":"A","rejected":" "}`, Preference{}, SkipEmpty},
		{`{"prompt":" ","chosen":"A","rejected":"B"}`, Preference{}, SkipEmptyPrompt},
		{`{"chosen":"The sky is blue","rejected":"The sky is green"}`, Preference{}, SkipNoPrompt},
		{`{"chosen":[` + u + `,` + a + `,` + u + `],"rejected":[` + u + `,` + b + `]}`, Preference{}, SkipDiverged},
		{`{"chosen":[` + u + `,` + a + `],"rejected":[` + u + `,` + a + `]}`, Preference{}, SkipIdentical},
		{`{"chosen":[` + a + `],"rejected":[` + b + `]}`, Preference{}, SkipNoPrompt},
	} {
		r := oneRow(t, c.line)
		if c.skip != "" {
			if r.skip != c.skip {
				t.Errorf("%s: skip %q, want %q", c.line, r.skip, c.skip)
			}
			continue
		}
		if c.want.PromptID == "" {
			c.want.PromptID = ID(c.want.Prompt, "")
		}
		c.want.ID = ID(c.want.Prompt, c.want.Chosen, c.want.Rejected)
		if r.skip != "" || r.pair == nil || !reflect.DeepEqual(*r.pair, c.want) {
			t.Errorf("%s:\n got %q %+v\nwant %+v", c.line, r.skip, r.pair, c.want)
		}
	}
}

// The same rows, as Parquet of other tools would hold them, convert alike.
func TestForeignParquet(t *testing.T) {
	type row struct {
		Prompt   *string   `parquet:"prompt,optional"`
		Chosen   []Message `parquet:"chosen,list"`
		Rejected []Message `parquet:"rejected,list"`
		Score    float64   `parquet:"score_chosen"`
		Other    []byte    `parquet:"other"` // a column no layout knows must not matter
	}
	q := Message{"user", "Q"}
	path := filepath.Join(t.TempDir(), "f.parquet")
	rows := []row{
		{ptr("Q"), []Message{q, {"assistant", "A"}}, []Message{q, {"assistant", "B"}}, 7, []byte{0xff}},
		{nil, []Message{q, {"assistant", "C"}}, []Message{q, {"assistant", "D"}}, 8, nil},
	}
	if err := parquet.WriteFile(path, rows); err != nil {
		t.Fatal(err)
	}
	var got []Preference
	for r, err := range convertAll(path, "auto") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, *r.pair)
	}
	if len(got) != 2 || got[0].Chosen != "A" || got[1].Rejected != "D" || got[1].Prompt != "user:\nQ\n\nassistant:\n" || *got[0].ChosenScore != 7 {
		t.Errorf("got %+v", got)
	}
	prompts, err := LoadPrompts(path)
	if err != nil || len(prompts) != 2 || prompts[0].Reference != "A" || len(prompts[0].Messages) != 1 {
		t.Errorf("LoadPrompts: %+v, %v", prompts, err)
	}
	n := 0
	for v, err := range Any(path) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 && !strings.Contains(string(jsonOf(t, v)), `"other"`) {
			t.Errorf("Any leaves out columns: %s", jsonOf(t, v))
		}
	}
}

func TestLoadPromptsOwnSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.parquet")
	want := []Prompt{{ID: "mine", Prompt: "user:\nQ\n\nassistant:\n", Reference: "A", Messages: []Message{{"user", "Q"}}}, {ID: "b", Prompt: "Q2"}}
	if err := Write(path, want, nil); err != nil {
		t.Fatal(err)
	}
	got, err := LoadPrompts(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if err := Write(path, []Completion{{Prompt: "Q", Text: "A"}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPrompts(path); err == nil || !strings.Contains(err.Error(), "completions/v1") {
		t.Errorf("completions as prompts: %v", err)
	}
}

// Text that is not UTF-8 is refused wherever a column that is read holds it; bytes without a string annotation are text.
func TestParquetTexts(t *testing.T) {
	type message struct {
		Role    []byte `parquet:"role"`
		Content []byte `parquet:"content"`
	}
	type row struct {
		Prompt   []byte    `parquet:"prompt"`
		Messages []message `parquet:"messages,list"`
		Extra    [][]byte  `parquet:"extra,list"` // a column no layout knows
	}
	turn := func(content string) row {
		return row{nil, []message{{[]byte("user"), []byte(content)}, {[]byte("assistant"), []byte("Yo")}}, [][]byte{{0xff}}}
	}
	for name, c := range map[string]struct {
		layout string
		rows   []row
		want   string
	}{
		"valid":   {"messages", []row{turn("Hi"), turn("Ho")}, ""},
		"nested":  {"messages", []row{turn("Hi"), turn("H\xff")}, `row 2: column "messages": not valid UTF-8`},
		"topmost": {"prompt-only", []row{{[]byte("Q\xff"), turn("Hi").Messages, nil}}, `row 1: column "prompt": not valid UTF-8`},
	} {
		path := filepath.Join(t.TempDir(), "f.parquet")
		if err := parquet.WriteFile(path, c.rows); err != nil {
			t.Fatal(err)
		}
		var got []Prompt
		var failed error
		for r, err := range convertAll(path, c.layout) {
			if failed = err; err == nil {
				got = append(got, *r.prompt)
			}
		}
		if c.want != "" {
			if failed == nil || failed.Error() != path+": "+c.want {
				t.Errorf("%s: %v, want %s", name, failed, c.want)
			}
		} else if failed != nil || len(got) != 2 || got[1].Prompt != "user:\nHo\n\nassistant:\n" || got[1].Reference != "Yo" {
			t.Errorf("%s: %+v, %v", name, got, failed)
		}
	}
}

// Every malformed input is one line that names the file and the place.
func TestBadInput(t *testing.T) {
	good := `{"prompt":"Q","label":"A"}` + "\n"
	for name, c := range map[string]struct{ file, content, want string }{
		"not JSON":         {"x.jsonl", good + "{\"prompt\":", "line 2: not a JSON object"},
		"array":            {"x.json", "[{\"prompt\":\"a\"}]", "line 1: a JSON array"},
		"null":             {"x.jsonl", "null", "line 1: null"},
		"not UTF-8":        {"x.jsonl", good + "{\"prompt\":\"\xff\",\"label\":\"A\"}", "line 2: not valid UTF-8"},
		"missing key":      {"x.jsonl", good + "\n" + `{"prompt":"Q"}`, `line 3: no key "label"`},
		"wrong type":       {"x.jsonl", good + `{"prompt":3,"label":"A"}`, `line 2: key "prompt" is not text`},
		"late label":       {"x.jsonl", `{"prompt":"Q"}` + "\n" + `{"prompt":"Q","label":null}` + "\n" + `{"prompt":"R","label":"A"}`, `line 3: key "label" would not be read: the file's first row lacks it (layout prompt-only); give it to every row, if only as null`},
		"late completion":  {"x.jsonl", `{"prompt":"Q","id":1}` + "\n" + `{"prompt":"R","completion":"A"}`, `line 2: key "completion" would not be read`},
		"late reference":   {"x.jsonl", `{"prompt":"Q"}` + "\n" + `{"prompt":"R","reference":"A"}`, `line 2: key "reference" would not be read`},
		"answer too":       {"x.jsonl", `{"id":"1","prompt":"hi","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}`, `line 1: key "messages" is not the prompt as a conversation: prompt is not its plain rendering`},
		"other messages":   {"x.jsonl", `{"id":"1","prompt":"user:\nhi\n\nassistant:\n"}` + "\n" + `{"id":"1","prompt":"user:\nhi\n\nassistant:\n","messages":[{"role":"user","content":"ho"}]}`, `line 2: key "messages" is not the prompt`},
		"a pair's answer":  {"x.jsonl", `{"prompt":"hi","prompt_id":"p","chosen":"A","rejected":"B","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"A"}]}`, `line 1: key "messages" is not the prompt`},
		"unknown keys":     {"x.jsonl", `{"text":"a","b":1}`, "line 1: no layout has the keys {b, text}"},
		"bad message":      {"x.jsonl", `{"prompt":[{"content":"a"}]}`, `line 1: key "prompt": message 0 has no role`},
		"image":            {"x.jsonl", `{"prompt":[{"role":"user","content":[{"type":"image"}]}]}`, `of type "image"`},
		"tool call":        {"x.jsonl", `{"messages":[{"role":"assistant","content":"","tool_calls":[{"id":1}]}]}`, "calls tools"},
		"mixed":            {"x.jsonl", `{"prompt":"Q","chosen":"A","rejected":[{"role":"assistant","content":"B"}]}`, "both be text or both"},
		"score":            {"x.jsonl", `{"prompt":"Q","chosen":"A","rejected":"B","chosen_score":"high"}`, `"chosen_score" is not a number`},
		"empty prompt":     {"x.jsonl", good + `{"prompt":"","label":"A"}`, "line 2: the prompt is empty"},
		"empty file":       {"x.jsonl", "", "no prompts in it"},
		"only blank lines": {"x.jsonl", "\n\n  \n", "no prompts in it"},
		"short Parquet":    {"x.parquet", "PAR1", "not a complete Parquet file"},
	} {
		path := file(t, c.file, c.content)
		_, err := LoadPrompts(path)
		if err == nil || !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with %q", name, err, c.want)
		}
	}
	if _, err := LoadPrompts(filepath.Join(t.TempDir(), "absent.jsonl")); err == nil || !strings.Contains(err.Error(), "absent.jsonl") {
		t.Errorf("absent file: %v", err)
	}
}

// Rows may lack what their layout reads if it is there, and an import told the layout passes over other keys.
func TestOptionalReference(t *testing.T) {
	for name, c := range map[string]struct{ layout, content, want string }{
		"later":  {"auto", `{"id":"1","prompt":"Q"}` + "\n" + `{"prompt":"R","reference":"A","label":"B"}`, "A"},
		"null":   {"auto", `{"prompt":"Q","label":null}` + "\n" + `{"prompt":"R","label":"A"}`, "A"},
		"unread": {"prompt-only", `{"prompt":"Q"}` + "\n" + `{"prompt":"R","label":"A"}`, ""},
	} {
		var got []string
		for r, err := range convertAll(file(t, "x.jsonl", c.content), c.layout) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, r.prompt.Reference)
		}
		if !slices.Equal(got, []string{"", c.want}) {
			t.Errorf("%s: references %q, want none and %q", name, got, c.want)
		}
	}
}

func TestLongLine(t *testing.T) {
	path := file(t, "x.jsonl.gz", `{"prompt":"`+strings.Repeat("x", maxLine)+`"}`)
	if _, err := LoadPrompts(path); err == nil || !strings.Contains(err.Error(), "line 1: longer than 64 MiB") {
		t.Errorf("endless line: %v", err)
	}
}

func TestGzip(t *testing.T) {
	content := strings.Repeat(`{"prompt":"Q","label":"A"}`+"\n", 5000)
	path := file(t, "x.jsonl.gz", "\ufeff"+content) // with a byte order mark, as some editors write
	prompts, err := LoadPrompts(path)
	if err != nil || len(prompts) != 5000 {
		t.Fatalf("%d prompts, %v", len(prompts), err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-6] ^= 1 // the checksum
	for name, b := range map[string][]byte{"truncated": whole[:len(whole)-9], "header only": whole[:5], "checksum": flipped} {
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPrompts(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), "corrupt gzip") {
			t.Errorf("%s gzip: %v", name, err)
		}
	}
}
