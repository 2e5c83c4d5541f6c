package tokenizer

import (
	"fmt"
	"unicode/utf8"
)

// FromWords makes a small tokenizer for a model trained here from scratch: the 256
// bytes (their ids are the byte values), then what it takes to make each word, and
// each word after a space, one token, then <|endoftext|> (EOS) and <|pad|>. It
// splits by GPT-2's rule, so of a word that the rule cuts ("don't") the parts become
// tokens. The same words in the same order give the same ids. Any text can be
// encoded and comes back.
func FromWords(words []string) (*Tokenizer, error) {
	t, b := &Tokenizer{}, &byteBPE{rule: "gpt-2"}
	for b := range 256 {
		t.tokens = append(t.tokens, string(byteRune[b]))
	}
	if err := t.buildBytes(b); err != nil {
		return nil, err
	}
	for i, w := range words {
		if w == "" || !utf8.ValidString(w) {
			return nil, fmt.Errorf("tokenizer from words: word %d (%q) is empty or not UTF-8", i, w)
		}
		t.learn(w)
	}
	for _, w := range words { // after the bare words: then it takes one merge
		if w[0] != ' ' {
			t.learn(" " + w)
		}
	}
	for _, s := range []string{"<|endoftext|>", "<|pad|>"} {
		if _, taken := t.ids[s]; taken {
			return nil, fmt.Errorf("tokenizer from words: %s cannot be a word", s)
		}
		t.added = append(t.added, addedToken{id: int32(len(t.tokens)), content: s, special: true})
		t.tokens = append(t.tokens, s)
	}
	if err := t.buildBytes(b); err != nil {
		return nil, err
	}
	t.eos, t.pad = t.added[0].id, t.added[1].id
	return t, nil
}

// learn adds merges until each piece of word is one token. New merges rank last, so
// earlier words stay one token: theirs apply before and leave nothing to merge.
func (t *Tokenizer) learn(word string) {
	e, m := &encoder{}, t.model.(*bpe)
	for i := 0; i < len(word); {
		end := scanGPT2(word, i)
		for {
			ids := m.encode(e, word[i:end], nil)
			if len(ids) == 1 {
				break
			}
			left, right := t.tokens[ids[0]], t.tokens[ids[1]]
			id, known := t.ids[left+right]
			if !known {
				id = int32(len(t.tokens))
				t.tokens = append(t.tokens, left+right)
				t.ids[left+right] = id
			}
			m.merges[pair(ids[0], ids[1])] = merge{int32(len(t.bytes.merges)), id}
			t.bytes.merges = append(t.bytes.merges, [2]string{left, right})
		}
		i = end
	}
}
