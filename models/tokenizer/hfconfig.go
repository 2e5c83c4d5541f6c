package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
)

// usual names of the special tokens, most specific first.
var (
	usualEOS = []string{"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"}
	usualBOS = []string{"<|begin_of_text|>", "<s>", "<bos>"}
	usualPad = []string{"<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"}
)

func (t *Tokenizer) guessSpecials() {
	guess := func(to *int32, names []string) {
		for _, name := range names {
			if id, ok := t.Special(name); ok {
				*to = id
				return
			}
		}
	}
	guess(&t.eos, usualEOS)
	guess(&t.bos, usualBOS)
	guess(&t.pad, usualPad)
}

// hfConfig is the part of a tokenizer_config.json that matters here. Tokens are
// strings or objects with their content.
type hfConfig struct {
	Class          string   `json:"tokenizer_class,omitempty"`
	BOS            *hfToken `json:"bos_token,omitempty"`
	EOS            *hfToken `json:"eos_token,omitempty"`
	Pad            *hfToken `json:"pad_token,omitempty"`
	AddBOS         *bool    `json:"add_bos_token,omitempty"`
	AddPrefixSpace *bool    `json:"add_prefix_space,omitempty"`
	ChatTemplate   string   `json:"chat_template,omitempty"`
	CleanUp        *bool    `json:"clean_up_tokenization_spaces,omitempty"`
}

type hfToken string

func (h *hfToken) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		var object struct{ Content *string }
		if err := json.Unmarshal(b, &object); err != nil || object.Content == nil {
			return fmt.Errorf("token %s has no content", b)
		}
		s = *object.Content
	}
	*h = hfToken(s)
	return nil
}

// Configure takes BOS, EOS, the padding token and whether BOS is added from a Hugging
// Face tokenizer_config.json. A name the vocabulary lacks is an error. Call it before
// the tokenizer is shared between goroutines.
func (t *Tokenizer) Configure(tokenizerConfigJSON []byte) error {
	var c struct {
		hfConfig
		ChatTemplate json.RawMessage `json:"chat_template"` // a string or a list: the caller's business
	}
	if err := json.Unmarshal(tokenizerConfigJSON, &c); err != nil {
		return fmt.Errorf("tokenizer_config.json: %w", err)
	}
	if c.AddPrefixSpace != nil && *c.AddPrefixSpace {
		return errors.New("tokenizer_config.json: add_prefix_space is not supported")
	}
	ids := [3]int32{t.bos, t.eos, t.pad}
	for i, f := range []struct {
		key  string
		name *hfToken
	}{{"bos_token", c.BOS}, {"eos_token", c.EOS}, {"pad_token", c.Pad}} {
		if f.name == nil {
			continue
		}
		id, ok := t.ids[string(*f.name)]
		if !ok {
			return fmt.Errorf("tokenizer_config.json: %s %q is not in the vocabulary", f.key, *f.name)
		}
		ids[i] = id
	}
	t.bos, t.eos, t.pad = ids[0], ids[1], ids[2]
	if c.AddBOS != nil {
		t.addBOS = *c.AddBOS
	}
	return nil
}

// ConfigJSON writes the tokenizer_config.json that goes with MarshalJSON's file.
// chatTemplate may be empty.
func (t *Tokenizer) ConfigJSON(chatTemplate string) ([]byte, error) {
	no, addBOS := false, t.AddBOS()
	c := hfConfig{Class: "PreTrainedTokenizerFast", AddBOS: &addBOS, AddPrefixSpace: &no, CleanUp: &no, ChatTemplate: chatTemplate}
	for _, f := range []struct {
		to *(*hfToken)
		id int32
	}{{&c.BOS, t.bos}, {&c.EOS, t.eos}, {&c.Pad, t.pad}} {
		if f.id >= 0 {
			name := hfToken(t.tokens[f.id])
			*f.to = &name
		}
	}
	return json.MarshalIndent(c, "", "  ")
}
