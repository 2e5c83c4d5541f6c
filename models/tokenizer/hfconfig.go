package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	AddEOS         *bool    `json:"add_eos_token,omitempty"`
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
		ChatTemplate json.RawMessage    `json:"chat_template"` // a string or a list: the caller's business
		Added        map[string]hfAdded `json:"added_tokens_decoder"`
		Legacy       *bool              `json:"legacy"`
	}
	if err := json.Unmarshal(tokenizerConfigJSON, &c); err != nil {
		return fmt.Errorf("tokenizer_config.json: %w", err)
	}
	if err := t.configureAdded(c.Added); err != nil {
		return fmt.Errorf("tokenizer_config.json: %w", err)
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
	if err := t.classDefaults(&c.hfConfig); err != nil {
		return fmt.Errorf("tokenizer_config.json: %w", err)
	}
	t.addEnds(c.AddBOS, c.AddEOS)
	if c.AddPrefixSpace != nil {
		t.setPrefixSpace(*c.AddPrefixSpace)
	}
	if c.Legacy != nil && t.sp != nil {
		t.sp.everywhere = *c.Legacy
		t.model, t.pre, t.normalizers = nil, nil, nil
		t.sp.assemble(t)
	}
	return nil
}

// classDefaults fills in what transformers' tokenizer classes do with a SentencePiece model where the file is silent.
// Classes that number the pieces in their own way are refused.
func (t *Tokenizer) classDefaults(c *hfConfig) error {
	if t.sp == nil {
		return nil
	}
	yes := true
	switch strings.TrimSuffix(c.Class, "Fast") {
	case "", "PreTrainedTokenizer", "TokenizersBackend":
	case "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer":
		if c.AddBOS == nil {
			c.AddBOS = &yes
		}
	case "T5Tokenizer":
		if c.AddEOS == nil {
			c.AddEOS = &yes
		}
	default:
		return fmt.Errorf("tokenizer_class %q with a SentencePiece model is not supported: it needs a tokenizer.json (save_pretrained of a fast tokenizer writes one)", clip(c.Class))
	}
	return nil
}

// addEnds sets whether BOS goes in front of every text and EOS behind; nil leaves it.
func (t *Tokenizer) addEnds(bos, eos *bool) {
	set := func(ids []int32, id int32, add *bool, before bool) []int32 {
		has := slices.Contains(ids, id)
		switch {
		case add == nil || id < 0 || *add == has:
			return ids
		case !*add:
			return slices.DeleteFunc(slices.Clone(ids), func(x int32) bool { return x == id })
		case before:
			return append([]int32{id}, ids...)
		}
		return append(slices.Clone(ids), id)
	}
	t.prefix, t.suffix = set(t.prefix, t.bos, bos, true), set(t.suffix, t.eos, eos, false)
}

// setPrefixSpace does what transformers does with add_prefix_space: it goes before the setting of a ByteLevel
// pre-tokenizer that stands alone, and is nothing to others.
func (t *Tokenizer) setPrefixSpace(add bool) {
	var f hfFile
	if t.source == nil || json.Unmarshal(t.source, &f) != nil {
		return
	}
	if kind, err := kindOf(f.PreTokenizer); err != nil || kind != "ByteLevel" {
		return
	}
	has := len(t.pre) > 0 && t.pre[0] == preTokenizer(spacePrefix{})
	switch {
	case add && !has:
		t.pre, t.steps = slices.Insert(t.pre, 0, preTokenizer(spacePrefix{})), slices.Insert(t.steps, 0, "prefix-space")
	case !add && has:
		t.pre, t.steps = t.pre[1:], t.steps[1:]
	}
}

// ConfigJSON writes the tokenizer_config.json that goes with MarshalJSON's file.
// chatTemplate may be empty.
func (t *Tokenizer) ConfigJSON(chatTemplate string) ([]byte, error) {
	no, addBOS, addEOS := false, t.AddBOS(), t.eos >= 0 && slices.Contains(t.suffix, t.eos)
	prefixSpace := len(t.steps) > 0 && t.steps[0] == "prefix-space"
	c := hfConfig{Class: "PreTrainedTokenizerFast", AddBOS: &addBOS, AddEOS: &addEOS, AddPrefixSpace: &prefixSpace, CleanUp: &no,
		ChatTemplate: chatTemplate}
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

// configureAdded adds the tokens of added_tokens_decoder that the vocabulary does not have, and makes those of a
// SentencePiece model that it lists added tokens, as transformers does.
func (t *Tokenizer) configureAdded(byID map[string]hfAdded) error {
	var missing []hfAdded
	for key, a := range byID {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return fmt.Errorf("added_tokens_decoder: %q is no id", clip(key))
		}
		a.ID = id
		if _, known := t.kind[int32(id)]; !known || id >= int64(len(t.tokens)) || t.tokens[id] != a.Content {
			missing = append(missing, a)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.SortFunc(missing, func(a, b hfAdded) int { return int(a.ID - b.ID) })
	bos, eos, pad := t.bos, t.eos, t.pad
	if err := t.readAdded(missing, int64(2*len(t.tokens)+1<<16)); err != nil {
		return fmt.Errorf("added_tokens_decoder: %w", err)
	}
	if err := t.index(); err != nil {
		return fmt.Errorf("added_tokens_decoder: %w", err)
	}
	t.bos, t.eos, t.pad = bos, eos, pad
	t.find()
	if t.raw != nil {
		t.rawBytes()
	}
	if t.source == nil {
		return nil
	}
	var f map[string]json.RawMessage
	var added []hfAdded
	if err := json.Unmarshal(t.source, &f); err != nil {
		return err
	}
	if err := json.Unmarshal(f["added_tokens"], &added); err != nil && f["added_tokens"] != nil {
		return err
	}
	var err error
	if f["added_tokens"], err = json.Marshal(append(added, missing...)); err != nil {
		return err
	}
	t.source, err = json.Marshal(f)
	return err
}
