package tokenizer

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// unicodeForm brings text to a Unicode normalization form as Hugging Face does: by older tables than x/text's, and
// without x/text's limit of 30 marks on a character.
type unicodeForm norm.Form

func (f unicodeForm) normalize(p piece) piece { return piece{f.apply(p.s), p.first} }

func (f unicodeForm) apply(s string) string {
	form := norm.Form(f)
	if ascii(s) {
		return s
	}
	odd := strings.ContainsFunc(s, func(r rune) bool {
		return r >= 0x7FD && (unicode.Is(unknownMarks, r) || unicode.Is(undecomposed, r))
	})
	if !odd {
		out := form.String(s)
		const joiner = "\u034F" // what x/text puts in after 30 marks
		if strings.Count(out, joiner) == strings.Count(s, joiner) {
			return out
		}
	}
	return f.slow(s)
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// slow is the definition (Unicode annex 15): decompose, order the marks, compose.
func (f unicodeForm) slow(s string) string {
	form := norm.Form(f)
	decompose, compose := norm.NFD, form == norm.NFC || form == norm.NFKC
	if form == norm.NFKC || form == norm.NFKD {
		decompose = norm.NFKD
	}
	var out []classed
	add := func(r rune) {
		c := uint8(0)
		if r >= 0x300 && !unicode.Is(unknownMarks, r) {
			c = norm.NFD.PropertiesString(string(r)).CCC()
		}
		out = append(out, classed{r, c})
	}
	for _, r := range s {
		if unicode.Is(unknownMarks, r) || unicode.Is(undecomposed, r) {
			add(r)
			continue
		}
		for _, d := range decompose.String(string(r)) {
			add(d)
		}
	}
	for i := 0; i < len(out); i++ {
		from := i
		for i < len(out) && out[i].class > 0 {
			i++
		}
		slices.SortStableFunc(out[from:i], func(a, b classed) int { return int(a.class) - int(b.class) })
	}
	if compose {
		out = composed(out)
	}
	var b strings.Builder
	for _, c := range out {
		b.WriteRune(c.r)
	}
	return b.String()
}

// classed is a character with its combining class.
type classed struct {
	r     rune
	class uint8
}

// composed puts characters and their marks together where Unicode has one for both.
func composed(in []classed) []classed {
	out := in[:0]
	starter := -1 // in out
	for _, c := range in {
		// Between a starter and its mark may stand only marks of lower classes.
		if starter >= 0 && (starter == len(out)-1 || out[len(out)-1].class < c.class) {
			pair := []rune(norm.NFC.String(string([]rune{out[starter].r, c.r})))
			if len(pair) == 1 && !unicode.Is(unknownMarks, pair[0]) {
				out[starter].r = pair[0]
				continue
			}
		}
		if c.class == 0 {
			starter = len(out)
		}
		out = append(out, c)
	}
	return out
}
