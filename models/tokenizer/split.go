package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A scanner returns where the piece that starts at s[i] ends. Merging never
// crosses the border of a piece. The scanners are written by hand because the
// published expressions look ahead ("\s+(?!\S)"), which Go's regexp cannot; the
// tests hold them against the expressions.
type scanner func(s string, i int) int

// The published splitting expressions, as they stand in tokenizer.json files.
const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// regexes are the expressions by the names of the scanners that stand for them.
var regexes = map[string]string{"gpt2": gpt2Pattern, "llama3": llama3Pattern, "qwen2": qwen2Pattern}

var scanners = map[string]scanner{
	"gpt2":       scanGPT2,
	"llama3":     scanLlama3,
	"qwen2":      scanQwen2,
	"digits":     scanDigits,
	"digit-runs": scanDigitRuns,
}

// scanGPT2 splits by gpt2Pattern.
func scanGPT2(s string, i int) int {
	if s[i] == '\'' {
		if n := contraction(s[i+1:], false); n > 0 {
			return i + 1 + n
		}
	}
	j := i
	c, n := classAt(s, i)
	if s[i] == ' ' && i+1 < len(s) {
		if next, m := classAt(s, i+1); next != space {
			j, c, n = i+1, next, m
		}
	}
	if c == space {
		return spaces(s, i)
	}
	return run(s, j+n, c, len(s))
}

func scanLlama3(s string, i int) int { return scanTiktoken(s, i, 3) }

func scanQwen2(s string, i int) int { return scanTiktoken(s, i, 1) }

// scanTiktoken splits by llama3Pattern (digits = 3) or qwen2Pattern (digits = 1).
func scanTiktoken(s string, i, digits int) int {
	if s[i] == '\'' {
		if n := contraction(s[i+1:], true); n > 0 {
			return i + 1 + n
		}
	}
	c, n := classAt(s, i)
	switch {
	case c == letter:
		return run(s, i+n, letter, len(s))
	case c == number:
		return run(s, i+n, number, digits-1)
	case s[i] != '\r' && s[i] != '\n' && i+n < len(s):
		if next, m := classAt(s, i+n); next == letter {
			return run(s, i+n+m, letter, len(s))
		} else if s[i] == ' ' && next == other {
			c, n = other, 1+m
		}
	}
	if c == other {
		i = run(s, i+n, other, len(s))
		for i < len(s) && (s[i] == '\r' || s[i] == '\n') {
			i++
		}
		return i
	}
	end := run(s, i, space, len(s))
	if nl := strings.LastIndexAny(s[i:end], "\r\n"); nl >= 0 {
		return i + nl + 1
	}
	return spaces(s, i)
}

// scanDigits makes every digit a piece of its own.
func scanDigits(s string, i int) int {
	isDigit, n := digitAt(s, i)
	for i += n; !isDigit && i < len(s); i += n {
		var next bool
		if next, n = digitAt(s, i); next {
			break
		}
	}
	return i
}

// scanDigitRuns separates runs of digits from the rest.
func scanDigitRuns(s string, i int) int {
	isDigit, n := digitAt(s, i)
	for i += n; i < len(s); i += n {
		var next bool
		if next, n = digitAt(s, i); next != isDigit {
			break
		}
	}
	return i
}

func digitAt(s string, i int) (bool, int) {
	c, n := classAt(s, i)
	if c == other && n > 2 {
		r, _ := utf8.DecodeRuneInString(s[i:])
		return unicode.Is(newDigits, r), n
	}
	return c == number, n
}

// run returns where the characters of class c from s[i] on end, taking most at most.
func run(s string, i int, c uint8, most int) int {
	for ; i < len(s) && most > 0; most-- {
		next, n := classAt(s, i)
		if next != c {
			break
		}
		i += n
	}
	return i
}

// spaces is \s+(?!\S)|\s+: the run of spaces, but its last character stays behind
// for the word that follows, if there is one and if it is not the only one.
func spaces(s string, i int) int {
	end := run(s, i, space, len(s))
	if end == len(s) {
		return end
	}
	_, last := utf8.DecodeLastRuneInString(s[i:end])
	if end-last > i {
		return end - last
	}
	return end
}

// contraction returns the length of the English ending at the start of s, which
// follows an apostrophe. Folding case, "ſ" (U+017F) is an s.
func contraction(s string, fold bool) int {
	if s == "" {
		return 0
	}
	lower := func(c byte) byte {
		if fold && c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}
	a := lower(s[0])
	switch a {
	case 's', 't', 'm', 'd':
		return 1
	case 'r', 'v', 'l':
		want := byte('e')
		if a == 'l' {
			want = 'l'
		}
		if len(s) > 1 && lower(s[1]) == want {
			return 2
		}
	}
	if fold && strings.HasPrefix(s, "ſ") {
		return len("ſ")
	}
	return 0
}
