package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// stage is one step of turning tokens into text, in the middle of a stream: it takes one token after another and
// passes on what is certain. Behind a stage that makes all tokens one (ByteLevel, Fuse), what comes are the parts of
// that one.
type stage interface {
	push(token string, emit func(string))
	flush(emit func(string))
}

// each is a stage that looks at tokens one by one; n counts them.
type each struct {
	n  int
	do func(n int, token string) string
}

func (x *each) push(token string, emit func(string)) {
	emit(x.do(x.n, token))
	x.n++
}

func (x *each) flush(func(string)) { x.n = 0 }

// eachToken makes stages that look at tokens one by one.
func eachToken(do func(n int, token string) string) func() stage {
	return func() stage { return &each{do: do} }
}

// byteLevel turns GPT-2's spelling of bytes into them, and them into characters.
type byteLevel struct{ held []byte } // start of a character whose end has not come yet

func (x *byteLevel) push(token string, emit func(string)) {
	raw, ok := unsurface(token)
	if !ok {
		raw = token
	}
	text, rest := complete(nil, append(x.held, raw...))
	x.held = append(x.held[:0], rest...)
	if len(text) > 0 {
		emit(string(text))
	}
}

func (x *byteLevel) flush(emit func(string)) {
	if len(x.held) > 0 {
		emit(lossy(x.held))
	}
	x.held = nil
}

// byteFallback turns runs of tokens like <0x0A> into characters. Whether a run is UTF-8 is known at its end only: if it
// is not, each of its bytes is U+FFFD.
type byteFallback struct{ held []byte }

func (x *byteFallback) push(token string, emit func(string)) {
	if len(token) == 6 && strings.HasPrefix(token, "<0x") && token[5] == '>' {
		if b, err := strconv.ParseUint(token[3:5], 16, 8); err == nil {
			x.held = append(x.held, byte(b))
			return
		}
	}
	x.flush(emit)
	emit(token)
}

func (x *byteFallback) flush(emit func(string)) {
	if len(x.held) == 0 {
		return
	}
	if s := string(x.held); utf8.ValidString(s) {
		emit(s)
	} else {
		for range len(s) {
			emit("\uFFFD")
		}
	}
	x.held = x.held[:0]
}

// fuse makes all tokens one.
type fuse struct{}

func (fuse) push(token string, emit func(string)) { emit(token) }
func (fuse) flush(func(string))                   {}

// cut is the Strip decoder for text that comes in parts: it takes away up to start characters at the beginning of all
// and up to stop at the end.
type cut struct {
	content     string // one character
	start, stop int
	left        int  // to take away still
	inside      bool // the beginning is past
	held        int  // characters that may turn out to be the end
}

func (x *cut) push(part string, emit func(string)) {
	for !x.inside && x.left > 0 && strings.HasPrefix(part, x.content) {
		part = part[len(x.content):]
		x.left--
	}
	if part == "" {
		return
	}
	x.inside = true
	if x.stop == 0 {
		emit(part)
		return
	}
	body := strings.TrimRight(part, x.content)
	if body != "" {
		emit(strings.Repeat(x.content, x.held) + body)
		x.held = 0
	}
	x.held += (len(part) - len(body)) / len(x.content)
}

func (x *cut) flush(emit func(string)) {
	if n := x.held - x.stop; n > 0 {
		emit(strings.Repeat(x.content, n))
	}
	x.left, x.inside, x.held = x.start, false, 0
}

// cutToken is the Strip decoder for tokens that are still apart.
func cutToken(content string, start, stop int) func(int, string) string {
	return func(_ int, s string) string {
		for i := 0; i < start && strings.HasPrefix(s, content); i++ {
			s = s[len(content):]
		}
		for i := 0; i < stop && strings.HasSuffix(s, content); i++ {
			s = s[:len(s)-len(content)]
		}
		return s
	}
}

// wordEnds is BPEDecoder: the suffix that ends a word is a space, at the end of the text nothing.
type wordEnds struct {
	suffix string
	held   string // the last token
	any    bool
}

func (x *wordEnds) push(token string, emit func(string)) {
	if x.any {
		emit(strings.ReplaceAll(x.held, x.suffix, " "))
	}
	x.held, x.any = token, true
}

func (x *wordEnds) flush(emit func(string)) {
	if x.any {
		emit(strings.ReplaceAll(x.held, x.suffix, ""))
	}
	x.held, x.any = "", false
}

// spaced puts a space between tokens: what a tokenizer without a decoder does.
func spaced(n int, token string) string {
	if n > 0 {
		return " " + token
	}
	return token
}

// unmark is the Metaspace decoder: marks are spaces, those of the first token nothing if the scheme puts one there.
func unmark(mark, where string) func(int, string) string {
	return func(n int, token string) string {
		if n == 0 && where != "never" {
			return strings.ReplaceAll(token, mark, "")
		}
		return strings.ReplaceAll(token, mark, " ")
	}
}

// joinWords is the WordPiece decoder: words are set apart by spaces, continuations follow without.
func joinWords(prefix string, cleanup bool) func(int, string) string {
	return func(n int, token string) string {
		if n > 0 {
			if rest, ok := strings.CutPrefix(token, prefix); ok {
				token = rest
			} else {
				token = " " + token
			}
		}
		if cleanup {
			for _, c := range cleanups {
				token = strings.ReplaceAll(token, c[0], c[1])
			}
		}
		return token
	}
}

// cleanups are applied in this order, to one token at a time.
var cleanups = [][2]string{
	{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
	{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
}
