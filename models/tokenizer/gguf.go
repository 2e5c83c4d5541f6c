package tokenizer

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// ggufPre maps the names in tokenizer.ggml.pre to splitting rules. "default" and a
// missing name stand for GPT-2, the rule of vocabularies that need no other.
var ggufPre = map[string]string{
	"": "gpt-2", "default": "gpt-2", "gpt-2": "gpt-2", "gpt2": "gpt-2",
	"smollm":    "smollm",
	"llama-bpe": "llama-bpe", "llama3": "llama-bpe", "llama-v3": "llama-bpe",
	"qwen2": "qwen2",
}

// FromGGUF makes the tokenizer described by the tokenizer.ggml.* keys of a GGUF file's
// metadata: model (gpt2 or llama), pre, tokens, token_type, merges or scores, bos/eos/padding_token_id,
// add_bos_token, add_eos_token, add_space_prefix. Arrays may be []string, []any or slices of any integer type.
func FromGGUF(meta map[string]any) (*Tokenizer, error) {
	t, err := fromGGUF(meta)
	if err != nil {
		return nil, fmt.Errorf("tokenizer in GGUF: %w", err)
	}
	return t, nil
}

func fromGGUF(meta map[string]any) (*Tokenizer, error) {
	const p = "tokenizer.ggml."
	model, _ := meta[p+"model"].(string)
	tokens, err := stringArray(meta, p+"tokens")
	if err != nil && (model == "gpt2" || model == "llama") {
		return nil, err
	}
	if len(tokens) == 0 && err == nil {
		return nil, fmt.Errorf("%stokens is empty", p)
	}
	var types []int64
	if v, ok := meta[p+"token_type"]; ok {
		if types, err = intArray(v); err != nil || len(types) != len(tokens) {
			return nil, fmt.Errorf("%stoken_type is not %d integers", p, len(tokens))
		}
	}
	var t *Tokenizer
	addBOS := true // llama.cpp's default
	switch model {
	case "gpt2":
		var rule string
		if t, rule, err = ggufBytes(meta, tokens, types); err != nil {
			return nil, err
		}
		addBOS = rule == "llama-bpe"
	case "llama":
		if t, err = ggufSentencePiece(meta, tokens, types); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%smodel is %q; only gpt2 (byte-level BPE) and llama (SentencePiece BPE) are supported", p, model)
	}
	for _, f := range []struct {
		key string
		to  *int32
	}{{"bos_token_id", &t.bos}, {"eos_token_id", &t.eos}, {"padding_token_id", &t.pad}} {
		v, ok := meta[p+f.key]
		if !ok {
			continue
		}
		id, err := intValue(v)
		if err != nil || id < 0 || id >= int64(len(t.tokens)) {
			return nil, fmt.Errorf("%s%s is %v, not an id below %d", p, f.key, v, len(t.tokens))
		}
		*f.to = int32(id)
	}
	addEOS := false
	for _, f := range []struct {
		key string
		to  *bool
	}{{"add_bos_token", &addBOS}, {"add_eos_token", &addEOS}} {
		if v, ok := meta[p+f.key]; ok {
			if *f.to, ok = v.(bool); !ok {
				return nil, fmt.Errorf("%s%s is %v, not a bool", p, f.key, v)
			}
		}
	}
	t.addEnds(&addBOS, &addEOS)
	return t, nil
}

// ggufBytes makes a byte-level BPE tokenizer and names its splitting rule.
func ggufBytes(meta map[string]any, tokens []string, types []int64) (*Tokenizer, string, error) {
	const p = "tokenizer.ggml."
	pre, _ := meta[p+"pre"].(string)
	rule, ok := ggufPre[pre]
	if !ok {
		return nil, "", fmt.Errorf("%spre is %q; known: %s", p, pre, strings.Join(slices.Sorted(maps.Keys(ggufPre))[1:], ", "))
	}
	t, b := &Tokenizer{tokens: tokens}, &byteBPE{rule: rule, nfc: rule == "qwen2", whole: rule == "llama-bpe"}
	merges, err := stringArray(meta, p+"merges")
	if err != nil {
		return nil, "", err
	}
	for i, m := range merges {
		// Spellings contain no space: it is "Ġ".
		left, right, ok := strings.Cut(m, " ")
		if !ok {
			return nil, "", fmt.Errorf("%smerges[%d] is %q, not two tokens", p, i, m)
		}
		b.merges = append(b.merges, [2]string{left, right})
	}
	for id, typ := range types {
		if typ == pieceControl || typ == pieceUser {
			t.added = append(t.added, addedToken{id: int32(id), content: t.tokens[id], special: typ == pieceControl})
		}
	}
	return t, rule, t.buildBytes(b)
}

// ggufSentencePiece makes a SentencePiece BPE tokenizer, as llama.cpp does: without normalization, a space in front of
// the text and behind every special token.
func ggufSentencePiece(meta map[string]any, tokens []string, types []int64) (*Tokenizer, error) {
	const p = "tokenizer.ggml."
	scores, err := floatArray(meta[p+"scores"])
	if err != nil || len(scores) != len(tokens) {
		return nil, fmt.Errorf("%sscores is not %d numbers", p, len(tokens))
	}
	if types == nil {
		return nil, fmt.Errorf("%stoken_type is missing", p)
	}
	m := &spModel{bpe: true, byteFallback: true, dummyPrefix: true, escape: true, everywhere: true, unk: -1}
	for _, f := range []struct {
		key string
		to  *bool
	}{{"add_space_prefix", &m.dummyPrefix}, {"remove_extra_whitespaces", &m.removeExtra}} {
		if v, ok := meta[p+f.key]; ok {
			if *f.to, ok = v.(bool); !ok {
				return nil, fmt.Errorf("%s%s is %v, not a bool", p, f.key, v)
			}
		}
	}
	if m.removeExtra {
		return nil, fmt.Errorf("%sremove_extra_whitespaces is not supported", p)
	}
	for id, s := range tokens {
		m.pieces = append(m.pieces, spPiece{s, scores[id], int32(types[id])})
		if types[id] == pieceUnknown {
			m.unk = int32(id)
		}
	}
	return fromSPModel(m)
}

func floatArray(v any) ([]float32, error) {
	switch v := v.(type) {
	case []float32:
		return v, nil
	case []any:
		out := make([]float32, len(v))
		for i, x := range v {
			switch x := x.(type) {
			case float32:
				out[i] = x
			case float64:
				out[i] = float32(x)
			default:
				return nil, fmt.Errorf("[%d] is a %T", i, x)
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("%T is not an array of numbers", v)
}

func stringArray(meta map[string]any, key string) ([]string, error) {
	switch v := meta[key].(type) {
	case nil:
		return nil, fmt.Errorf("%s is missing", key)
	case []string:
		return slices.Clone(v), nil
	case []any:
		out := make([]string, len(v))
		for i, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, fmt.Errorf("%s[%d] is a %T, not a string", key, i, x)
			}
			out[i] = s
		}
		return out, nil
	default:
		return nil, fmt.Errorf("%s is a %T, not an array of strings", key, v)
	}
}

func intArray(v any) ([]int64, error) {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return nil, fmt.Errorf("%T is not an array of integers", v)
	}
	out := make([]int64, r.Len())
	for i := range out {
		n, err := intValue(r.Index(i).Interface())
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}

func intValue(v any) (int64, error) {
	switch r := reflect.ValueOf(v); {
	case r.CanInt():
		return r.Int(), nil
	case r.CanUint() && r.Uint() <= math.MaxInt64:
		return int64(r.Uint()), nil
	case r.CanFloat() && r.Float() == math.Trunc(r.Float()) && math.Abs(r.Float()) < 1<<53: // JSON's numbers
		return int64(r.Float()), nil
	}
	return 0, fmt.Errorf("%v is not an integer", v)
}
