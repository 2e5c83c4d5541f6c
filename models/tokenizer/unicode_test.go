package tokenizer

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestClasses(t *testing.T) {
	for class, chars := range map[uint8]string{
		letter: "azAZéßſ東ا\u0928\u1c89\ua7cb\U00010d4a\U0002ebf0",
		number: "09½²٣ⅷ\U0001d7ce\U00010d40\U0001ccf0",
		space:  " \t\n\r\v\f\u0085\u00a0\u1680\u2028\u3000",
		other:  "!'_$\x00\x1c\u200b\u0301\u00ad🙂\ufffd\U00011de0",
	} {
		for i, r := range chars {
			if c, n := classAt(chars, i); c != class || n != utf8.RuneLen(r) {
				t.Errorf("class of %q (%U) = %d, %d bytes; want %d, %d bytes", r, r, c, n, class, utf8.RuneLen(r))
			}
		}
	}
}

func TestByteSpelling(t *testing.T) {
	seen := map[rune]bool{}
	for b, r := range byteRune {
		if seen[r] {
			t.Errorf("%q stands for two bytes", r)
		}
		seen[r] = true
		if back, ok := unsurface(string(r)); !ok || back != string([]byte{byte(b)}) {
			t.Errorf("byte %#x is spelled %q, which reads as %q", b, r, back)
		}
	}
	for b, r := range map[byte]rune{' ': 'Ġ', '\n': 'Ċ', '\t': 'ĉ', 'a': 'a', 0: 'Ā', 0x7f: 'ġ', 0xad: 'Ń', 0xff: 'ÿ'} {
		if byteRune[b] != r {
			t.Errorf("byte %#x is spelled %q, want %q", b, byteRune[b], r)
		}
	}
	for _, s := range []string{" ", "a b", "東", "\u0144", "\U0010ffff"} {
		if raw, ok := unsurface(s); ok {
			t.Errorf("%q reads as %q, want a refusal", s, raw)
		}
	}
}

func TestLossy(t *testing.T) {
	const x = "\uFFFD"
	for in, want := range map[string]string{
		"":                     "",
		"aé東🙂":                 "aé東🙂",
		"\xc3":                 x,
		"\xc3a":                x + "a",
		"\xe2\x82":             x,
		"\xe2\x82a":            x + "a",
		"\xf0\x9f\x99":         x,
		"\xf0\x9f\x99\xf0\x9f": x + x,
		"\xff\xfe":             x + x,
		"\xc0\x80":             x + x,         // overlong
		"\xe0\x80\x80":         x + x + x,     // overlong
		"\xed\xa0\x80":         x + x + x,     // surrogate
		"\xf4\x90\x80\x80":     x + x + x + x, // above U+10FFFF
		"\xf5\x80":             x + x,
		"\x80\xbf":             x + x,
		"\xf4\x8f\xbf\xbf":     "\U0010ffff",
		"\xed\x9f\xbf":         "\ud7ff",
	} {
		if got := lossy([]byte(in)); got != want {
			t.Errorf("lossy(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestUTF8Prefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.Rune().Draw(t, "rune")
		b := []byte(string(r))
		if n, ok, partial := utf8Prefix(append(b, 'x')); n != len(b) || !ok || partial {
			t.Fatalf("%q: %d, %t, %t", b, n, ok, partial)
		}
		for cut := 1; cut < len(b); cut++ {
			if n, ok, partial := utf8Prefix(b[:cut]); n != cut || ok || !partial {
				t.Fatalf("%q cut at %d: %d, %t, %t", b, cut, n, ok, partial)
			}
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "bytes")
		n, ok, partial := utf8Prefix(b)
		if n < 1 || n > len(b) || ok && partial || ok != (utf8.FullRune(b) && isRune(b)) {
			t.Fatalf("%q: %d, %t, %t", b, n, ok, partial)
		}
		// Bytes that are UTF-8 stay; what Go and we replace differs in number only.
		squeeze := func(s string) string {
			for strings.Contains(s, "\uFFFD\uFFFD") {
				s = strings.ReplaceAll(s, "\uFFFD\uFFFD", "\uFFFD")
			}
			return s
		}
		if got, want := squeeze(lossy(b)), squeeze(string(bytes.ToValidUTF8(b, []byte("\uFFFD")))); got != want {
			t.Fatalf("lossy(%q) = %q, want %q", b, got, want)
		}
	})
}

func isRune(b []byte) bool {
	r, n := utf8.DecodeRune(b)
	return r != utf8.RuneError || n > 1
}
