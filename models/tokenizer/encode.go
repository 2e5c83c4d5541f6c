package tokenizer

import (
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Encode gives the ids of text. Special tokens written in it become their ids, as
// chat templates need; never use it on what users typed (see EncodePlain). Neither
// BOS nor EOS is added. Bytes that are not UTF-8 count as U+FFFD. Where the
// vocabulary lacks a byte (SmolLM2 has no U+0004), it is left out, as in Hugging Face.
func (t *Tokenizer) Encode(text string) []int32 { return t.encode(text, t.finders[0]) }

// EncodePlain gives the ids of text that may not contain control tokens: "<|im_end|>"
// typed by a user is the ten characters. Added tokens that are not special (a
// model's "<think>") are still found, as in Hugging Face with split_special_tokens.
func (t *Tokenizer) EncodePlain(text string) []int32 { return t.encode(text, t.finders[1]) }

func (t *Tokenizer) encode(text string, find [2]*finder) []int32 {
	if !utf8.ValidString(text) {
		text = lossy([]byte(text))
	}
	e := t.borrow()
	defer t.giveBack(e)
	out := make([]int32, 0, len(text)/4+1)
	find[0].segments(text, &out, func(segment string) {
		if t.nfc {
			segment = norm.NFC.String(segment)
		}
		find[1].segments(segment, &out, func(plain string) {
			out = t.pieces(e, t.split, plain, out)
		})
	})
	return out
}

// pieces splits s by the first scanner, the pieces by the second and so on, and
// appends the tokens of the final pieces.
func (t *Tokenizer) pieces(e *encoder, split []scanner, s string, out []int32) []int32 {
	if len(split) == 0 {
		return e.word(&t.bpe, s, out)
	}
	for i := 0; i < len(s); {
		end := split[0](s, i)
		out = t.pieces(e, split[1:], s[i:end], out)
		i = end
	}
	return out
}

// borrow takes an encoder nobody uses; with it comes a warm word cache.
func (t *Tokenizer) borrow() *encoder {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		e := t.free[n-1]
		t.free = t.free[:n-1]
		return e
	}
	return &encoder{cache: map[string][]int32{}}
}

func (t *Tokenizer) giveBack(e *encoder) {
	const keep = 1 << 16 // scratch of a giant piece is not kept
	if cap(e.syms) > keep {
		e.syms, e.heap = nil, nil
	}
	t.mu.Lock()
	t.free = append(t.free, e)
	t.mu.Unlock()
}

// finder finds added tokens in text: leftmost first, the longest where several start.
type finder struct {
	first [256]bool // bytes that start a token
	nodes []trieNode
}

type trieNode struct {
	next map[byte]int32
	id   int32 // -1: no token ends here
}

func (f *finder) add(content string, id int32) {
	if content == "" {
		return
	}
	if f.nodes == nil {
		f.nodes = []trieNode{{id: -1}}
	}
	f.first[content[0]] = true
	at := int32(0)
	for i := range len(content) {
		next, ok := f.nodes[at].next[content[i]]
		if !ok {
			next = int32(len(f.nodes))
			f.nodes = append(f.nodes, trieNode{id: -1})
			if f.nodes[at].next == nil {
				f.nodes[at].next = map[byte]int32{}
			}
			f.nodes[at].next[content[i]] = next
		}
		at = next
	}
	f.nodes[at].id = id
}

// match gives the longest token that starts s; n is 0 where none does.
func (f *finder) match(s string) (id int32, n int) {
	at := int32(0)
	for i := range len(s) {
		next, ok := f.nodes[at].next[s[i]]
		if !ok {
			break
		}
		if at = next; f.nodes[at].id >= 0 {
			id, n = f.nodes[at].id, i+1
		}
	}
	return id, n
}

// segments appends the ids of the tokens found in s to out and calls plain, which
// appends too, on the text between them.
func (f *finder) segments(s string, out *[]int32, plain func(string)) {
	from := 0
	if f.nodes != nil {
		for i := 0; i < len(s); {
			if !f.first[s[i]] {
				i++
				continue
			}
			id, n := f.match(s[i:])
			if n == 0 {
				i++
				continue
			}
			if from < i {
				plain(s[from:i])
			}
			*out = append(*out, id)
			i += n
			from = i
		}
	}
	if from < len(s) {
		plain(s[from:])
	}
}
