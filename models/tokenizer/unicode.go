package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// Character classes the published splitting rules tell apart.
const (
	other uint8 = iota
	letter
	number
	space
)

// Letters and numbers that Unicode gained after Go's tables (15.0) and that
// Hugging Face tokenizers already knows (16.0 for its regular expressions, 17.0
// for its Digits rule); found by asking it for the class of every code point.
var (
	newLetters = &unicode.RangeTable{
		R16: []unicode.Range16{{0x1C89, 0x1C8A, 1}, {0xA7CB, 0xA7CD, 1}, {0xA7DA, 0xA7DC, 1}},
		R32: []unicode.Range32{
			{0x105C0, 0x105F3, 1}, {0x10D4A, 0x10D65, 1}, {0x10D6F, 0x10D85, 1}, {0x10EC2, 0x10EC4, 1},
			{0x11380, 0x11389, 1}, {0x1138B, 0x1138E, 3}, {0x11390, 0x113B5, 1}, {0x113B7, 0x113B7, 1},
			{0x113D1, 0x113D3, 2}, {0x11BC0, 0x11BE0, 1}, {0x13460, 0x143FA, 1}, {0x16100, 0x1611D, 1},
			{0x16D40, 0x16D6C, 1}, {0x18CFF, 0x18CFF, 1}, {0x1E5D0, 0x1E5ED, 1}, {0x1E5F0, 0x1E5F0, 1},
			{0x2EBF0, 0x2EE5D, 1},
		},
	}
	newNumbers = &unicode.RangeTable{R32: []unicode.Range32{
		{0x10D40, 0x10D49, 1}, {0x116D0, 0x116E3, 1}, {0x11BF0, 0x11BF9, 1}, {0x16130, 0x16139, 1},
		{0x16D70, 0x16D79, 1}, {0x1CCF0, 0x1CCF9, 1}, {0x1E5F1, 0x1E5FA, 1},
	}}
	newDigits = &unicode.RangeTable{R32: []unicode.Range32{{0x11DE0, 0x11DE9, 1}, {0x16FF4, 0x16FF6, 1}}}
)

var asciiClass = func() (t [utf8.RuneSelf]uint8) {
	for r := range t {
		t[r] = slowClass(rune(r))
	}
	return t
}()

func slowClass(r rune) uint8 {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	case r >= 0x1C89 && unicode.Is(newLetters, r):
		return letter
	case r >= 0x10D40 && unicode.Is(newNumbers, r):
		return number
	}
	return other
}

// classAt gives the class of the character at s[i] and its length in bytes.
func classAt(s string, i int) (uint8, int) {
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return slowClass(r), n
}

// byteRune and runeByte are GPT-2's reversible map from bytes to printable
// characters: printable Latin-1 stands for itself, every other byte for the next
// character from U+0100 on ("Ġ" is the space).
var (
	byteRune [256]rune
	runeByte [0x144]int16 // -1: stands for no byte
)

func init() {
	for i := range runeByte {
		runeByte[i] = -1
	}
	next := rune(0x100)
	for b := range byteRune {
		r := rune(b)
		if printable := b >= '!' && b <= '~' || b >= 0xA1 && b != 0xAD; !printable {
			r, next = next, next+1
		}
		byteRune[b], runeByte[r] = r, int16(b)
	}
}

// unsurface gives the bytes a vocabulary spells as s; false if some character stands for no byte.
func unsurface(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if int(r) >= len(runeByte) || runeByte[r] < 0 {
			return "", false
		}
		b = append(b, byte(runeByte[r]))
	}
	return string(b), true
}

// utf8Prefix looks at the UTF-8 sequence b starts with, as Unicode table 3-7 has
// it: n bytes that are one character (ok), or n bytes that together earn one
// U+FFFD; partial says that b ended before the character could be complete.
func utf8Prefix(b []byte) (n int, ok, partial bool) {
	lo, hi, want := byte(0x80), byte(0xBF), 0
	switch c := b[0]; {
	case c < 0x80:
		return 1, true, false
	case c < 0xC2 || c > 0xF4:
		return 1, false, false
	case c < 0xE0:
		want = 2
	case c < 0xF0:
		want = 3
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	default:
		want = 4
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	}
	for n = 1; n < want; n++ {
		if n == len(b) {
			return n, false, true
		}
		if b[n] < lo || b[n] > hi {
			return n, false, false
		}
		lo, hi = 0x80, 0xBF
	}
	return want, true, false
}

// complete appends the characters of b to out, U+FFFD for what is not UTF-8, and
// returns what is left: the start of a character whose end has not come yet.
func complete(out, b []byte) (text, rest []byte) {
	for len(b) > 0 {
		n, ok, partial := utf8Prefix(b)
		switch {
		case partial:
			return out, b
		case ok:
			out = append(out, b[:n]...)
		default:
			out = append(out, "\uFFFD"...)
		}
		b = b[n:]
	}
	return out, nil
}

// lossy makes bytes valid UTF-8 in the way Hugging Face's decoder does.
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	out, rest := complete(make([]byte, 0, len(b)+8), b)
	if len(rest) > 0 {
		out = append(out, "\uFFFD"...)
	}
	return string(out)
}
