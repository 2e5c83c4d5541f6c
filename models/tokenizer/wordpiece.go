package tokenizer

import "unicode/utf8"

// wordPiece takes the longest token that starts a piece, then the longest that continues it, and so on; a piece that
// does not come out is unknown as a whole.
type wordPiece struct {
	first, inside *trie // tokens, and those with the prefix of continuations, without it
	unk           int32
	maxChars      int
}

func newWordPiece(ids map[string]int32, prefix string, unk int32, maxChars int) *wordPiece {
	var first, inside []entry
	for s, id := range ids {
		first = append(first, entry{s, id})
		if len(s) > len(prefix) && s[:len(prefix)] == prefix {
			inside = append(inside, entry{s[len(prefix):], id})
		}
	}
	return &wordPiece{newTrie(first), newTrie(inside), unk, maxChars}
}

func (w *wordPiece) encode(_ *encoder, piece string, out []int32) []int32 {
	if len(piece) > w.maxChars && utf8.RuneCountInString(piece) > w.maxChars {
		return append(out, w.unk)
	}
	start := len(out)
	for tokens, i := w.first, 0; i < len(piece); tokens = w.inside {
		id, n := tokens.longest(piece[i:])
		if n == 0 {
			return append(out[:start], w.unk)
		}
		out = append(out, id)
		i += n
	}
	return out
}

// wordLevel has a token for every piece it knows.
type wordLevel struct {
	ids map[string]int32
	unk int32
}

func (w *wordLevel) encode(_ *encoder, piece string, out []int32) []int32 {
	if id, ok := w.ids[piece]; ok {
		return append(out, id)
	}
	return append(out, w.unk)
}
