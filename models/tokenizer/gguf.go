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

// Token types of tokenizer.ggml.token_type (ggml's llama_token_type).
const (
	ggufControl     = 3
	ggufUserDefined = 4
)

// FromGGUF makes the tokenizer described by the tokenizer.ggml.* keys of a GGUF file's
// metadata: model (gpt2), pre, tokens, token_type, merges, bos/eos/padding_token_id,
// add_bos_token. Arrays may be []string, []any or slices of any integer type.
func FromGGUF(meta map[string]any) (*Tokenizer, error) {
	t, err := fromGGUF(meta)
	if err != nil {
		return nil, fmt.Errorf("tokenizer in GGUF: %w", err)
	}
	return t, nil
}

func fromGGUF(meta map[string]any) (*Tokenizer, error) {
	const p = "tokenizer.ggml."
	if model, _ := meta[p+"model"].(string); model != "gpt2" {
		return nil, fmt.Errorf("%smodel is %q; only gpt2 (byte-level BPE) is supported", p, model)
	}
	pre, _ := meta[p+"pre"].(string)
	rule, ok := ggufPre[pre]
	if !ok {
		return nil, fmt.Errorf("%spre is %q; known: %s", p, pre, strings.Join(slices.Sorted(maps.Keys(ggufPre))[1:], ", "))
	}
	t := &Tokenizer{stages: rules[rule], nfc: rule == "qwen2"}
	var err error
	if t.tokens, err = stringArray(meta, p+"tokens"); err != nil {
		return nil, err
	}
	if len(t.tokens) == 0 {
		return nil, fmt.Errorf("%stokens is empty", p)
	}
	merges, err := stringArray(meta, p+"merges")
	if err != nil {
		return nil, err
	}
	for i, m := range merges {
		// Spellings contain no space: it is "Ġ".
		left, right, ok := strings.Cut(m, " ")
		if !ok {
			return nil, fmt.Errorf("%smerges[%d] is %q, not two tokens", p, i, m)
		}
		t.merges = append(t.merges, [2]string{left, right})
	}
	if v, ok := meta[p+"token_type"]; ok {
		types, err := intArray(v)
		if err != nil || len(types) != len(t.tokens) {
			return nil, fmt.Errorf("%stoken_type is not %d integers", p, len(t.tokens))
		}
		for id, typ := range types {
			if typ == ggufControl || typ == ggufUserDefined {
				t.added = append(t.added, addedToken{id: int32(id), content: t.tokens[id], special: typ == ggufControl})
			}
		}
	}
	if err := t.build(rule == "llama-bpe", -1); err != nil {
		return nil, err
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
	t.addBOS = rule == "llama-bpe" // llama.cpp's default
	if v, ok := meta[p+"add_bos_token"]; ok {
		if t.addBOS, ok = v.(bool); !ok {
			return nil, fmt.Errorf("%sadd_bos_token is %v, not a bool", p, v)
		}
	}
	return t, nil
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
