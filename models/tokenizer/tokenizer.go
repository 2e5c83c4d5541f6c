// Package tokenizer turns text into token ids and back, with the same ids as Hugging Face tokenizers: BPE over bytes
// (GPT-2, Llama-3, Qwen) or characters with byte fallback (Llama-2, Gemma), Unigram (T5, XLM-R), WordPiece (BERT) and
// WordLevel.
//
// Vocabularies come from a tokenizer.json (FromHF), a SentencePiece tokenizer.model (FromSentencePiece), GGUF metadata
// (FromGGUF) or a list of words (FromWords). What a file asks for and this package does not do is an
// error naming it, never a silent approximation.
package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Tokenizer is a pipeline from text to ids and back. It is immutable but for Configure and
// safe for concurrent use.
type Tokenizer struct {
	tokens []string // spelling of each id; "" where the id is not used
	shown  []string // what it is decoded from: the same, but for added tokens matched after normalization
	ids    map[string]int32
	added  []addedToken
	kind   map[int32]addedToken // added, by id

	// Finders of added tokens in the raw text and after normalization.
	finders     [2]*finder
	normalizers []normalizer
	pre         []preTokenizer
	steps       []string // names of the pre-tokenizers
	model       model
	decoders    []func() stage
	raw         []string // the bytes each id stands for, where decoding is no more than that; else nil

	bos, eos, pad  int32   // -1: none
	prefix, suffix []int32 // what the post-processor puts around a text

	// For writing: the file it was read from, or what byte-level BPE or SentencePiece needs.
	source json.RawMessage
	bytes  *byteBPE
	sp     *spModel

	mu   sync.Mutex
	free []*encoder
}

// rules are the splitting rules with names, as lists of scanners.
var rules = map[string][]string{
	"gpt-2":     {"gpt2"},
	"smollm":    {"digits", "gpt2"},
	"llama-bpe": {"llama3"},
	"qwen2":     {"qwen2"},
}

// add puts a token into the vocabulary. Ids may have gaps; those beyond limit are a broken file, not memory to take.
func (t *Tokenizer) add(s string, id, limit int64) error {
	if id < 0 || id >= limit {
		return fmt.Errorf("token %q has id %d, out of range", clip(s), id)
	}
	if s == "" {
		return fmt.Errorf("id %d is an empty token", id)
	}
	for int64(len(t.tokens)) <= id {
		t.tokens = append(t.tokens, "")
	}
	if old := t.tokens[id]; old != "" && old != s {
		return fmt.Errorf("id %d is both %q and %q", id, min(old, s), max(old, s))
	}
	t.tokens[id] = s
	return nil
}

// index fills in what follows from tokens and added.
func (t *Tokenizer) index() error {
	t.bos, t.eos, t.pad = -1, -1, -1
	slices.SortFunc(t.added, func(a, b addedToken) int { return int(a.id) - int(b.id) })
	t.kind = make(map[int32]addedToken, len(t.added))
	for _, a := range t.added {
		t.kind[a.id] = a
	}
	t.ids = make(map[string]int32, len(t.tokens))
	for id, s := range t.tokens {
		if s == "" {
			continue
		}
		if first, dup := t.ids[s]; dup {
			return fmt.Errorf("token %q has two ids, %d and %d", clip(s), first, id)
		}
		t.ids[s] = int32(id)
	}
	return nil
}

// modelIDs are the tokens the model may make of ordinary text: all but the special ones, which a user's words must not
// become.
func (t *Tokenizer) modelIDs() map[string]int32 {
	ids := make(map[string]int32, len(t.ids))
	for s, id := range t.ids {
		if !t.kind[id].special {
			ids[s] = id
		}
	}
	return ids
}

// find makes the finders of added tokens and what tokens are decoded from, for which the normalizers must be known.
func (t *Tokenizer) find() {
	var byStage [2][]addedToken
	var contents [2][]string
	t.shown = t.tokens
	for _, a := range t.added {
		stage, content := 0, a.content
		if a.normalized {
			stage, content = 1, t.normalize(piece{a.content, false}).s
		}
		if content != a.content {
			if &t.shown[0] == &t.tokens[0] {
				t.shown = slices.Clone(t.tokens)
			}
			t.shown[a.id] = content
		}
		byStage[stage], contents[stage] = append(byStage[stage], a), append(contents[stage], content)
	}
	for i := range t.finders {
		t.finders[i] = newFinder(byStage[i], contents[i])
	}
}

// rawBytes makes decoding a look-up of bytes.
func (t *Tokenizer) rawBytes() {
	t.raw = make([]string, len(t.shown))
	for id, s := range t.shown {
		raw, ok := unsurface(s)
		if !ok {
			raw = s
		}
		t.raw[id] = raw
	}
}

// VocabSize is the number of ids: one more than the largest.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// EOS is the id that ends a text, or -1 if the vocabulary names none.
func (t *Tokenizer) EOS() int32 { return t.eos }

// BOS is the id that begins a text; false if the vocabulary names none. Encode never
// adds it: see AddBOS.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos >= 0 }

// AddBOS tells whether the model was trained with BOS in front of every text. The
// caller puts it there, unless the text already starts with it, as rendered chat
// templates do.
func (t *Tokenizer) AddBOS() bool { return t.bos >= 0 && slices.Contains(t.prefix, t.bos) }

// Pad is the id to fill batches with: the vocabulary's padding token, else EOS, else 0.
func (t *Tokenizer) Pad() int32 {
	if t.pad >= 0 {
		return t.pad
	}
	return max(t.eos, 0)
}

// Special gives the id of an added token (control or user-defined) by its text.
func (t *Tokenizer) Special(name string) (int32, bool) {
	id, ok := t.ids[name]
	if _, isAdded := t.kind[id]; !ok || !isAdded {
		return 0, false
	}
	return id, true
}

// Controls are the texts of the special tokens, which Encode turns into their ids and EncodePlain does not.
func (t *Tokenizer) Controls() []string {
	var out []string
	for _, a := range t.added {
		if a.special {
			out = append(out, a.content)
		}
	}
	return out
}

// Token is the text of one id, specials included, as DecodeRaw gives it; "" for ids
// outside the vocabulary.
func (t *Tokenizer) Token(id int32) string { return t.DecodeRaw([]int32{id}) }

// Spelling is one id as the vocabulary spells it ("Ġthe", "▁the", "</s>"): for special tokens, the text that stands for
// them in chat templates. "" for ids outside the vocabulary.
func (t *Tokenizer) Spelling(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// PreTokenizer names the splitting rule: gpt-2, smollm, llama-bpe or qwen2, else its
// steps.
func (t *Tokenizer) PreTokenizer() string {
	for name, steps := range rules {
		if slices.Equal(steps, t.steps) {
			return name
		}
	}
	return strings.Join(t.steps, "+")
}
