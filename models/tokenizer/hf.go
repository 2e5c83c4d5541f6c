package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// The parts of a tokenizer.json.
type (
	hfFile struct {
		Padding       *hfPadding      `json:"padding"`
		AddedTokens   []hfAdded       `json:"added_tokens"`
		Normalizer    json.RawMessage `json:"normalizer"`
		PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
		PostProcessor json.RawMessage `json:"post_processor"`
		Decoder       json.RawMessage `json:"decoder"`
		Model         json.RawMessage `json:"model"`
	}
	hfPadding struct {
		PadID int64 `json:"pad_id"`
	}
	hfAdded struct {
		ID         int64  `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	hfMerge [2]string
)

// UnmarshalJSON reads both spellings of a merge: "a b" and ["a", "b"].
func (m *hfMerge) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		left, right, ok := strings.Cut(s, " ")
		if !ok {
			return fmt.Errorf("merge %q is not two tokens", clip(s))
		}
		*m = hfMerge{left, right}
		return nil
	}
	var two []string
	if err := json.Unmarshal(b, &two); err != nil || len(two) != 2 {
		return fmt.Errorf("merge %q is not two tokens", clip(string(b)))
	}
	*m = hfMerge{two[0], two[1]}
	return nil
}

// kindOf is the type a step names, "null" if there is no step.
func kindOf(step json.RawMessage) (string, error) {
	if len(step) == 0 || string(step) == "null" {
		return "null", nil
	}
	var k struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(step, &k); err != nil {
		return "", err
	}
	if k.Type == nil {
		return "", nil // old files leave out the type of a BPE model
	}
	return clip(*k.Type), nil
}

// fields decodes a step into a struct, refusing the fields it does not have: they may change the ids.
func fields(step json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(step))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// typed is the field every step has.
type typed struct {
	Type string `json:"type"`
}

// FromHF makes the tokenizer of a Hugging Face tokenizer.json, with the ids and texts that Hugging Face tokenizers
// gives. What it does not do is an error naming it; docs/tokenizers.md lists what it does. Truncation and padding
// settings are off.
//
// The file does not say which token is EOS; until Configure is told, it is the usual
// name for it that the vocabulary has (<|endoftext|>, <|end_of_text|>, </s>, <eos>).
func FromHF(tokenizerJSON []byte) (*Tokenizer, error) {
	t, err := fromHF(tokenizerJSON)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

func fromHF(data []byte) (*Tokenizer, error) {
	var f hfFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	t := &Tokenizer{source: bytes.Clone(data)}
	var err error
	if t.normalizers, err = readNormalizer(f.Normalizer); err != nil {
		return nil, fmt.Errorf("normalizer %w", err)
	}
	if t.pre, t.steps, err = readPreTokenizer(f.PreTokenizer); err != nil {
		return nil, fmt.Errorf("pre_tokenizer %w", err)
	}
	if err := t.readDecoder(f.Decoder); err != nil {
		return nil, fmt.Errorf("decoder %w", err)
	}
	if err := t.readModel(f.Model, f.AddedTokens); err != nil {
		return nil, err
	}
	t.find()
	if len(t.decoders) == 1 {
		if _, ok := t.decoders[0]().(*byteLevel); ok {
			t.rawBytes()
		}
	}
	t.guessSpecials()
	if f.Padding != nil && f.Padding.PadID >= 0 && f.Padding.PadID < int64(len(t.tokens)) {
		t.pad = int32(f.Padding.PadID)
	}
	if err := t.readPostProcessor(f.PostProcessor); err != nil {
		return nil, fmt.Errorf("post_processor %w", err)
	}
	if len(t.prefix) == 1 {
		t.bos = t.prefix[0]
	}
	return t, nil
}

// readAdded takes the added tokens into the vocabulary.
func (t *Tokenizer) readAdded(added []hfAdded, limit int64) error {
	seen := map[int64]bool{}
	for _, a := range added {
		if seen[a.ID] {
			return fmt.Errorf("added token %q: id %d is listed twice", clip(a.Content), a.ID)
		}
		seen[a.ID] = true
		if err := t.add(a.Content, a.ID, limit); err != nil {
			return err
		}
		t.added = append(t.added, addedToken{id: int32(a.ID), content: a.Content, special: a.Special, normalized: a.Normalized,
			singleWord: a.SingleWord, lstrip: a.LStrip, rstrip: a.RStrip})
	}
	return nil
}
