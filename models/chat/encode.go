package chat

import (
	"slices"
	"strings"
	"unicode/utf8"

	"gobpo/models/tokenizer"
)

// Encode renders a conversation by a chat template and gives its ids. The template's special tokens become their ids;
// those that a message spells out ("<|im_end|>" typed by a user) are ordinary text. Of messages that spell out none,
// the ids are those of transformers' apply_chat_template.
//
// Not told apart are special tokens that a tokenizer matches in normalized text only, see Tokenizer.LiteralKnown.
func Encode(t *tokenizer.Tokenizer, template string, msgs []Message, addGenerationPrompt bool) ([]int32, error) {
	bos := ""
	if id, ok := t.BOS(); ok {
		bos = t.Spelling(id)
	}
	text, literal, err := RenderLiteral(template, msgs, addGenerationPrompt, bos, t.Spelling(t.EOS()), t.Controls())
	if err != nil {
		return nil, err
	}
	return t.EncodeLiteral(text, literal), nil
}

// RenderLiteral is Render for text in which special tokens will be looked for. literal are the offsets of bytes that
// messages wrote and that, taken for part of one, would let a message speak for the template: a special token that
// takes in one of them is none (Tokenizer.EncodeLiteral).
//
// Where a message spells out a special token, the first character of it is rendered as a private one, which a template
// has no rule for, and found again in the text: this holds through trimming, splitting and joining. A template that
// treats such messages in a way of its own (by looking for the special token) does not see the token.
func RenderLiteral(template string, msgs []Message, addGenerationPrompt bool, bos, eos string, specials []string) (text string, literal []int, err error) {
	clean := make([]Message, len(msgs))
	for i, m := range msgs {
		clean[i] = Message{valid(m.Role), valid(m.Content)}
	}
	if text, err = Render(template, clean, addGenerationPrompt, bos, eos); err != nil {
		return "", nil, err
	}
	d := disguise{real: map[rune]rune{}, private: map[rune]rune{}, taken: text + template}
	for _, m := range clean {
		d.taken += m.Role + m.Content
	}
	masked, whole := make([]Message, len(clean)), false
	for i, m := range clean {
		inRole, _ := spelled(m.Role, specials, false) // "<|" + role + "|>" is the template's business
		inContent, found := spelled(m.Content, specials, true)
		masked[i] = Message{d.mask(m.Role, inRole), d.mask(m.Content, inContent)}
		whole = whole || found || len(inRole) > 0
	}
	if len(d.private) == 0 {
		return text, nil, nil
	}
	hidden, err := Render(template, masked, addGenerationPrompt, bos, eos)
	if err != nil && whole {
		return "", nil, err
	}
	shown, literal := d.unmask(hidden)
	if err != nil || shown != text && !whole {
		return text, nil, nil // the template minds single characters; there is no special token to guard against
	}
	return shown, literal, nil
}

func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// spelled finds where in a message special tokens start, and with ends also where it could begin or end one together
// with what the template puts around it, white space trimmed or not. whole says that one is there from start to end.
func spelled(s string, specials []string, ends bool) (at []int, whole bool) {
	trimmed := strings.TrimLeftFunc(s, isSpace)
	left := len(s) - len(trimmed)
	trimmed = strings.TrimRightFunc(trimmed, isSpace)
	for _, special := range specials {
		if special == "" {
			continue
		}
		for from := 0; from < len(s); {
			i := strings.Index(s[from:], special)
			if i < 0 {
				break
			}
			at, whole = append(at, from+i), true
			_, n := utf8.DecodeRuneInString(s[from+i:])
			from += i + n
		}
		for k := 1; ends && k < len(special); k++ {
			if !utf8.RuneStart(special[k]) {
				continue
			}
			head, tail := special[:k], special[k:]
			if strings.HasSuffix(s, head) {
				at = append(at, len(s)-len(head))
			}
			if strings.HasSuffix(trimmed, head) {
				at = append(at, left+len(trimmed)-len(head))
			}
			if strings.HasPrefix(s, tail) {
				at = append(at, 0)
			}
			if strings.HasPrefix(trimmed, tail) {
				at = append(at, left)
			}
		}
	}
	slices.Sort(at)
	return slices.Compact(at), whole
}

// disguise stands private characters in for others.
type disguise struct {
	real, private map[rune]rune
	taken         string // characters in here are not private
	last          rune
}

// mask replaces the characters of s at the given offsets.
func (d *disguise) mask(s string, at []int) string {
	if len(at) == 0 {
		return s
	}
	var b strings.Builder
	from := 0
	for _, i := range at {
		r, n := utf8.DecodeRuneInString(s[i:])
		b.WriteString(s[from:i])
		b.WriteRune(d.standIn(r))
		from = i + n
	}
	b.WriteString(s[from:])
	return b.String()
}

func (d *disguise) standIn(r rune) rune {
	if p, ok := d.private[r]; ok {
		return p
	}
	const first = 0x100000 // the second supplementary private use area
	d.last = max(d.last+1, first)
	for strings.ContainsRune(d.taken, d.last) {
		d.last++
	}
	d.private[r], d.real[d.last] = d.last, r
	return d.last
}

// unmask puts the characters back and gives their offsets.
func (d *disguise) unmask(s string) (string, []int) {
	var b strings.Builder
	var at []int
	for _, r := range s {
		if back, ok := d.real[r]; ok {
			at = append(at, b.Len())
			r = back
		}
		b.WriteRune(r)
	}
	return b.String(), at
}
