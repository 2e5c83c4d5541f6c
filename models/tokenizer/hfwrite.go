package tokenizer

import "encoding/json"

// MarshalJSON writes the tokenizer as a Hugging Face tokenizer.json, which FromHF and
// the tokenizers library read. ConfigJSON writes what that file has no room for.
func (t *Tokenizer) MarshalJSON() ([]byte, error) {
	yes, no := true, false
	byteLevel := hfStep{Type: "ByteLevel", AddPrefixSpace: &no, TrimOffsets: &yes, UseRegex: &no}
	f := map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil,
		"normalizer": nil, "post_processor": byteLevel, "decoder": byteLevel,
	}
	if t.nfc {
		f["normalizer"] = hfStep{Type: "NFC"}
	}
	stages, last := t.stages, byteLevel
	if n := len(stages); n > 0 && stages[n-1] == "gpt2" {
		stages, last.UseRegex = stages[:n-1], &yes
	}
	pre := hfStep{Type: "Sequence"}
	for _, stage := range stages {
		switch stage {
		case "digits":
			pre.PreTokenizers = append(pre.PreTokenizers, hfStep{Type: "Digits", IndividualDigits: &yes})
		case "digit-runs":
			pre.PreTokenizers = append(pre.PreTokenizers, hfStep{Type: "Digits", IndividualDigits: &no})
		default:
			pre.PreTokenizers = append(pre.PreTokenizers, hfStep{Type: "Split",
				Pattern: &hfPattern{Regex: regexes[stage]}, Behavior: "Isolated", Invert: &no})
		}
	}
	pre.PreTokenizers = append(pre.PreTokenizers, last)
	f["pre_tokenizer"] = pre
	if len(pre.PreTokenizers) == 1 {
		f["pre_tokenizer"] = last
	}
	if t.AddBOS() {
		f["post_processor"] = t.bosTemplate()
	}
	added := []hfAdded{}
	for _, a := range t.added {
		added = append(added, hfAdded{ID: int64(a.id), Content: a.content, Special: a.special, Normalized: a.normalized})
	}
	f["added_tokens"] = added
	// Added tokens stay in the vocabulary, where GGUF has them: the ids then do not
	// depend on how a reader numbers new tokens.
	m := hfModel{Type: "BPE", IgnoreMerges: t.bpe.whole != nil, Vocab: t.vocab(), UnkToken: t.unk()}
	for _, p := range t.merges {
		m.Merges = append(m.Merges, p)
	}
	f["model"] = m
	return json.Marshal(f)
}

// MarshalJSON writes "a b", which readers of all ages understand.
func (m hfMerge) MarshalJSON() ([]byte, error) { return json.Marshal(m[0] + " " + m[1]) }

func (t *Tokenizer) vocab() map[string]int64 {
	v := make(map[string]int64, len(t.tokens))
	for id, s := range t.tokens {
		if s != "" {
			v[s] = int64(id)
		}
	}
	return v
}

// unk is the token that stands for bytes the vocabulary lacks, if one does.
func (t *Tokenizer) unk() *string {
	for b, id := range t.bpe.byteID {
		if id >= 0 && t.tokens[id] != string(byteRune[b]) {
			return &t.tokens[id]
		}
	}
	return nil
}

func (t *Tokenizer) bosTemplate() hfStep {
	name := t.tokens[t.bos]
	bos := hfPiece{SpecialToken: &hfRef{ID: name}}
	a, b := hfPiece{Sequence: &hfRef{ID: "A"}}, hfPiece{Sequence: &hfRef{ID: "B", TypeID: 1}}
	bos2 := hfPiece{SpecialToken: &hfRef{ID: name, TypeID: 1}}
	return hfStep{
		Type: "TemplateProcessing", Single: []hfPiece{bos, a}, Pair: []hfPiece{bos, a, bos2, b},
		SpecialTokens: map[string]hfSpecial{name: {ID: name, IDs: []int64{int64(t.bos)}, Tokens: []string{name}}},
	}
}
