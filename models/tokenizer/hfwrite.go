package tokenizer

import (
	"encoding/json"
	"slices"
)

// object is a JSON object to be written.
type object = map[string]any

// MarshalJSON writes the tokenizer as a Hugging Face tokenizer.json, which FromHF and
// the tokenizers library read: the file it was read from, or one that says the same. ConfigJSON writes what that file
// has no room for.
func (t *Tokenizer) MarshalJSON() ([]byte, error) {
	switch {
	case t.source != nil:
		return t.source, nil
	case t.sp != nil:
		return t.sp.json(t)
	}
	return t.bytes.json(t)
}

// MarshalJSON writes "a b", which readers of all ages understand.
func (m hfMerge) MarshalJSON() ([]byte, error) { return json.Marshal(m[0] + " " + m[1]) }

func (b *byteBPE) json(t *Tokenizer) ([]byte, error) {
	byteLevel := func(regex bool) object {
		return object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex}
	}
	f := t.jsonFile()
	f["decoder"] = byteLevel(false)
	if b.nfc {
		f["normalizer"] = object{"type": "NFC"}
	}
	if f["post_processor"] == nil {
		f["post_processor"] = byteLevel(false)
	}
	stages, last := t.steps, byteLevel(false)
	if n := len(stages); n > 0 && stages[n-1] == "gpt2" {
		stages, last = stages[:n-1], byteLevel(true)
	}
	var steps []object
	for _, stage := range stages {
		if stage == "digits" {
			steps = append(steps, object{"type": "Digits", "individual_digits": true})
			continue
		}
		steps = append(steps, object{"type": "Split", "pattern": object{"Regex": regexes[stage]}, "behavior": "Isolated", "invert": false})
	}
	f["pre_tokenizer"] = last
	if len(steps) > 0 {
		f["pre_tokenizer"] = object{"type": "Sequence", "pretokenizers": append(steps, last)}
	}
	// Added tokens stay in the vocabulary, where GGUF has them: the ids then do not
	// depend on how a reader numbers new tokens.
	merges := make([]hfMerge, len(b.merges))
	for i, m := range b.merges {
		merges[i] = m
	}
	f["model"] = object{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": false, "byte_fallback": false, "ignore_merges": b.whole, "vocab": t.ids, "merges": merges}
	return json.Marshal(f)
}

// jsonFile is a tokenizer.json with its added tokens and its post-processor.
func (t *Tokenizer) jsonFile() object {
	added := []hfAdded{}
	for _, a := range t.added {
		added = append(added, hfAdded{ID: int64(a.id), Content: a.content, Special: a.special, Normalized: a.normalized,
			SingleWord: a.singleWord, LStrip: a.lstrip, RStrip: a.rstrip})
	}
	f := object{"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added,
		"normalizer": nil, "pre_tokenizer": nil, "post_processor": nil, "decoder": nil}
	if len(t.prefix)+len(t.suffix) > 0 {
		f["post_processor"] = t.template()
	}
	return f
}

// template is the post-processor that puts prefix and suffix around texts.
func (t *Tokenizer) template() hfTemplate {
	specials := map[string]hfSpecial{}
	ends := func(ids []int32, typeID int) (out []hfPiece) {
		for _, id := range ids {
			name := t.tokens[id]
			specials[name] = hfSpecial{ID: name, IDs: []int64{int64(id)}, Tokens: []string{name}}
			out = append(out, hfPiece{SpecialToken: &hfRef{ID: name, TypeID: typeID}})
		}
		return out
	}
	part := func(name string, typeID int) []hfPiece {
		return slices.Concat(ends(t.prefix, typeID), []hfPiece{{Sequence: &hfRef{ID: name, TypeID: typeID}}}, ends(t.suffix, typeID))
	}
	return hfTemplate{typed{"TemplateProcessing"}, part("A", 0), slices.Concat(part("A", 0), part("B", 1)), specials}
}
