package models

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend/backendtest"
	"gobpo/models/tokenizer"
	"gobpo/models/weights"
)

// saved is a directory with the tiny model and a tokenizer, to be changed by the test.
func saved(t *testing.T) (dir string, m *Model) {
	t.Helper()
	tok, err := tokenizer.FromWords([]string{"tea"})
	if err != nil {
		t.Fatal(err)
	}
	c := tiny
	c.VocabSize = tok.VocabSize() + 3
	m = &Model{Config: c, Base: lively(c, 3), Tokenizer: tok}
	dir = t.TempDir()
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// merge sets keys of a JSON file.
func merge(t *testing.T, dir, name string, keys map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for k, v := range keys {
		all[k] = v
	}
	if raw, err = json.Marshal(all); err != nil {
		t.Fatal(err)
	}
	put(t, dir, name, string(raw))
}

func TestStopTokens(t *testing.T) {
	dir, m := saved(t)
	eos, most := m.Tokenizer.EOS(), int32(m.Config.VocabSize)
	for _, tc := range []struct {
		generation string // generation_config.json; none if empty
		config     any    // config.json's eos_token_id
		want       []int32
	}{
		{"", nil, []int32{eos}},
		{"", 7, []int32{7, eos}},
		{`{"eos_token_id": [9, 8, 9], "temperature": 0.1, "top_p": 0.5}`, 7, []int32{8, 9, eos}},
		{fmt.Sprintf(`{"eos_token_id": %d}`, eos), 7, []int32{eos}},
		{`{"eos_token_id": null, "do_sample": true}`, 7, []int32{eos}}, // the file is there and lists none
		{`{}`, nil, []int32{eos}},
	} {
		os.Remove(filepath.Join(dir, "generation_config.json"))
		if tc.generation != "" {
			put(t, dir, "generation_config.json", tc.generation)
		}
		merge(t, dir, "config.json", map[string]any{"eos_token_id": tc.config})
		got, err := Load(dir, dtypes.Float32)
		if err != nil {
			t.Errorf("%q: %v", tc.generation, err)
			continue
		}
		if !slices.Equal(got.Stop(), tc.want) {
			t.Errorf("%q, config %v: stops at %v, want %v", tc.generation, tc.config, got.Stop(), tc.want)
		}
		again := t.TempDir()
		if err := got.Save(again); err != nil {
			t.Fatal(err)
		}
		if back, err := Load(again, dtypes.Float32); err != nil || !slices.Equal(back.Stop(), tc.want) {
			t.Errorf("%q: saved and loaded, %v", tc.generation, err)
		}
	}
	for content, want := range map[string]string{
		`{"eos_token_id": "</s>"}`: "eos_token_id",
		`{"eos_token_id": 1.5}`:    "neither a token id nor a list",
		`{`:                        "generation_config.json",
		fmt.Sprintf(`{"eos_token_id": [1, %d]}`, most): fmt.Sprintf("eos_token_id %d is not among the model's %d tokens", most, most),
		`{"eos_token_id": -1}`:                         "eos_token_id -1",
	} {
		put(t, dir, "generation_config.json", content)
		if _, err := Load(dir, dtypes.Float32); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
}

func TestChatTemplates(t *testing.T) {
	dir, _ := saved(t)
	named := func(names ...string) (list []any) {
		for _, n := range names {
			list = append(list, map[string]any{"name": n, "template": "of " + n})
		}
		return list
	}
	for _, tc := range []struct {
		field any    // of tokenizer_config.json
		file  string // chat_template.jinja
		want  string // the template, or part of the error
		fails bool
	}{
		{nil, "", "", false},
		{"{{ x }}", "", "{{ x }}", false},
		{named("default", "tool_use"), "", "of default", false},
		{named("rag"), "", "of rag", false},
		{named("rag", "tool_use"), "", "of rag, tool_use none is named default", true},
		{7, "", "chat_template", true},
		{"{{ x }}", "{{ y }}", "{{ y }}", false},
		{nil, "{{ y }}", "{{ y }}", false},
	} {
		merge(t, dir, "tokenizer_config.json", map[string]any{"chat_template": tc.field})
		os.Remove(filepath.Join(dir, "chat_template.jinja"))
		if tc.file != "" {
			put(t, dir, "chat_template.jinja", tc.file)
		}
		m, err := Load(dir, dtypes.Float32)
		switch {
		case tc.fails && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%v: got %v, want %q", tc.field, err, tc.want)
		case !tc.fails && err != nil:
			t.Errorf("%v: %v", tc.field, err)
		case !tc.fails && m.ChatTemplate != tc.want:
			t.Errorf("%v: template %q, want %q", tc.field, m.ChatTemplate, tc.want)
		}
	}
}

// A directory that lacks something is met with what to do about it.
func TestLoadHints(t *testing.T) {
	for want, files := range map[string][]string{
		"pickle":               {"config.json", "pytorch_model.bin"},
		"convert it: python":   {"config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"},
		"index.json says what": {"config.json", "model-00001-of-00002.safetensors"},
		"bpo export ":          {"adapter_config.json", "adapter_model.safetensors"},
		"GGUF":                 {"model.gguf"},
		"neither":              {"config.json"},
		"AutoTokenizer":        {"config.json", "vocab.json", "merges.txt"},
		"config.json":          {},
	} {
		dir := t.TempDir()
		for _, name := range files {
			put(t, dir, name, "")
		}
		if slices.Contains(files, "config.json") {
			raw, err := tiny.hfJSON("float32")
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir, "config.json", string(raw))
		}
		if _, err := Load(dir, dtypes.Float32); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want one line with %q", files, err, want)
		}
	}
}

// unshared is a backend whose memory is not the host's, as a GPU's.
type unshared struct{ compute.Backend }

func (unshared) HasSharedBuffers() bool { return false }

func TestLoadToDevice(t *testing.T) {
	dir, m := saved(t)
	sharded(t, dir, m.Base)
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
		host, err := Load(dir, dtype)
		if err != nil {
			t.Fatal(err)
		}
		want := host.Base.Hash()
		backendtest.Each(t, func(t *testing.T, b compute.Backend) {
			for _, b := range []compute.Backend{b, unshared{b}} {
				on, err := LoadTo(b, dir, dtype)
				if err != nil {
					t.Fatal(err)
				}
				for name, x := range on.Base {
					if !x.IsOnAnyDevice() {
						t.Errorf("%s is on the host", name)
					}
				}
				if on.Base.Hash() != want {
					t.Errorf("%T, %s: other weights", b, dtype)
				}
				on.Base.Finalize()
			}
		})
	}
}

// sharded replaces model.safetensors by two shards and their index.
func sharded(t *testing.T, dir string, w Weights) {
	t.Helper()
	parts, index := [2]map[string]*tensors.Tensor{{}, {}}, map[string]string{}
	for i, name := range w.Names() {
		parts[i%2][name] = w[name]
		index[name] = fmt.Sprintf("model-%d.safetensors", i%2)
	}
	for i, part := range parts {
		if err := weights.Write(filepath.Join(dir, fmt.Sprintf("model-%d.safetensors", i)), part, nil); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(map[string]any{"weight_map": index})
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "model.safetensors.index.json", string(raw))
	if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
}

// A tensor of numbers that cannot be weights is refused by name, after all shapes have been found right.
func TestLoadRefusesIntegers(t *testing.T) {
	dir, m := saved(t)
	w := map[string]*tensors.Tensor{}
	for name, x := range m.Base {
		w[name] = x
	}
	w["model.norm.weight"] = tensors.FromScalarAndDimensions(int32(1), m.Config.HiddenSize)
	if err := weights.Write(filepath.Join(dir, "model.safetensors"), w, nil); err != nil {
		t.Fatal(err)
	}
	_, err := Load(dir, dtypes.BFloat16)
	for _, want := range []string{dir, "model.safetensors", `"model.norm.weight"`, "I32 cannot be weights"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestReadConfig(t *testing.T) {
	dir, m := saved(t)
	if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadConfig(dir); err != nil || c.VocabSize != m.Config.VocabSize || c.HiddenSize != m.Config.HiddenSize {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := ReadConfig(filepath.Join(dir, "tokenizer.json")); err == nil || !strings.Contains(err.Error(), "GGUF") {
		t.Errorf("a file that is no GGUF: %v", err)
	}
	if _, err := ReadConfig(filepath.Join(dir, "none")); err == nil {
		t.Error("no error for a path that does not exist")
	}
}

// A directory without tokenizer.json but with a SentencePiece model is read by that, with tokenizer_config.json's
// settings.
func TestLoadSentencePiece(t *testing.T) {
	f, err := os.Open("tokenizer/testdata/pieces.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Texts  []string
		Models []struct {
			Model []byte
			IDs   [][]int32
		}
	}
	if err := json.NewDecoder(z).Decode(&p); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tokenizer.model", "spiece.model"} {
		dir := t.TempDir()
		put(t, dir, name, string(p.Models[0].Model))
		put(t, dir, "tokenizer_config.json", `{"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "chat_template": "{{ messages }}"}`)
		var m Model
		if err := m.loadTokenizer(dir); err != nil {
			t.Fatal(err)
		}
		if !m.Tokenizer.AddBOS() || m.Tokenizer.EOS() != 2 || m.ChatTemplate != "{{ messages }}" {
			t.Errorf("%s: adds BOS %t, EOS %d, template %q", name, m.Tokenizer.AddBOS(), m.Tokenizer.EOS(), m.ChatTemplate)
		}
		for i, s := range p.Texts {
			if got := m.Tokenizer.EncodePlain(s); !slices.Equal(got, p.Models[0].IDs[i]) {
				t.Errorf("%s: %q is %v, want %v", name, s, got, p.Models[0].IDs[i])
			}
		}
		put(t, dir, name, "no model")
		if err := new(Model).loadTokenizer(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a broken model: %v", err)
		}
	}
}
