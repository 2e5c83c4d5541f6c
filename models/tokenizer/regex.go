package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// regex is an expression that no scanner stands for. tokenizer.json means Oniguruma's dialect with Unicode 16; it is
// run by regexp2, a backtracking engine with .NET's dialect and Go's tables, after a translation that refuses what
// differs in ways it cannot mend.
type regex struct{ re *regexp2.Regexp }

func (x regex) matches(s string, out []match) []match {
	runes := []rune(s)
	at, byteAt, prev := 0, 0, 0 // in runes, in bytes, end of the last match in bytes
	lastEnd := -1
	offset := func(r int) int { // in bytes; asked for in ascending order
		for ; at < r; at++ {
			byteAt += utf8.RuneLen(runes[at])
		}
		return byteAt
	}
	for from := 0; from <= len(runes); {
		m, err := x.re.FindRunesMatchStartingAt(runes, from)
		if err != nil || m == nil { // no time limit is set, so that there are no errors
			break
		}
		end := m.Index + m.Length
		if m.Length == 0 && end == lastEnd { // as Oniguruma's iterator: no empty match right behind another
			from++
			continue
		}
		from, lastEnd = end, end
		lo := offset(m.Index)
		hi := offset(end)
		if prev < lo {
			out = append(out, match{span{prev, lo}, false})
		}
		out = append(out, match{span{lo, hi}, true})
		prev = hi
	}
	if prev < len(s) {
		out = append(out, match{span{prev, len(s)}, false})
	}
	return out
}

func compileRegex(expression string) (pattern, error) {
	t := translator{in: expression, mark: -1}
	if err := t.run(); err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", clip(expression), err)
	}
	re, err := regexp2.Compile(t.out.String(), regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %.80q", clip(expression), err.Error())
	}
	return regex{re}, nil
}

// clip shortens what a file holds for a message.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// translator rewrites Oniguruma's Ruby syntax for .NET's.
type translator struct {
	in     string
	i      int
	out    strings.Builder
	mark   int     // where in out the last atom starts, -1: nothing to repeat
	loops  bool    // whether that atom holds a repetition without limit
	groups []group // open ones
}

type group struct {
	mark  int
	fold  bool
	loops bool
}

// fold reports whether letters match either case here.
func (t *translator) fold() bool { return len(t.groups) > 0 && t.groups[len(t.groups)-1].fold }

func (t *translator) refuse(what string) error { return fmt.Errorf("%s is not supported", what) }

func (t *translator) atom(s string) {
	t.mark, t.loops = t.out.Len(), false
	t.out.WriteString(s)
}

func (t *translator) run() error {
	if !utf8.ValidString(t.in) {
		return t.refuse("what is not UTF-8")
	}
	for t.i < len(t.in) {
		if err := t.step(); err != nil {
			return err
		}
	}
	if len(t.groups) > 0 {
		return fmt.Errorf("a group is not closed")
	}
	return nil
}

func (t *translator) step() error {
	r, n := utf8.DecodeRuneInString(t.in[t.i:])
	c := t.in[t.i : t.i+n]
	switch r {
	case '(':
		return t.open()
	case ')':
		if len(t.groups) == 0 {
			return fmt.Errorf("a group is not opened")
		}
		g := t.groups[len(t.groups)-1]
		t.groups = t.groups[:len(t.groups)-1]
		t.out.WriteByte(')')
		t.mark = g.mark
		t.loops = g.loops
		if g.loops && len(t.groups) > 0 {
			t.groups[len(t.groups)-1].loops = true
		}
	case '|':
		t.out.WriteByte('|')
		t.mark = -1
	case '*', '+', '?', '{':
		return t.repeat()
	case '[':
		if t.fold() {
			return t.refuse("a class within (?i:…)")
		}
		return t.class()
	case ']', '}':
		return t.refuse("a bare " + c)
	case '\\':
		if t.fold() {
			return t.refuse(`\ within (?i:…)`)
		}
		return t.escape()
	case '^': // of a line; in Oniguruma not at the end of the text
		t.out.WriteString(`(?:\A|(?<=\n)(?!\z))`)
		t.mark = -1
	case '$':
		t.out.WriteString(`(?=\n|\z)`)
		t.mark = -1
	default:
		if t.fold() {
			return t.letter(r, n)
		}
		t.atom(c)
	}
	t.i += n
	return nil
}

// letter writes one character in either case.
func (t *translator) letter(r rune, n int) error {
	if r >= utf8.RuneSelf || r == '.' {
		return t.refuse(fmt.Sprintf("%q within (?i:…)", r))
	}
	lower := unicode.ToLower(r)
	if rest := strings.ToLower(t.in[t.i+n:]); rest != "" {
		switch pair := string(lower) + rest[:1]; pair { // "ß" and ligatures are two letters folded
		case "ss", "ff", "fi", "fl", "st":
			return t.refuse(fmt.Sprintf("%q within (?i:…)", pair))
		}
	}
	set := string(r)
	if unicode.IsLetter(r) {
		set = string(lower) + string(unicode.ToUpper(r))
		switch lower {
		case 's':
			set += "ſ"
		case 'k':
			set += "\u212a"
		}
		set = "[" + set + "]"
	}
	t.atom(set)
	t.i += n
	return nil
}

func (t *translator) open() error {
	g := group{mark: t.out.Len(), fold: t.fold()}
	for _, opening := range []string{"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"} {
		if strings.HasPrefix(t.in[t.i:], opening) {
			t.i += len(opening)
			if opening == "(?i:" {
				opening, g.fold = "(?:", true
			}
			t.out.WriteString(opening)
			t.groups, t.mark = append(t.groups, g), -1
			return nil
		}
	}
	if strings.HasPrefix(t.in[t.i:], "(?") {
		return t.refuse("a group that starts " + clip(t.in[t.i:min(len(t.in), t.i+4)]))
	}
	t.i++
	t.out.WriteString("(?:") // nothing refers to it
	t.groups, t.mark = append(t.groups, g), -1
	return nil
}

// repeat writes a quantifier. Possessive ones become atomic groups.
func (t *translator) repeat() error {
	q := t.in[t.i : t.i+1]
	if q == "{" {
		end := strings.IndexByte(t.in[t.i:], '}')
		var lo, hi int
		if end >= 0 {
			q = t.in[t.i : t.i+end+1]
		}
		n1, _ := fmt.Sscanf(q, "{%d}", &lo)
		n2, _ := fmt.Sscanf(q, "{%d,%d}", &lo, &hi)
		known := q == fmt.Sprintf("{%d}", lo) && n1 == 1 || q == fmt.Sprintf("{%d,%d}", lo, hi) && n2 == 2 || q == fmt.Sprintf("{%d,}", lo)
		if !known || lo < 0 || max(lo, hi) > 1000 || hi > 0 && hi < lo {
			return t.refuse("repetition " + clip(q))
		}
	}
	if t.mark < 0 {
		return t.refuse("repetition of nothing")
	}
	t.i += len(q)
	next := byte(0)
	if t.i < len(t.in) {
		next = t.in[t.i]
	}
	endless := q == "*" || q == "+" || strings.HasSuffix(q, ",}")
	if t.loops && q != "?" {
		return t.refuse("a repetition of repetitions") // it may take exponential time
	}
	switch {
	case strings.IndexByte("*+?", next) >= 0 && next != 0 && q[0] == '{':
		return t.refuse("repetition " + q + string(next)) // Ruby's reading of it is another
	case next == '?':
		q += "?"
		t.i++
	case next == '+':
		t.i++
		atom := t.out.String()[t.mark:]
		head := t.out.String()[:t.mark]
		t.out.Reset()
		t.out.WriteString(head + "(?>" + atom)
		q += ")"
	case next == '*' || next == '{':
		return t.refuse("a repetition of repetitions")
	}
	t.out.WriteString(q)
	if endless && len(t.groups) > 0 {
		t.groups[len(t.groups)-1].loops = true
	}
	t.mark = -1
	return nil
}

// class translates a bracket expression. Sets within it are joined to it.
func (t *translator) class() error {
	t.atom("[")
	t.i++
	if strings.HasPrefix(t.in[t.i:], "^") {
		t.out.WriteByte('^')
		t.i++
	}
	for depth, empty := 1, true; ; empty = false {
		if t.i >= len(t.in) {
			return fmt.Errorf("a class is not closed")
		}
		r, n := utf8.DecodeRuneInString(t.in[t.i:])
		switch {
		case strings.HasPrefix(t.in[t.i:], "&&"):
			return t.refuse("&& in a class")
		case strings.HasPrefix(t.in[t.i:], "[^"), strings.HasPrefix(t.in[t.i:], "[:"):
			return t.refuse(t.in[t.i:t.i+2] + " in a class")
		case r == '[':
			depth++
		case r == ']' && empty:
			return t.refuse("an empty class")
		case r == ']':
			if depth--; depth == 0 {
				t.out.WriteByte(']')
				t.i++
				return nil
			}
		case r == '\\':
			s, err := t.set()
			if err != nil {
				return err
			}
			t.out.WriteString(s)
			continue
		case r == '-' && strings.HasPrefix(t.in[t.i:], "-["):
			return t.refuse("-[ in a class")
		default:
			t.out.WriteRune(r)
		}
		t.i += n
	}
}

// escape translates an escape outside of a class.
func (t *translator) escape() error {
	if strings.HasPrefix(t.in[t.i:], `\A`) || strings.HasPrefix(t.in[t.i:], `\z`) {
		t.out.WriteString(t.in[t.i : t.i+2])
		t.mark = -1
		t.i += 2
		return nil
	}
	from := t.i
	negated := strings.HasPrefix(t.in[from:], `\P`) || strings.HasPrefix(t.in[from:], `\D`)
	if negated { // what is new in a category must leave its complement
		t.in = t.in[:from+1] + strings.ToLower(t.in[from+1:from+2]) + t.in[from+2:]
	}
	s, err := t.set()
	if err != nil {
		return err
	}
	switch {
	case negated:
		s = "[^" + s + "]"
	case utf8.RuneCountInString(s) > 2:
		s = "[" + s + "]"
	}
	t.atom(s)
	return nil
}

// set translates the escape at t.i to what stands for it within a class.
func (t *translator) set() (string, error) {
	if t.i+1 >= len(t.in) {
		return "", fmt.Errorf(`it ends in \`)
	}
	r, n := utf8.DecodeRuneInString(t.in[t.i+1:])
	switch {
	case strings.ContainsRune("sSrntfv", r):
		t.i += 2
		return `\` + string(r), nil
	case r == 'd':
		t.i += 2
		return `\p{Nd}` + newRanges("Nd"), nil
	case r == 'p':
		rest := t.in[t.i+2:]
		end := strings.IndexByte(rest, '}')
		if !strings.HasPrefix(rest, "{") || end < 0 || strings.HasPrefix(rest, "{^") {
			return "", t.refuse(`\p` + clip(rest[:min(len(rest), 8)]))
		}
		name := rest[1:end]
		t.i += 3 + end
		if name == "Han" {
			return `\p{Han}` + "\U0002EBF0-\U0002EE5D", nil
		}
		// Mn and Mc have exchanged a character, C gives up what the others gain.
		if _, ok := unicode.Categories[name]; !ok || name == "Mn" || name == "Mc" || name[0] == 'C' {
			return "", t.refuse(`\p{` + clip(name) + "}")
		}
		return `\p{` + name + "}" + newRanges(name), nil
	case r < utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r) && r > ' ':
		t.i += 1 + n
		return `\` + string(r), nil
	}
	return "", t.refuse(`\` + string(r))
}

// newRanges are the code points a category (or its one-letter family) gained since Go's tables.
func newRanges(name string) string {
	var b strings.Builder
	for category, table := range newIn {
		if !strings.HasPrefix(category, name) {
			continue
		}
		for _, r := range table.R16 {
			fmt.Fprintf(&b, "%c-%c", r.Lo, r.Hi)
		}
		for _, r := range table.R32 {
			fmt.Fprintf(&b, "%c-%c", r.Lo, r.Hi)
		}
	}
	return b.String()
}
