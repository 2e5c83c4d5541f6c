package tokenizer

import (
	"strings"
	"unicode"
)

// mapChars rewrites text character by character; a negative result deletes the character.
type mapChars func(r rune) rune

func (m mapChars) normalize(p piece) piece {
	for _, r := range p.s {
		p.first = p.first && m(r) >= 0
		break
	}
	return piece{strings.Map(m, p.s), p.first}
}

type lowercase struct{}

func (lowercase) normalize(p piece) piece {
	s := strings.Map(lower, p.s)
	return piece{strings.ReplaceAll(s, "İ", "i\u0307"), p.first}
}

// lower is Rust's char::to_lowercase, but for "İ", which becomes two characters.
func lower(r rune) rune {
	switch {
	case r == 'İ':
		return r
	case r < 0x1C89:
		return unicode.ToLower(r)
	case r == 0x1C89 || r == 0xA7CC || r == 0xA7CE || r == 0xA7D2 || r == 0xA7D4 || r == 0xA7DA:
		return r + 1
	case r == 0xA7CB:
		return 0x264
	case r == 0xA7DC:
		return 0x19B
	case r >= 0x10D50 && r <= 0x10D65:
		return r + 0x20
	case r >= 0x16EA0 && r <= 0x16EB8:
		return r + 0x1B
	}
	return unicode.ToLower(r)
}

// strip takes white space away from the ends.
type strip struct{ left, right bool }

func (x strip) normalize(p piece) piece {
	s := p.s
	if x.left {
		s = strings.TrimLeftFunc(s, unicode.IsSpace)
	}
	first := p.first && len(s) == len(p.s)
	if x.right {
		s = strings.TrimRightFunc(s, unicode.IsSpace)
	}
	return piece{s, first}
}

// prepend puts a text in front.
type prepend string

func (x prepend) normalize(p piece) piece { return piece{string(x) + p.s, p.first} }

// replace puts content in the place of what a pattern finds.
type replace struct {
	pattern pattern
	content string
}

func (x replace) normalize(p piece) piece {
	ms := x.pattern.matches(p.s, nil)
	first := p.first && !(len(ms) > 0 && ms[0].hit && ms[0].from < ms[0].to && x.content == "")
	return piece{x.apply(p.s, ms), first}
}

func (x replace) apply(s string, ms []match) string {
	if len(ms) == 1 && !ms[0].hit {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + len(ms)*len(x.content)/2)
	for _, m := range ms {
		if m.hit {
			b.WriteString(x.content)
		} else {
			b.WriteString(s[m.from:m.to])
		}
	}
	return b.String()
}

// stripAccents takes marks away.
func stripAccents(r rune) rune {
	if r >= 0x300 && unicode.Is(unicode.M, r) && !unicode.Is(unknownMarks, r) {
		return -1
	}
	return r
}

// nmt is the cleaning of SentencePiece's nmt_* rules.
func nmt(r rune) rune {
	switch {
	case r >= 1 && r <= 8, r == 0xB, r >= 0xE && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
		return -1
	case r == '\t', r == '\n', r == '\f', r == '\r', r == 0x1680, r >= 0x200B && r <= 0x200F, r == 0x2028, r == 0x2029,
		r == '▁', r == 0xFEFF, r == 0xFFFD:
		return ' '
	}
	return r
}

// bert is BERT's normalizer.
type bert struct{ clean, chinese, accents, lower bool }

func (x bert) normalize(p piece) piece {
	if x.clean {
		p = mapChars(bertClean).normalize(p)
	}
	if x.chinese {
		p.s = spaceChinese(p.s)
	}
	if x.accents {
		p.s = unicodeForm(1).apply(p.s) // NFD
		p = mapChars(func(r rune) rune {
			if r >= 0x300 && unicode.Is(unicode.Mn, r) && !unicode.Is(bertNotMn, r) {
				return -1
			}
			return r
		}).normalize(p)
	}
	if x.lower {
		p = lowercase{}.normalize(p)
	}
	return p
}

// bertClean drops control characters and makes all white space plain.
func bertClean(r rune) rune {
	switch {
	case r == 0 || r == 0xFFFD:
		return -1
	case r == '\t' || r == '\n' || r == '\r':
		return ' '
	case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co) && !unicode.Is(bertKept, r):
		return -1
	case unicode.IsSpace(r):
		return ' '
	}
	return r
}

// spaceChinese puts spaces around Chinese characters, so that each becomes a word.
func spaceChinese(s string) string {
	if ascii(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if isChinese(r) {
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isChinese has the gap at U+2B820 that BERT's original code has.
func isChinese(r rune) bool {
	return r >= 0x4E00 && r <= 0x9FFF || r >= 0x3400 && r <= 0x4DBF || r >= 0x20000 && r <= 0x2A6DF ||
		r >= 0x2A700 && r <= 0x2B73F || r >= 0x2B740 && r <= 0x2B81F || r >= 0x2B920 && r <= 0x2CEAF ||
		r >= 0xF900 && r <= 0xFAFF || r >= 0x2F800 && r <= 0x2FA1F
}
