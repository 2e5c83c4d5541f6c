// Package tokenizer turns text into the token ids of byte-level BPE models (GPT-2,
// SmolLM, Llama-3, Qwen2) and back, with the same ids as Hugging Face tokenizers.
//
// Vocabularies come from GGUF metadata (FromGGUF), a tokenizer.json (FromHF) or a
// list of words (FromWords). What a file asks for and this package does not do is an
// error naming it, never a silent approximation.
package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/text/unicode/norm"
)

// Tokenizer is a byte-level BPE tokenizer. It is immutable but for Configure and
// safe for concurrent use.
type Tokenizer struct {
	tokens []string // spelling of each id; "" where the id is not used
	raw    []string // the bytes each id stands for
	ids    map[string]int32
	added  []addedToken
	kind   map[int32]addedToken // added, by id

	bpe    bpe
	merges [][2]string
	stages []string // names of scanners, applied in turn, each to the pieces of the one before
	split  []scanner
	nfc    bool // text is brought to Unicode normalization form C first

	bos, eos, pad int32 // -1: none
	addBOS        bool

	// Finders of added tokens: [0] all of them, [1] the non-special ones only; each
	// first those matched in the raw text, then those matched after normalization.
	finders [2][2]*finder

	mu   sync.Mutex
	free []*encoder
}

// addedToken is a token found in the text as it stands, before any splitting.
type addedToken struct {
	id         int32
	content    string
	special    bool // control token: not part of the text
	normalized bool // matched after normalization
}

// rules are the splitting rules with names, as lists of scanners.
var rules = map[string][]string{
	"gpt-2":     {"gpt2"},
	"smollm":    {"digits", "gpt2"},
	"llama-bpe": {"llama3"},
	"qwen2":     {"qwen2"},
}

// build assembles a tokenizer whose tokens, merges, added, stages and nfc are set.
func (t *Tokenizer) build(ignoreMerges bool, unk int32) error {
	t.bos, t.eos, t.pad = -1, -1, -1
	t.split = nil
	for _, name := range t.stages {
		t.split = append(t.split, scanners[name])
	}
	t.kind = make(map[int32]addedToken, len(t.added))
	for _, a := range t.added {
		t.kind[a.id] = a
	}
	t.ids = make(map[string]int32, len(t.tokens))
	t.raw = make([]string, len(t.tokens))
	for id, s := range t.tokens {
		if s == "" {
			continue
		}
		if first, dup := t.ids[s]; dup {
			return fmt.Errorf("token %q has two ids, %d and %d", s, first, id)
		}
		t.ids[s] = int32(id)
		raw, ok := unsurface(s)
		if _, isAdded := t.kind[int32(id)]; isAdded || !ok {
			raw = s
		}
		t.raw[id] = raw
	}
	for b := range t.bpe.byteID {
		id, ok := t.ids[string(byteRune[b])]
		if !ok {
			id = unk
		}
		t.bpe.byteID[b] = id
	}
	if err := t.bpe.addMerges(t.merges, t.ids); err != nil {
		return err
	}
	if ignoreMerges {
		t.bpe.whole = make(map[string]int32, len(t.tokens))
		for id, s := range t.tokens {
			// Spelled out by users, a control token is ordinary text.
			if _, isAdded := t.kind[int32(id)]; s != "" && !isAdded {
				t.bpe.whole[t.raw[id]] = int32(id)
			}
		}
	}
	slices.SortFunc(t.added, func(a, b addedToken) int { return int(a.id) - int(b.id) })
	for i := range t.finders {
		t.finders[i] = [2]*finder{{}, {}}
		for _, a := range t.added {
			if i == 1 && a.special {
				continue
			}
			stage, content := 0, a.content
			if a.normalized {
				stage = 1
			}
			if a.normalized && t.nfc {
				content = norm.NFC.String(content)
			}
			t.finders[i][stage].add(content, a.id)
		}
	}
	return nil
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
func (t *Tokenizer) AddBOS() bool { return t.addBOS && t.bos >= 0 }

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

// Token is the text of one id, specials included, as DecodeRaw gives it; "" for ids
// outside the vocabulary.
func (t *Tokenizer) Token(id int32) string { return t.DecodeRaw([]int32{id}) }

// PreTokenizer names the splitting rule: gpt-2, smollm, llama-bpe or qwen2, else its
// steps.
func (t *Tokenizer) PreTokenizer() string {
	for name, stages := range rules {
		if slices.Equal(stages, t.stages) {
			return name
		}
	}
	return strings.Join(t.stages, "+")
}
