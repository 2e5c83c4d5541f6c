package tokenizer

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// edit is a golden tokenizer.json after a change by path: "model.type", "added_tokens.0.lstrip".
func edit(t testing.TB, g int, path string, value any) []byte {
	t.Helper()
	var file any
	if err := json.Unmarshal(goldens(t)[g].Tokenizer, &file); err != nil {
		t.Fatal(err)
	}
	at, keys := file, strings.Split(path, ".")
	for i, k := range keys {
		if list, ok := at.([]any); ok {
			at = list[k[0]-'0']
			continue
		}
		m := at.(map[string]any)
		if i == len(keys)-1 {
			m[k] = value
		}
		at = m[k]
	}
	out, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type object = map[string]any

func TestFromHFRefuses(t *testing.T) {
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}
	sequence := func(steps ...any) object { return object{"type": "Sequence", "pretokenizers": steps} }
	for _, c := range []struct {
		path  string
		value any
		want  string
	}{
		{"model.type", "Unigram", `model.type "Unigram" is not supported`},
		{"model.type", "WordPiece", `model.type "WordPiece"`},
		{"model.dropout", 0.1, "model.dropout 0.1"},
		{"model.continuing_subword_prefix", "##", `continuing_subword_prefix "##"`},
		{"model.end_of_word_suffix", "</w>", `end_of_word_suffix "</w>"`},
		{"model.byte_fallback", true, "byte_fallback"},
		{"model.unk_token", "<unk>", `unk_token "<unk>" is not in the vocabulary`},
		{"model.vocab", object{}, "vocab is empty"},
		{"model.vocab", object{"a": -1}, `"a" has id -1`},
		{"model.vocab", object{"a": 1 << 40}, `"a" has id 1099511627776`},
		{"model.vocab", object{"a": 3, "b": 3}, `id 3 is both "a" and "b"`},
		{"model.vocab", object{"": 3}, "id 3 is an empty token"},
		{"model.merges", []string{"ab"}, `merge "ab" is not two tokens`},
		{"model.merges", []any{[]string{"a"}}, "is not two tokens"},
		{"model.merges", []string{"a 東"}, `merge 0: "東" is not in the vocabulary`},
		{"normalizer", object{"type": "Lowercase"}, "normalizer Lowercase"},
		{"normalizer", object{"type": "Sequence", "normalizers": []any{object{"type": "NFC"}, object{"type": "NFKC"}}}, "normalizer NFKC"},
		{"normalizer", object{"type": "Prepend", "prepend": "_"}, `"Prepend" step: json: unknown field "prepend"`},
		{"pre_tokenizer", nil, "pre_tokenizer null"},
		{"pre_tokenizer", object{"type": "Whitespace"}, "pre_tokenizer Whitespace"},
		{"pre_tokenizer", object{"type": "Metaspace", "replacement": "_"}, `"Metaspace" step`},
		{"pre_tokenizer", sequence(), "pre_tokenizer null"},
		{"pre_tokenizer", sequence(object{"type": "Punctuation", "behavior": "Contiguous"}, byteLevel), "pre_tokenizer Punctuation"},
		{"pre_tokenizer", sequence(byteLevel, object{"type": "Digits"}), "pre_tokenizer Digits is not supported; it must end with ByteLevel"},
		{"pre_tokenizer", sequence(byteLevel, byteLevel), "as the last step only"},
		{"pre_tokenizer.add_prefix_space", true, "add_prefix_space"},
		{"pre_tokenizer.surprise", true, `unknown field "surprise"`},
		{"pre_tokenizer", sequence(object{"type": "Split"}, byteLevel), "Split has no pattern"},
		{"pre_tokenizer", sequence(object{"type": "Split", "pattern": object{"Regex": `\d+`}, "behavior": "Isolated", "invert": false}, byteLevel), `pattern "\\d+"`},
		{"pre_tokenizer", sequence(object{"type": "Split", "pattern": object{"String": " "}, "behavior": "Isolated", "invert": false}, byteLevel), `pattern " "`},
		{"pre_tokenizer", sequence(object{"type": "Split", "pattern": object{"Regex": qwen2Pattern}, "behavior": "Removed", "invert": false}, byteLevel), `behavior "Removed" and invert false`},
		{"decoder", nil, "decoder null"},
		{"decoder", object{"type": "WordPiece"}, "decoder WordPiece"},
		{"post_processor", object{"type": "RobertaProcessing"}, "post_processor RobertaProcessing"},
		{"post_processor", object{"type": "BertProcessing", "sep": []any{"a", 1}}, `"BertProcessing" step`},
		{"post_processor", object{"type": "TemplateProcessing", "single": []any{object{"Sequence": object{"id": "A"}}, object{"SpecialToken": object{"id": "</s>"}}}}, "more than one token in front"},
		{"post_processor", object{"type": "TemplateProcessing", "single": []any{object{"SpecialToken": object{"id": "<s>"}}, object{"Sequence": object{"id": "A"}}}}, `"<s>" is not one token`},
		{"added_tokens.0.lstrip", true, `"<|endoftext|>": single_word, lstrip`},
		{"added_tokens.0.single_word", true, "single_word"},
		{"added_tokens.0.id", 1, "id 1 is"},
		{"added_tokens.0.content", "x", "id 0 is both"},
		{"added_tokens.0.content", "", "empty token"},
	} {
		_, err := FromHF(edit(t, 0, c.path, c.value))
		if err == nil {
			t.Errorf("%s = %v is accepted", c.path, c.value)
		} else if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s = %v: %q does not say %q in one line", c.path, c.value, err, c.want)
		}
	}
	for _, s := range []string{"", "{", "[]", "{}", `{"model": 3}`} {
		if _, err := FromHF([]byte(s)); err == nil || !strings.HasPrefix(err.Error(), "tokenizer.json: ") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestFromHFVariants(t *testing.T) {
	g := goldens(t)[0]
	base := mustHF(t, g.Tokenizer)
	texts := make([]string, len(g.Cases))
	for i, c := range g.Cases {
		texts[i] = c.Text
	}
	var pairs [][]string
	for _, m := range base.merges {
		pairs = append(pairs, m[:])
	}
	noRegex := object{"type": "ByteLevel", "use_regex": false}
	split := object{"type": "Split", "pattern": object{"Regex": gpt2Pattern}, "behavior": "Isolated", "invert": false}
	inverted := object{"type": "Split", "pattern": object{"Regex": gpt2Pattern}, "behavior": "Removed", "invert": true}
	for name, data := range map[string][]byte{
		"merges as pairs":        edit(t, 0, "model.merges", pairs),
		"no model type":          edit(t, 0, "model.type", ""),
		"old ByteLevel":          edit(t, 0, "pre_tokenizer", object{"type": "ByteLevel", "add_prefix_space": false}),
		"the expression spelled": edit(t, 0, "pre_tokenizer", object{"type": "Sequence", "pretokenizers": []any{split, noRegex}}),
		"what matches not, gone": edit(t, 0, "pre_tokenizer", object{"type": "Sequence", "pretokenizers": []any{inverted, noRegex}}),
		"sequence of one":        edit(t, 0, "pre_tokenizer", object{"type": "Sequence", "pretokenizers": []any{object{"type": "ByteLevel"}}}),
		"no post-processor":      edit(t, 0, "post_processor", nil),
		"empty normalizers":      edit(t, 0, "normalizer", object{"type": "Sequence", "normalizers": []any{}}),
		"padding and truncation": edit(t, 0, "truncation", object{"max_length": 512, "stride": 0}),
	} {
		tok := mustHF(t, data)
		for _, s := range texts {
			if !slices.Equal(tok.Encode(s), base.Encode(s)) {
				t.Errorf("%s: %q encodes as %v, want %v", name, s, tok.Encode(s), base.Encode(s))
			}
		}
	}
	if tok := mustHF(t, edit(t, 0, "padding", object{"strategy": "BatchLongest", "pad_id": 2})); tok.Pad() != 2 {
		t.Errorf("padding.pad_id is not taken: %d", tok.Pad())
	}
	digits := object{"type": "Digits", "individual_digits": false}
	tok := mustHF(t, edit(t, 0, "pre_tokenizer", object{"type": "Sequence", "pretokenizers": []any{digits, noRegex}}))
	if tok.PreTokenizer() != "digit-runs" {
		t.Errorf("splits by %q", tok.PreTokenizer())
	}
	back, err := json.Marshal(tok)
	if err != nil || mustHF(t, back).PreTokenizer() != "digit-runs" {
		t.Errorf("runs of digits are not written: %v", err)
	}
}

// An added token matched after normalization is normalized itself.
func TestNormalizedAddedToken(t *testing.T) {
	tok := mustHF(t, edit(t, 3, "added_tokens.5.content", "<d\u0323>"))
	for _, s := range []string{"<d\u0323>", "<\u1e0d>"} {
		if ids := tok.Encode(s); !slices.Equal(ids, []int32{522}) {
			t.Errorf("%+q is %v, want 522", s, ids)
		}
	}
	tok = mustHF(t, edit(t, 3, "added_tokens.5.normalized", false))
	if ids := tok.Encode("<d\u0323>"); slices.Contains(ids, 522) {
		t.Errorf("a token matched in the raw text is found after normalization: %v", ids)
	}
}

// Bytes the vocabulary lacks are left out, or become unk_token where there is one.
func TestMissingBytes(t *testing.T) {
	file := object{
		"added_tokens": []any{}, "pre_tokenizer": object{"type": "ByteLevel"}, "decoder": object{"type": "ByteLevel"},
		"model": object{"type": "BPE", "vocab": object{"a": 0, "b": 1, "ab": 2, "?": 3}, "merges": []string{"a b"}},
	}
	for _, c := range []struct {
		unk  any
		want []int32
	}{{nil, []int32{2, 0}}, {"?", []int32{0, 3, 1, 0, 3}}} {
		file["model"].(object)["unk_token"] = c.unk
		data, _ := json.Marshal(file)
		tok := mustHF(t, data)
		if got := tok.Encode("acba€"); c.unk == nil && !slices.Equal(got, c.want) {
			t.Errorf("unk %v: %v, want %v", c.unk, got, c.want)
		}
		if got := tok.Encode("acbac"); c.unk != nil && !slices.Equal(got, c.want) {
			t.Errorf("unk %v: %v, want %v", c.unk, got, c.want)
		}
		again, err := json.Marshal(tok)
		if err != nil || !slices.Equal(mustHF(t, again).Encode("acbac"), tok.Encode("acbac")) {
			t.Errorf("unk %v is not written: %v", c.unk, err)
		}
	}
	file["model"].(object)["fuse_unk"] = true
	data, _ := json.Marshal(file)
	if _, err := FromHF(data); err == nil || !strings.Contains(err.Error(), "fuse_unk") {
		t.Errorf("fuse_unk: %v", err)
	}
}

func TestConfigure(t *testing.T) {
	tok := mustHF(t, goldens(t)[0].Tokenizer)
	err := tok.Configure([]byte(`{"bos_token": {"content": "<|im_start|>", "lstrip": false}, "eos_token": "<|im_end|>", "pad_token": null,
		"add_bos_token": true, "chat_template": [{"name": "default", "template": "x"}], "model_max_length": 1e30}`))
	if err != nil {
		t.Fatal(err)
	}
	if bos, _ := tok.BOS(); bos != 1 || tok.EOS() != 2 || tok.Pad() != 2 || !tok.AddBOS() {
		t.Errorf("BOS %d (added: %t), EOS %d, pad %d", bos, tok.AddBOS(), tok.EOS(), tok.Pad())
	}
	config, err := tok.ConfigJSON("{{ messages }}")
	if err != nil {
		t.Fatal(err)
	}
	back := mustHF(t, goldens(t)[0].Tokenizer)
	if err := back.Configure(config); err != nil {
		t.Fatal(err)
	}
	if back.bos != tok.bos || back.eos != tok.eos || back.pad != tok.pad || back.addBOS != tok.addBOS {
		t.Errorf("%s reads back as another configuration", config)
	}
	for want, s := range map[string]string{
		`eos_token "<eos>" is not in the vocabulary`: `{"bos_token": "<|im_end|>", "eos_token": "<eos>"}`,
		"has no content":   `{"eos_token": {"text": "x"}}`,
		"add_prefix_space": `{"add_prefix_space": true}`,
		"unexpected end":   `{`,
	} {
		if err := back.Configure([]byte(s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
	if back.bos != tok.bos {
		t.Error("a refused configuration changed BOS")
	}
}
