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

func TestFromHFRefuses(t *testing.T) {
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}
	sequence := func(steps ...any) object { return object{"type": "Sequence", "pretokenizers": steps} }
	template := func(single ...any) object { return object{"type": "TemplateProcessing", "single": single} }
	for _, c := range []struct {
		path  string
		value any
		want  string
	}{
		{"model.type", "Unigram", "model: "},
		{"model.type", "Bigram", `model.type "Bigram" is not supported`},
		{"model.dropout", 0.1, "model.dropout 0.1"},
		{"model.continuing_subword_prefix", "##", `merge 4: "i" does not start with "##"`},
		{"model.surprise", true, `unknown field "surprise"`},
		{"model.unk_token", "<unk>", `unk_token "<unk>" is not in the vocabulary`},
		{"model.vocab", object{}, "vocab is empty"},
		{"model.vocab", object{"a": -1}, `"a" has id -1`},
		{"model.vocab", object{"a": 1 << 40}, `"a" has id 1099511627776`},
		{"model.vocab", object{"a": 3, "b": 3}, `id 3 is both "a" and "b"`},
		{"model.vocab", object{"": 3}, "id 3 is an empty token"},
		{"model.merges", []string{"ab"}, `merge "ab" is not two tokens`},
		{"model.merges", []any{[]string{"a"}}, "is not two tokens"},
		{"model.merges", []string{"a 東"}, `merge 0: "東" is not in the vocabulary`},
		{"normalizer", object{"type": "Capitalize"}, "normalizer Capitalize is not supported"},
		{"normalizer", object{"type": "Sequence", "normalizers": []any{object{"type": "NFC"}, object{"type": "NFX"}}}, "normalizer NFX"},
		{"normalizer", object{"type": "NFC", "form": "C"}, `normalizer NFC: json: unknown field "form"`},
		{"normalizer", object{"type": "Prepend", "append": "_"}, `normalizer Prepend: json: unknown field "append"`},
		{"normalizer", object{"type": "Replace", "content": "x"}, "normalizer Replace: has no pattern"},
		{"normalizer", object{"type": "Replace", "pattern": object{"String": ""}, "content": "x"}, "has an empty pattern"},
		{"normalizer", object{"type": "Replace", "pattern": object{"Regex": `[\p{L}&&[a-z]]`}, "content": "x"}, "&& in a class is not supported"},
		{"normalizer", object{"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "charsmap is too short"},
		{"normalizer", object{"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "size of its trie is wrong"},
		{"normalizer", object{"type": "Precompiled", "precompiled_charsmap": "?"}, "illegal base64"},
		{"pre_tokenizer", object{"type": "UnicodeScripts"}, "pre_tokenizer UnicodeScripts is not supported"},
		{"pre_tokenizer", object{"type": "Metaspace", "replacement": "__"}, `replacement "__" is not one character`},
		{"pre_tokenizer", object{"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"}, `prepend_scheme "last"`},
		{"pre_tokenizer", object{"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "add_prefix_space": false}, `prepend_scheme "first"`},
		{"pre_tokenizer", object{"type": "CharDelimiterSplit", "delimiter": "ab"}, "not one character"},
		{"pre_tokenizer", sequence(object{"type": "Punctuation", "behavior": "Exploded"}, byteLevel), `behavior "Exploded" is not supported`},
		{"pre_tokenizer.surprise", true, `unknown field "surprise"`},
		{"pre_tokenizer", sequence(object{"type": "Split", "behavior": "Isolated"}, byteLevel), "Split: has no pattern"},
		{"pre_tokenizer", sequence(object{"type": "Split", "pattern": object{"String": "a"}}, byteLevel), "Split: has no behavior"},
		{"pre_tokenizer", sequence(object{"type": "Split", "pattern": object{"Regex": `(?:a+)+`}, "behavior": "Isolated"}, byteLevel), "a repetition of repetitions"},
		{"decoder", object{"type": "CTC"}, "decoder CTC is not supported"},
		{"decoder", object{"type": "Sequence", "decoders": []any{}}, "decoder Sequence is empty"},
		{"decoder", object{"type": "Sequence", "decoders": []any{object{"type": "Fuse"}, object{"type": "WordPiece"}}}, "WordPiece after a step that makes all tokens one"},
		{"decoder", object{"type": "Strip", "content": "", "start": 1, "stop": 0}, "not one character"},
		{"post_processor", object{"type": "RobertaProcessing"}, "has no sep or no cls"},
		{"post_processor", object{"type": "BertProcessing", "sep": []any{"a"}}, "is not a token and its id"},
		{"post_processor", object{"type": "BertProcessing", "sep": []any{"a", 1}, "cls": []any{"b", 1 << 30}}, "id 1073741824 is not in the vocabulary"},
		{"post_processor", object{"type": "Surround"}, "post_processor Surround is not supported"},
		{"post_processor", template(object{"Sequence": object{"id": "A"}}, object{"Sequence": object{"id": "A"}}), "the text 2 times"},
		{"post_processor", template(object{"Sequence": object{"id": "B"}}), "neither a special token nor the text"},
		{"post_processor", template(object{"SpecialToken": object{"id": "<s>"}}, object{"Sequence": object{"id": "A"}}), `"<s>" is not one of its special_tokens`},
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
	var file struct{ Model struct{ Merges []hfMerge } }
	if err := json.Unmarshal(g.Tokenizer, &file); err != nil {
		t.Fatal(err)
	}
	for _, m := range file.Model.Merges {
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
	if got, want := mustHF(t, data).Encode("acc€ba"), []int32{0, 3, 3, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("fused: %v, want %v", got, want)
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
	if back.bos != tok.bos || back.eos != tok.eos || back.pad != tok.pad || back.AddBOS() != tok.AddBOS() {
		t.Errorf("%s reads back as another configuration", config)
	}
	for want, s := range map[string]string{
		`eos_token "<eos>" is not in the vocabulary`: `{"bos_token": "<|im_end|>", "eos_token": "<eos>"}`,
		"has no content": `{"eos_token": {"text": "x"}}`,
		`"x" is no id`:   `{"added_tokens_decoder": {"x": {"content": "y"}}}`,
		"is both":        `{"added_tokens_decoder": {"5": {"content": "y"}}}`,
		"unexpected end": `{`,
	} {
		if err := back.Configure([]byte(s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
	if back.bos != tok.bos {
		t.Error("a refused configuration changed BOS")
	}
}
