package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A scanner as a pre-tokenizer keeps all of its pieces.
func (scan scanner) split(_ *encoder, p piece, spans []span) (string, []span) {
	for i := 0; i < len(p.s); {
		end := scan(p.s, i)
		spans = append(spans, span{i, end})
		i = end
	}
	return p.s, spans
}

// splitter splits by a pattern.
type splitter struct {
	pattern  pattern
	behavior behavior
}

func (x splitter) split(e *encoder, p piece, spans []span) (string, []span) {
	e.matches = x.pattern.matches(p.s, e.matches[:0])
	return p.s, x.behavior.spans(e.matches, spans)
}

// words are the pieces of the Whitespace pre-tokenizer: runs of word characters and runs of what is neither that nor
// white space.
type words struct{}

func (words) split(_ *encoder, p piece, spans []span) (string, []span) {
	kind := func(r rune) int {
		switch {
		case isWord(r):
			return 1
		case unicode.IsSpace(r):
			return 2
		}
		return 3
	}
	from, before := 0, 2
	for i, r := range p.s {
		k := kind(r)
		if k == before {
			continue
		}
		if before != 2 {
			spans = append(spans, span{from, i})
		}
		from, before = i, k
	}
	if before != 2 {
		spans = append(spans, span{from, len(p.s)})
	}
	return p.s, spans
}

// spacePrefix puts a space in front of text that starts with none (ByteLevel's add_prefix_space).
type spacePrefix struct{}

func (spacePrefix) split(_ *encoder, p piece, spans []span) (string, []span) {
	s := p.s
	if !strings.HasPrefix(s, " ") {
		s = " " + s
	}
	return s, append(spans, span{0, len(s)})
}

// byteSpelling spells every byte as GPT-2's vocabularies do.
type byteSpelling struct{}

func (byteSpelling) split(_ *encoder, p piece, spans []span) (string, []span) {
	s := surface(p.s)
	return s, append(spans, span{0, len(s)})
}

func (byteSpelling) normalize(p piece) piece { return piece{surface(p.s), p.first} }

func surface(s string) string {
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = utf8.AppendRune(b, byteRune[s[i]])
	}
	return string(b)
}

// metaspace writes spaces as a visible character and, by its scheme, one in front.
type metaspace struct {
	mark  rune
	where string // always, first, never
	cut   bool   // split before every mark
}

func (m metaspace) split(_ *encoder, p piece, spans []span) (string, []span) {
	mark := string(m.mark)
	s := strings.ReplaceAll(p.s, " ", mark)
	if (m.where == "always" || m.where == "first" && p.first) && !strings.HasPrefix(s, mark) {
		s = mark + s
	}
	if !m.cut {
		return s, append(spans, span{0, len(s)})
	}
	for from := 0; from < len(s); {
		n := len(mark)
		if !strings.HasPrefix(s[from:], mark) {
			n = 0
		}
		at := strings.Index(s[from+n:], mark)
		if at < 0 {
			at = len(s) - from - n
		}
		spans = append(spans, span{from, from + n + at})
		from += n + at
	}
	return s, spans
}

// isWord is \w of Rust's regex library (Unicode TR18 annex C).
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || asciiClass[r] == letter || asciiClass[r] == number
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control) ||
		unicode.In(r, newLetters, newNumbers, newIn["Mn"], newIn["Mc"])
}

// isPunctuation is what BERT and the Punctuation pre-tokenizer take for it.
func isPunctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return r > ' ' && r != 0x7F && asciiClass[r] == other
	}
	return unicode.IsPunct(r) && !unicode.Is(notPunctuation, r) || unicode.Is(oldPunctuation, r)
}
