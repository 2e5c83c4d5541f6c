package tokenizer

import (
	"slices"
	"unicode/utf8"
)

// Encode gives the ids of text. Special tokens written in it become their ids, as
// chat templates need; never use it on what users typed (see EncodePlain). Neither
// BOS nor EOS is added (see EncodeWithSpecials). Bytes that are not UTF-8 count as U+FFFD. Where a
// vocabulary without an unknown token lacks a byte (SmolLM2 has no U+0004), it is left out, as in Hugging Face.
func (t *Tokenizer) Encode(text string) []int32 { return t.encode(text, reading{}) }

// EncodePlain gives the ids of text that may not contain control tokens: "<|im_end|>"
// typed by a user is the ten characters. Added tokens that are not special (a
// model's "<think>") are still found, as in Hugging Face with split_special_tokens.
func (t *Tokenizer) EncodePlain(text string) []int32 { return t.encode(text, reading{plain: true}) }

// EncodePrompt is EncodePlain of a text that a completion follows, after BOS where the model was trained with it.
func (t *Tokenizer) EncodePrompt(text string) []int32 {
	ids := t.EncodePlain(text)
	if t.AddBOS() {
		ids = slices.Insert(ids, 0, t.bos)
	}
	return ids
}

// EncodeWithSpecials is Encode with what the tokenizer's post-processor puts around a text, such as BOS in front or EOS
// behind: Hugging Face's tokenizer(text), whose add_special_tokens is true.
func (t *Tokenizer) EncodeWithSpecials(text string) []int32 {
	return slices.Concat(t.prefix, t.Encode(text), t.suffix)
}

// EncodeLiteral is Encode for text of which some bytes are known to be no part of a special token, because a user
// wrote them: literal holds their offsets, in ascending order. A special token that takes in one of them is ordinary
// text. Text that is not UTF-8 has no special tokens.
//
// Where special tokens are matched in text that the normalizer has changed (normalized: true in tokenizer.json), the
// offsets of those say nothing, and they are parsed as by Encode; see LiteralKnown.
func (t *Tokenizer) EncodeLiteral(text string, literal []int) []int32 {
	return t.encode(text, reading{plain: !utf8.ValidString(text), literal: literal})
}

// LiteralKnown reports whether EncodeLiteral can tell every special token from a user's text.
func (t *Tokenizer) LiteralKnown() bool {
	return len(t.normalizers) == 0 || !slices.ContainsFunc(t.added, func(a addedToken) bool { return a.special && a.normalized })
}

func (t *Tokenizer) encode(text string, how reading) []int32 {
	if !utf8.ValidString(text) {
		text = lossy([]byte(text))
	}
	e := t.borrow()
	defer t.giveBack(e)
	out := make([]int32, 0, len(text)/4+1)
	t.finders[0].segments(text, how, &out, func(segment string, at int) {
		inner := reading{plain: how.plain}
		if len(t.normalizers) == 0 {
			for _, l := range how.literal {
				inner.literal = append(inner.literal, l-at)
			}
		}
		p := t.normalize(piece{segment, at == 0})
		t.finders[1].segments(p.s, inner, &out, func(plain string, at int) {
			out = t.pieces(e, 0, piece{plain, p.first && at == 0}, out)
		})
	})
	return out
}

// normalize applies the normalizers in turn.
func (t *Tokenizer) normalize(p piece) piece {
	for _, n := range t.normalizers {
		if p.s == "" {
			break
		}
		p = n.normalize(p)
	}
	return p
}

// pieces splits p by the pre-tokenizers from depth on and appends the tokens of the final pieces.
func (t *Tokenizer) pieces(e *encoder, depth int, p piece, out []int32) []int32 {
	if depth == len(t.pre) {
		return e.word(t.model, p.s, out)
	}
	if depth == len(e.spans) {
		e.spans = append(e.spans, nil)
	}
	text, spans := t.pre[depth].split(e, p, e.spans[depth][:0])
	e.spans[depth] = spans
	for _, s := range spans {
		out = t.pieces(e, depth+1, piece{text[s.from:s.to], p.first && s.from == 0}, out)
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
	if cap(e.syms) > keep || cap(e.best) > keep || cap(e.matches) > keep {
		e.syms, e.heap, e.best, e.path, e.matches = nil, nil, nil, nil, nil
	}
	for i := range e.spans {
		if cap(e.spans[i]) > keep {
			e.spans[i] = nil
		}
	}
	t.mu.Lock()
	t.free = append(t.free, e)
	t.mu.Unlock()
}
