package tokenizer

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// charsMap is SentencePiece's precompiled normalization rules: a double-array trie (darts-clone) from texts to offsets
// of their replacements, which end in a zero byte.
type charsMap struct {
	units []uint32
	text  string
}

// newCharsMap reads <size of the trie in bytes: uint32><trie><replacements>, little-endian.
func newCharsMap(blob []byte) (*charsMap, error) {
	if len(blob) < 4 {
		return nil, errors.New("precompiled_charsmap is too short")
	}
	n := binary.LittleEndian.Uint32(blob)
	if n == 0 || n%4 != 0 || uint64(n) > uint64(len(blob)-4) {
		return nil, errors.New("precompiled_charsmap is broken: the size of its trie is wrong")
	}
	c := &charsMap{units: make([]uint32, n/4), text: string(blob[4+n:])}
	for i := range c.units {
		c.units[i] = binary.LittleEndian.Uint32(blob[4+4*i:])
	}
	return c, nil
}

// find calls each with the length and the replacement of every key that starts s, shortest first, until it returns
// false.
func (c *charsMap) find(s string, each func(n int, to string) bool) {
	offset := func(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
	at := offset(c.units[0])
	for i := range len(s) {
		if s[i] == 0 {
			return
		}
		at ^= uint32(s[i])
		if at >= uint32(len(c.units)) || c.units[at]&(1<<31|0xFF) != uint32(s[i]) {
			return
		}
		unit := c.units[at]
		at ^= offset(unit)
		if unit>>8&1 == 0 {
			continue
		}
		if at >= uint32(len(c.units)) {
			return
		}
		value := c.units[at] & (1<<31 - 1)
		if value >= uint32(len(c.text)) {
			return
		}
		to, _, _ := strings.Cut(c.text[value:], "\x00")
		if !utf8.ValidString(to) || !each(i+1, to) {
			return
		}
	}
}

// shortest gives the replacement of the shortest key that starts s.
func (c *charsMap) shortest(s string) (to string, ok bool) {
	c.find(s, func(_ int, found string) bool {
		to, ok = found, true
		return false
	})
	return to, ok
}

// longest gives the replacement of the longest key that starts s, and its length, 0 if there is none.
func (c *charsMap) longest(s string) (to string, n int) {
	c.find(s, func(length int, found string) bool {
		to, n = found, length
		return true
	})
	return to, n
}

// normalize is Hugging Face's Precompiled: of a grapheme cluster under 6 bytes, the shortest key that starts it
// replaces all of it; else the same goes for its characters one by one.
func (c *charsMap) normalize(p piece) piece {
	var b strings.Builder
	b.Grow(len(p.s))
	state := -1
	for rest := p.s; rest != ""; {
		var g string
		if len(rest) == 1 || rest[0] >= ' ' && rest[0] < 0x7F && rest[1] < utf8.RuneSelf { // the usual case, fast
			g, rest, state = rest[:1], rest[1:], -1
		} else {
			g, rest, _, state = uniseg.FirstGraphemeClusterInString(rest, state)
			if n := newExtension(g, rest); n > 0 {
				g, rest, state = p.s[len(p.s)-len(rest)-len(g):][:len(g)+n], rest[n:], -1
			}
		}
		if len(g) < 6 {
			if to, ok := c.shortest(g); ok {
				b.WriteString(to)
				continue
			}
		}
		for _, r := range g {
			char := string(r)
			if to, ok := c.shortest(char); ok {
				char = to
			}
			b.WriteString(char)
		}
	}
	return piece{b.String(), p.first}
}

// newExtension is how far a cluster goes on in rest by characters newer than uniseg's tables.
func newExtension(cluster, rest string) int {
	if r, n := utf8.DecodeRuneInString(rest); r < 0x897 || n == 0 || !unicode.Is(newExtends, r) {
		return 0
	}
	if last := cluster[len(cluster)-1]; last < ' ' || last == 0x7F { // nothing joins a control character
		return 0
	}
	for i, r := range rest {
		if !unicode.Is(newExtends, r) && !unicode.Is(unicode.M, r) {
			return i
		}
	}
	return len(rest)
}
