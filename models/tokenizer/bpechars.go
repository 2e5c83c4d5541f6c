package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// charSymbols are the symbols that BPE over characters starts from, with what stands for characters the vocabulary
// lacks.
type charSymbols struct {
	prefix, suffix string // of symbols inside of a word, of a word's last symbol
	// symbol of a character by its place: [has the prefix][has the suffix]
	by [2][2]*runeMap

	bytes *[256]int32 // tokens of bytes, -1 for those there are none of; nil without byte fallback
	unk   int32       // -1: unknown characters are left out
	fuse  bool        // unknown characters in a row are one token

	// Characters that only occur inside of longer tokens (SentencePiece): they have ids from base on while merging.
	base  int32
	parts []string
}

// runeMap is a map from characters to ids.
type runeMap struct {
	ascii [utf8.RuneSelf]int32 // -1: none
	more  map[rune]int32
}

func newRuneMap() *runeMap {
	m := &runeMap{more: map[rune]int32{}}
	for i := range m.ascii {
		m.ascii[i] = -1
	}
	return m
}

func (m *runeMap) set(r rune, id int32) {
	if r < utf8.RuneSelf {
		m.ascii[r] = id
	} else {
		m.more[r] = id
	}
}

func (m *runeMap) get(r rune) int32 {
	if r < utf8.RuneSelf {
		return m.ascii[r]
	}
	if id, ok := m.more[r]; ok {
		return id
	}
	return -1
}

// newCharSymbols reads the symbols out of a vocabulary.
func newCharSymbols(ids map[string]int32, prefix, suffix string) *charSymbols {
	c := &charSymbols{prefix: prefix, suffix: suffix, unk: -1}
	fill := func(prefix, suffix string) *runeMap {
		m := newRuneMap()
		for s, id := range ids {
			if len(s) < len(prefix)+len(suffix) || !strings.HasPrefix(s, prefix) || !strings.HasSuffix(s, suffix) {
				continue
			}
			inner := s[len(prefix) : len(s)-len(suffix)]
			if r, n := utf8.DecodeRuneInString(inner); n == len(inner) && n > 0 {
				m.set(r, id)
			}
		}
		return m
	}
	c.by[0][0] = fill("", "")
	c.by[0][1], c.by[1][0] = c.by[0][0], c.by[0][0]
	if suffix != "" {
		c.by[0][1] = fill("", suffix)
	}
	if prefix != "" {
		c.by[1][0] = fill(prefix, "")
	}
	c.by[1][1] = c.by[1][0]
	if suffix != "" {
		c.by[1][1] = fill(prefix, suffix)
	}
	return c
}

// byteTokens are the tokens <0x00> to <0xFF>.
func byteTokens(ids map[string]int32) *[256]int32 {
	var t [256]int32
	for b := range t {
		id, ok := ids[fmt.Sprintf("<0x%02X>", b)]
		if !ok {
			id = -1
		}
		t[b] = id
	}
	return &t
}

// start pushes the symbols of a piece. An unknown character's token is held back until a known one comes, even past
// characters that have fallen back to bytes: so does Hugging Face.
func (c *charSymbols) start(e *encoder, piece string) {
	held := false
	for i, r := range piece {
		n := utf8.RuneLen(r)
		inside, last := 0, 0
		if i > 0 {
			inside = 1
		}
		if i+n == len(piece) {
			last = 1
		}
		if id := c.by[inside][last].get(r); id >= 0 {
			if held {
				e.push(c.unk)
				held = false
			}
			e.push(id)
			continue
		}
		if c.bytes != nil && c.fallback(e, c.spelled(piece[i:i+n], inside, last)) {
			continue
		}
		if c.unk < 0 {
			continue
		}
		if held && !c.fuse {
			e.push(c.unk)
		}
		held = true
	}
	if held {
		e.push(c.unk)
	}
}

func (c *charSymbols) spelled(char string, inside, last int) string {
	if inside == 1 {
		char = c.prefix + char
	}
	if last == 1 {
		char += c.suffix
	}
	return char
}

// fallback pushes the tokens of the bytes of s, if there are such for all.
func (c *charSymbols) fallback(e *encoder, s string) bool {
	for i := range len(s) {
		if c.bytes[s[i]] < 0 {
			return false
		}
	}
	for i := range len(s) {
		e.push(c.bytes[s[i]])
	}
	return true
}

// finish rewrites out[start:] after merging: unused tokens are taken apart into what they were merged from, and
// characters that found no partner become bytes or unknown.
func (b *bpe) finish(e *encoder, out []int32, start int) []int32 {
	ids := append([]int32(nil), out[start:]...)
	out = out[:start]
	var emit func(id int32)
	emit = func(id int32) {
		c := b.chars
		if half, ok := e.halves[id]; ok && b.unused[id] {
			emit(half[0])
			emit(half[1])
			return
		}
		if c.parts != nil && id >= c.base {
			e.syms = e.syms[:0]
			if c.bytes != nil && c.fallback(e, c.parts[id-c.base]) {
				for _, s := range e.syms {
					out = append(out, s.id)
				}
				return
			}
			id = c.unk
		}
		if id >= 0 && (id != c.unk || len(out) == start || out[len(out)-1] != id) {
			out = append(out, id)
		}
	}
	for _, id := range ids {
		emit(id)
	}
	return out
}

// atWords cuts text before every "▁" that follows another character, so that words can be cached. It is right where no
// token has such a place inside: then no merge crosses it.
type atWords struct{ whole map[string]int32 }

const wordMark = "▁"

func (a atWords) split(_ *encoder, p piece, spans []span) (string, []span) {
	if _, ok := a.whole[p.s]; ok {
		return p.s, append(spans, span{0, len(p.s)})
	}
	from := 0
	for i := 0; i < len(p.s); {
		at := strings.Index(p.s[i:], wordMark)
		if at < 0 {
			break
		}
		if at > 0 && i+at > from {
			spans = append(spans, span{from, i + at})
			from = i + at
		}
		i += at + len(wordMark)
	}
	return p.s, append(spans, span{from, len(p.s)})
}

// cutsAtWords reports whether atWords is right for a vocabulary of BPE merges.
func cutsAtWords(b *bpe, tokens []string) bool {
	c := b.chars
	if c == nil || c.prefix+c.suffix != "" || c.by[0][0].get('▁') < 0 {
		return false
	}
	for _, m := range b.merges {
		if int(m.id) < len(tokens) && markInside(tokens[m.id]) {
			return false
		}
	}
	return true
}

// markInside reports whether "▁" follows another character in s.
func markInside(s string) bool {
	return strings.Contains(strings.TrimLeft(s, wordMark), wordMark)
}
