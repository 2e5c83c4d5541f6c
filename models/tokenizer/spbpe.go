package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// bpeModel turns scores into merges: any two neighbours that together are a piece can be merged, the piece with the
// highest score first. Equal scores are equal ranks, of which the leftmost goes first.
func (m *spModel) bpeModel(ids, user map[string]int32, bytes *[256]int32) *bpe {
	b := &bpe{merges: map[uint64]merge{}, whole: user, chars: newCharSymbols(ids, "", "")}
	c := b.chars
	c.bytes, c.unk, c.fuse, c.base = bytes, m.unk, true, int32(len(m.pieces))
	parts := map[string]int32{}
	known := func(s string) bool {
		_, ok := ids[s]
		_, n := utf8.DecodeRuneInString(s)
		return ok || n == len(s)
	}
	half := func(s string) int32 {
		if id, ok := ids[s]; ok {
			return id
		}
		id, ok := parts[s]
		if !ok { // a character that is no piece itself, but may become part of one
			id = c.base + int32(len(c.parts))
			parts[s], c.parts = id, append(c.parts, s)
			r, _ := utf8.DecodeRuneInString(s)
			c.by[0][0].set(r, id)
		}
		return id
	}
	rank := m.ranks()
	for id, p := range m.pieces {
		if p.kind != pieceNormal && p.kind != pieceUser && p.kind != pieceUnused {
			continue
		}
		if p.kind == pieceUnused {
			if b.unused == nil {
				b.unused = map[int32]bool{}
			}
			b.unused[int32(id)] = true
		}
		for i := range p.text {
			if left, right := p.text[:i], p.text[i:]; i > 0 && known(left) && known(right) {
				b.merges[pair(half(left), half(right))] = merge{rank[id], int32(id)}
			}
		}
	}
	return b
}

// ranks orders the pieces by score, the highest first.
func (m *spModel) ranks() []int32 {
	order := make([]int32, len(m.pieces))
	for id := range order {
		order[id] = int32(id)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(m.pieces[b].score, m.pieces[a].score) })
	rank := make([]int32, len(order))
	for i, id := range order {
		rank[id] = int32(i)
		if i > 0 && m.pieces[id].score == m.pieces[order[i-1]].score {
			rank[id] = rank[order[i-1]]
		}
	}
	return rank
}

// alone matches user-defined pieces, which are never merged.
type alone struct{ trie *trie }

func (a alone) matches(s string, out []match) []match {
	from := 0
	for i := 0; i < len(s); {
		_, n := a.trie.longest(s[i:])
		if n == 0 {
			_, n = utf8.DecodeRuneInString(s[i:])
			i += n
			continue
		}
		if from < i {
			out = append(out, match{span{from, i}, false})
		}
		out = append(out, match{span{i, i + n}, true})
		i += n
		from = i
	}
	if from < len(s) {
		out = append(out, match{span{from, len(s)}, false})
	}
	return out
}

// spNormalizer is SentencePiece's normalization: the rules of the longest keys, spaces at the ends and in runs taken
// away, a space put in front, spaces written as "▁".
type spNormalizer struct {
	*spModel
	user *trie // pieces that are left as they are; nil: none
}

func unescape(s string) string { return strings.ReplaceAll(s, wordMark, " ") }

// next gives what the start of s becomes and its length.
func (x *spNormalizer) next(s string) (string, int) {
	if x.user != nil {
		if _, n := x.user.longest(s); n > 0 {
			return s[:n], n
		}
	}
	if x.rules != nil {
		if to, n := x.rules.longest(s); n > 0 {
			return to, n
		}
	}
	_, n := utf8.DecodeRuneInString(s)
	return s[:n], n
}

func (x *spNormalizer) normalize(p piece) piece {
	s := p.s
	for x.removeExtra && s != "" {
		to, n := x.next(s)
		if to != " " {
			break
		}
		s = s[n:]
	}
	if s == "" {
		return piece{}
	}
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	space := " "
	if x.escape {
		space = wordMark
	}
	if x.dummyPrefix && (x.everywhere || p.first) {
		b.WriteString(space)
	}
	after := x.removeExtra // a space
	for s != "" {
		to, n := x.next(s)
		s = s[n:]
		if after {
			to = strings.TrimLeft(to, " ")
		}
		if to == "" {
			continue
		}
		after = x.removeExtra && to[len(to)-1] == ' '
		if x.escape && strings.Contains(to, " ") {
			to = strings.ReplaceAll(to, " ", wordMark)
		}
		b.WriteString(to)
	}
	out := b.String()
	for x.removeExtra && strings.HasSuffix(out, space) {
		out = out[:len(out)-len(space)]
	}
	return piece{out, p.first}
}
