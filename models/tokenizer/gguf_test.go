package tokenizer

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// tinyGGUF is metadata as a GGUF reader returns it: the bytes, " a", "ab" and two
// control tokens around a user-defined one.
func tinyGGUF() map[string]any {
	var tokens []string
	for _, r := range byteRune {
		tokens = append(tokens, string(r))
	}
	tokens = append(tokens, "Ġa", "ab", "<s>", "<think>", "</s>")
	types := make([]int32, len(tokens))
	for i := range types {
		types[i] = 1
	}
	types[258], types[259], types[260] = 3, 4, 3
	return map[string]any{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
		"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
		"tokenizer.ggml.merges":       []string{"Ġ a", "a b"},
		"tokenizer.ggml.bos_token_id": uint32(258), "tokenizer.ggml.eos_token_id": uint32(260),
		"tokenizer.ggml.add_bos_token": true,
	}
}

func TestFromGGUF(t *testing.T) {
	tok, err := FromGGUF(tinyGGUF())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tok.Encode(" ab ab<think>12</s>"), []int32{256, 'b', 256, 'b', 259, '1', '2', 260}; !slices.Equal(got, want) {
		t.Errorf("Encode = %v, want %v", got, want)
	}
	if got := tok.EncodePlain("</s><think>ab"); len(got) != 6 || got[4] != 259 || got[5] != 257 {
		t.Errorf("EncodePlain = %v, want 4 bytes, <think> (not special) and ab", got)
	}
	bos, ok := tok.BOS()
	if !ok || bos != 258 || !tok.AddBOS() || tok.EOS() != 260 || tok.Pad() != 260 || tok.VocabSize() != 261 {
		t.Errorf("BOS %d %t, added %t, EOS %d, pad %d, %d ids", bos, ok, tok.AddBOS(), tok.EOS(), tok.Pad(), tok.VocabSize())
	}
}

func TestFromGGUFOptions(t *testing.T) {
	with := func(change map[string]any) *Tokenizer {
		t.Helper()
		meta := tinyGGUF()
		for k, v := range change {
			if meta["tokenizer.ggml."+k] = v; v == nil {
				delete(meta, "tokenizer.ggml."+k)
			}
		}
		tok, err := FromGGUF(meta)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	for pre, want := range map[string]string{
		"gpt-2": "gpt-2", "default": "gpt-2", "smollm": "smollm", "llama-bpe": "llama-bpe", "llama3": "llama-bpe", "qwen2": "qwen2",
	} {
		if tok := with(map[string]any{"pre": pre}); tok.PreTokenizer() != want {
			t.Errorf("pre %q splits like %s, want %s", pre, tok.PreTokenizer(), want)
		}
	}
	if tok := with(map[string]any{"pre": nil, "bos_token_id": nil, "eos_token_id": nil, "add_bos_token": nil, "token_type": nil}); true {
		_, ok := tok.BOS()
		if ok || tok.EOS() != -1 || tok.Pad() != 0 || tok.AddBOS() || tok.PreTokenizer() != "gpt-2" {
			t.Error("defaults are wrong")
		}
		if ids := tok.Encode("</s>"); len(ids) != 4 {
			t.Errorf("without types nothing is special, yet </s> is %v", ids)
		}
	}
	if !with(map[string]any{"pre": "llama-bpe", "add_bos_token": nil}).AddBOS() {
		t.Error("Llama-3 adds BOS by default")
	}
	if with(map[string]any{"padding_token_id": int64(7)}).Pad() != 7 {
		t.Error("the padding token is not taken")
	}
	// Llama-3 takes words that are tokens whole, the others build them from merges.
	noMerges := map[string]any{"pre": "llama-bpe", "merges": []string{}}
	if ids := with(noMerges).Encode("ab"); !slices.Equal(ids, []int32{257}) {
		t.Errorf("llama-bpe: ab is %v", ids)
	}
	noMerges["pre"] = "qwen2"
	if ids := with(noMerges).Encode("ab"); !slices.Equal(ids, []int32{'a', 'b'}) {
		t.Errorf("qwen2: ab is %v", ids)
	}
	// A control token that happens to be a word is still only found by Encode.
	types := slices.Clone(tinyGGUF()["tokenizer.ggml.token_type"].([]int32))
	types[257] = 3
	control := with(map[string]any{"pre": "llama-bpe", "merges": []string{}, "token_type": types})
	if plain, ids := control.EncodePlain("ab"), control.Encode("ab"); !slices.Equal(plain, []int32{'a', 'b'}) || !slices.Equal(ids, []int32{257}) {
		t.Errorf("the control token ab: %v in plain text, %v where it counts", plain, ids)
	}
	// Ids a reader in another language might give.
	tokens := []any{}
	for _, s := range tinyGGUF()["tokenizer.ggml.tokens"].([]string) {
		tokens = append(tokens, s)
	}
	if tok := with(map[string]any{"tokens": tokens, "eos_token_id": 260.0}); tok.EOS() != 260 {
		t.Error("arrays of any and whole floats are not taken")
	}
}

func TestFromGGUFRefuses(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any
		want  string // every part of it must be in the message
	}{
		{"model", "bert", `model is "bert"|gpt2|llama`},
		{"model", "llama", "scores is not 261 numbers"},
		{"model", nil, `model is ""`},
		{"pre", "deepseek-llm", `pre is "deepseek-llm"|known: default, gpt-2`},
		{"tokens", nil, "tokens is missing"},
		{"tokens", []string{}, "tokens is empty"},
		{"tokens", 7, "tokens is a int"},
		{"tokens", []any{"a", 7}, "tokens[1] is a int"},
		{"tokens", []string{"a", "b", "a"}, `"a" has two ids, 0 and 2`},
		{"merges", nil, "merges is missing"},
		{"merges", []string{"ab"}, `merges[0] is "ab"`},
		{"merges", []string{"a b", "a z z"}, `merge 1: "z z" is not in the vocabulary`},
		{"merges", []string{"東 b"}, `merge 0: "東" is not in the vocabulary`},
		{"merges", []string{"b a"}, `merge 0: "ba" is not in the vocabulary`},
		{"token_type", []int32{1, 2}, "token_type is not 261 integers"},
		{"token_type", "x", "token_type is not 261 integers"},
		{"eos_token_id", uint32(261), "eos_token_id is 261, not an id below 261"},
		{"bos_token_id", "x", "bos_token_id is x"},
		{"padding_token_id", -1, "padding_token_id is -1"},
		{"add_bos_token", 1, "add_bos_token is 1, not a bool"},
	} {
		meta := maps.Clone(tinyGGUF())
		if meta["tokenizer.ggml."+c.key] = c.value; c.value == nil {
			delete(meta, "tokenizer.ggml."+c.key)
		}
		if c.key == "tokens" {
			delete(meta, "tokenizer.ggml.token_type")
		}
		_, err := FromGGUF(meta)
		if err == nil {
			t.Errorf("%s = %v is accepted", c.key, c.value)
			continue
		}
		for _, part := range strings.Split(c.want, "|") {
			if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s = %v: %q does not say %q in one line", c.key, c.value, err, part)
			}
		}
	}
}
