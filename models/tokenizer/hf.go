package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// The parts of a tokenizer.json. Fields that change the ids are all listed, so that
// decoding can refuse the ones it does not know.
type (
	hfFile struct {
		Version       string          `json:"version"`
		Truncation    json.RawMessage `json:"truncation"`
		Padding       *hfPadding      `json:"padding"`
		AddedTokens   []hfAdded       `json:"added_tokens"`
		Normalizer    *hfStep         `json:"normalizer"`
		PreTokenizer  *hfStep         `json:"pre_tokenizer"`
		PostProcessor *hfStep         `json:"post_processor"`
		Decoder       *hfStep         `json:"decoder"`
		Model         hfModel         `json:"model"`
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
	hfModel struct {
		Type            string           `json:"type"`
		Dropout         *float64         `json:"dropout"`
		UnkToken        *string          `json:"unk_token"`
		SubwordPrefix   *string          `json:"continuing_subword_prefix"`
		EndOfWordSuffix *string          `json:"end_of_word_suffix"`
		FuseUnk         bool             `json:"fuse_unk"`
		ByteFallback    bool             `json:"byte_fallback"`
		IgnoreMerges    bool             `json:"ignore_merges"`
		Vocab           map[string]int64 `json:"vocab"`
		Merges          []hfMerge        `json:"merges"`
	}
	hfMerge [2]string
	// hfStep is a normalizer, pre-tokenizer, post-processor or decoder: the union of
	// the fields of the kinds known here.
	hfStep struct {
		Type             string               `json:"type"`
		Normalizers      []hfStep             `json:"normalizers,omitempty"`
		PreTokenizers    []hfStep             `json:"pretokenizers,omitempty"`
		Processors       []hfStep             `json:"processors,omitempty"`
		IndividualDigits *bool                `json:"individual_digits,omitempty"`
		Pattern          *hfPattern           `json:"pattern,omitempty"`
		Behavior         string               `json:"behavior,omitempty"`
		Invert           *bool                `json:"invert,omitempty"`
		AddPrefixSpace   *bool                `json:"add_prefix_space,omitempty"`
		TrimOffsets      *bool                `json:"trim_offsets,omitempty"`
		UseRegex         *bool                `json:"use_regex,omitempty"`
		Single           []hfPiece            `json:"single,omitempty"`
		Pair             []hfPiece            `json:"pair,omitempty"`
		SpecialTokens    map[string]hfSpecial `json:"special_tokens,omitempty"`
	}
	hfPattern struct {
		Regex  string `json:"Regex"`
		String string `json:"String,omitempty"`
	}
	hfPiece struct {
		SpecialToken *hfRef `json:"SpecialToken,omitempty"`
		Sequence     *hfRef `json:"Sequence,omitempty"`
	}
	hfRef struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	}
	hfSpecial struct {
		ID     string   `json:"id"`
		IDs    []int64  `json:"ids"`
		Tokens []string `json:"tokens"`
	}
)

// UnmarshalJSON reads both spellings of a merge: "a b" and ["a", "b"].
func (m *hfMerge) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		left, right, ok := strings.Cut(s, " ")
		if !ok {
			return fmt.Errorf("merge %q is not two tokens", s)
		}
		*m = hfMerge{left, right}
		return nil
	}
	var two []string
	if err := json.Unmarshal(b, &two); err != nil || len(two) != 2 {
		return fmt.Errorf("merge %s is not two tokens", b)
	}
	*m = hfMerge{two[0], two[1]}
	return nil
}

// UnmarshalJSON refuses fields this package does not know.
func (s *hfStep) UnmarshalJSON(b []byte) error {
	type plain hfStep
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode((*plain)(s)); err != nil {
		var kind struct{ Type string }
		_ = json.Unmarshal(b, &kind)
		return fmt.Errorf("%q step: %w", kind.Type, err)
	}
	return nil
}

// FromHF makes the tokenizer of a Hugging Face tokenizer.json: byte-level BPE, split by
// ByteLevel, Digits or one of the expressions of GPT-2, Llama-3 and Qwen2, with or
// without NFC. Anything else that would change the ids is an error naming it.
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
	t := &Tokenizer{}
	if err := f.Model.check(); err != nil {
		return nil, err
	}
	if err := t.readNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	if err := t.readPreTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	if f.Decoder == nil || f.Decoder.Type != "ByteLevel" {
		return nil, fmt.Errorf("decoder %s is not supported; only ByteLevel", f.Decoder.name())
	}
	if err := t.readVocab(f); err != nil {
		return nil, err
	}
	unk := int32(-1)
	if u := f.Model.UnkToken; u != nil {
		id, ok := f.Model.Vocab[*u]
		if !ok {
			return nil, fmt.Errorf("model.unk_token %q is not in the vocabulary", *u)
		}
		unk = int32(id)
	}
	if err := t.build(f.Model.IgnoreMerges, unk); err != nil {
		return nil, err
	}
	t.guessSpecials()
	if f.Padding != nil && f.Padding.PadID >= 0 && f.Padding.PadID < int64(len(t.tokens)) {
		t.pad = int32(f.Padding.PadID)
	}
	return t, t.readPostProcessor(f.PostProcessor)
}

func (s *hfStep) name() string {
	if s == nil {
		return "null"
	}
	return s.Type
}
