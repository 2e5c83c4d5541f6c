package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// match is a part of a text that a pattern found, or what lies between such parts.
type match struct {
	span
	hit bool
}

// pattern appends the parts of s to out, hits and what lies between, which cover it without gaps.
type pattern interface {
	matches(s string, out []match) []match
}

// runeIn matches every single character of a class.
type runeIn func(r rune) bool

func (in runeIn) matches(s string, out []match) []match {
	from := 0
	for i, r := range s {
		if !in(r) {
			continue
		}
		n := len(string(r))
		if from < i {
			out = append(out, match{span{from, i}, false})
		}
		from = i + n
		out = append(out, match{span{i, from}, true})
	}
	if from < len(s) {
		out = append(out, match{span{from, len(s)}, false})
	}
	return out
}

// literal matches a text.
type literal string

func (l literal) matches(s string, out []match) []match {
	from := 0
	for {
		at := strings.Index(s[from:], string(l))
		if at < 0 {
			break
		}
		if at > 0 {
			out = append(out, match{span{from, from + at}, false})
		}
		out = append(out, match{span{from + at, from + at + len(l)}, true})
		from += at + len(l)
	}
	if from < len(s) {
		out = append(out, match{span{from, len(s)}, false})
	}
	return out
}

func (scan scanner) matches(s string, out []match) []match {
	for i := 0; i < len(s); {
		end := scan(s, i)
		out = append(out, match{span{i, end}, true})
		i = end
	}
	return out
}

// inverted swaps hits and the rest.
type inverted struct{ pattern }

func (p inverted) matches(s string, out []match) []match {
	out = p.pattern.matches(s, out)
	for i := range out {
		out[i].hit = !out[i].hit
	}
	return out
}

// behavior says what becomes of the hits of a split.
type behavior string

var behaviors = []behavior{"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}

func (b *behavior) UnmarshalText(text []byte) error {
	if !slices.Contains(behaviors, behavior(text)) {
		return fmt.Errorf("behavior %q is not supported", text)
	}
	*b = behavior(text)
	return nil
}

// spans turns matches into the parts to keep. Matches are merged in place.
func (b behavior) spans(ms []match, out []span) []span {
	if b == "MergedWithNext" {
		slices.Reverse(ms)
	}
	n, before := 0, false
	for _, m := range ms {
		join := false
		switch b {
		case "Contiguous":
			join = m.hit == before
		case "MergedWithPrevious", "MergedWithNext":
			join = m.hit && !before
		}
		before = m.hit
		switch {
		case b == "Removed" && m.hit:
		case join && n > 0 && b == "MergedWithNext":
			ms[n-1].from = m.from
		case join && n > 0:
			ms[n-1].to = m.to
		default:
			ms[n].span = m.span
			n++
		}
	}
	ms = ms[:n]
	if b == "MergedWithNext" {
		slices.Reverse(ms)
	}
	for _, m := range ms {
		if m.from < m.to {
			out = append(out, m.span)
		}
	}
	return out
}
