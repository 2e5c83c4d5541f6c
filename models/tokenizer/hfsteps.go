package tokenizer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// hfPattern is {"String": …} or {"Regex": …}.
type hfPattern struct {
	Regex  *string `json:"Regex"`
	String *string `json:"String"`
}

// compile gives the scanner that stands for an expression, where there is one.
func (p *hfPattern) compile() (pattern, string, error) {
	switch {
	case p == nil || p.Regex == nil && p.String == nil:
		return nil, "", errors.New("has no pattern")
	case p.String != nil && *p.String == "":
		return nil, "", errors.New("has an empty pattern")
	case p.String != nil:
		return literal(*p.String), "", nil
	}
	for name, expression := range regexes {
		if expression == *p.Regex {
			return scanners[name], name, nil
		}
	}
	re, err := compileRegex(*p.Regex)
	return re, "", err
}

// replacement is a pattern and what takes its place: the Replace normalizer and decoder.
type replacement struct {
	typed
	Pattern *hfPattern `json:"pattern"`
	Content string     `json:"content"`
}

func readNormalizer(raw json.RawMessage) ([]normalizer, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	one := func(n normalizer) ([]normalizer, error) { return []normalizer{n}, nil }
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	var f struct{ typed }
	switch kind {
	case "null":
		return nil, nil
	case "Sequence":
		var s struct {
			typed
			Normalizers []json.RawMessage `json:"normalizers"`
		}
		if err := fields(raw, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		var all []normalizer
		for _, step := range s.Normalizers {
			n, err := readNormalizer(step)
			if err != nil {
				return nil, err
			}
			all = append(all, n...)
		}
		return all, nil
	case "NFC", "NFD", "NFKC", "NFKD":
		if err = fields(raw, &f); err == nil {
			return one(unicodeForm(forms[kind]))
		}
	case "Lowercase":
		if err = fields(raw, &f); err == nil {
			return one(lowercase{})
		}
	case "StripAccents":
		if err = fields(raw, &f); err == nil {
			return one(mapChars(stripAccents))
		}
	case "Nmt":
		if err = fields(raw, &f); err == nil {
			return one(mapChars(nmt))
		}
	case "ByteLevel":
		if err = fields(raw, &f); err == nil {
			return one(byteSpelling{})
		}
	case "Strip":
		s := struct {
			typed
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}{}
		if err = fields(raw, &s); err == nil {
			return one(strip{s.Left, s.Right})
		}
	case "Prepend":
		var s struct {
			typed
			Prepend string `json:"prepend"`
		}
		if err = fields(raw, &s); err == nil {
			return one(prepend(s.Prepend))
		}
	case "Replace":
		var r replacement
		if err = fields(raw, &r); err == nil {
			var p pattern
			if p, _, err = r.Pattern.compile(); err == nil {
				return one(replace{p, r.Content})
			}
		}
	case "BertNormalizer":
		s := struct {
			typed
			Clean     bool  `json:"clean_text"`
			Chinese   bool  `json:"handle_chinese_chars"`
			Accents   *bool `json:"strip_accents"`
			Lowercase bool  `json:"lowercase"`
		}{Clean: true, Chinese: true, Lowercase: true}
		if err = fields(raw, &s); err == nil {
			return one(bert{s.Clean, s.Chinese, s.Accents == nil && s.Lowercase || s.Accents != nil && *s.Accents, s.Lowercase})
		}
	case "Precompiled":
		var s struct {
			typed
			Map *string `json:"precompiled_charsmap"`
		}
		if err = fields(raw, &s); err == nil {
			if s.Map == nil {
				return nil, nil
			}
			var blob []byte
			if blob, err = base64.StdEncoding.DecodeString(*s.Map); err == nil {
				var c *charsMap
				if c, err = newCharsMap(blob); err == nil {
					return one(c)
				}
			}
		}
	default:
		return nil, fmt.Errorf("%s is not supported", kind)
	}
	return nil, fmt.Errorf("%s: %w", kind, err)
}

// readPreTokenizer gives the steps of a pre-tokenizer and their names.
func readPreTokenizer(raw json.RawMessage) ([]preTokenizer, []string, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return nil, nil, err
	}
	one := func(p preTokenizer) ([]preTokenizer, []string, error) { return []preTokenizer{p}, []string{kind}, nil }
	var f struct{ typed }
	switch kind {
	case "null":
		return nil, nil, nil
	case "Sequence":
		var s struct {
			typed
			Steps []json.RawMessage `json:"pretokenizers"`
		}
		if err := fields(raw, &s); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", kind, err)
		}
		var all []preTokenizer
		var names []string
		for _, step := range s.Steps {
			p, n, err := readPreTokenizer(step)
			if err != nil {
				return nil, nil, err
			}
			all, names = append(all, p...), append(names, n...)
		}
		return all, names, nil
	case "ByteLevel":
		s := struct {
			typed
			PrefixSpace bool `json:"add_prefix_space"`
			TrimOffsets bool `json:"trim_offsets"` // offsets are not computed here
			UseRegex    bool `json:"use_regex"`
		}{UseRegex: true}
		if err = fields(raw, &s); err == nil {
			var all []preTokenizer
			var names []string
			if s.PrefixSpace {
				all, names = append(all, spacePrefix{}), append(names, "prefix-space")
			}
			if s.UseRegex {
				all, names = append(all, scanners["gpt2"]), append(names, "gpt2")
			}
			return append(all, byteSpelling{}), names, nil
		}
	case "Split":
		var s struct {
			typed
			Pattern  *hfPattern `json:"pattern"`
			Behavior behavior   `json:"behavior"`
			Invert   bool       `json:"invert"`
		}
		if err = fields(raw, &s); err == nil && s.Behavior == "" {
			err = errors.New("has no behavior")
		}
		if err == nil {
			var p pattern
			var name string
			if p, name, err = s.Pattern.compile(); err == nil {
				// A scanner matches every text without gaps, so isolating matches and removing what lies between are one.
				if name != "" && (s.Behavior == "Isolated" || s.Behavior == "Removed" && s.Invert) {
					return []preTokenizer{scanners[name]}, []string{name}, nil
				}
				if s.Invert {
					p = inverted{p}
				}
				return one(splitter{p, s.Behavior})
			}
		}
	case "Digits":
		var s struct {
			typed
			Individual bool `json:"individual_digits"`
		}
		if err = fields(raw, &s); err == nil {
			name := "digit-runs"
			if s.Individual {
				name = "digits"
			}
			return []preTokenizer{scanners[name]}, []string{name}, nil
		}
	case "Punctuation":
		s := struct {
			typed
			Behavior behavior `json:"behavior"`
		}{Behavior: "Isolated"}
		if err = fields(raw, &s); err == nil {
			return one(splitter{runeIn(isPunctuation), s.Behavior})
		}
	case "Whitespace":
		if err = fields(raw, &f); err == nil {
			return one(words{})
		}
	case "WhitespaceSplit":
		if err = fields(raw, &f); err == nil {
			return one(splitter{runeIn(unicode.IsSpace), "Removed"})
		}
	case "BertPreTokenizer":
		if err = fields(raw, &f); err == nil {
			return []preTokenizer{splitter{runeIn(unicode.IsSpace), "Removed"}, splitter{runeIn(isPunctuation), "Isolated"}}, []string{kind}, nil
		}
	case "CharDelimiterSplit":
		var s struct {
			typed
			Delimiter string `json:"delimiter"`
		}
		if err = fields(raw, &s); err == nil {
			if utf8.RuneCountInString(s.Delimiter) == 1 {
				return one(splitter{literal(s.Delimiter), "Removed"})
			}
			err = errors.New("delimiter is not one character")
		}
	case "Metaspace":
		var m metaspace
		if m, err = readMetaspace(raw); err == nil {
			return one(m)
		}
	default:
		return nil, nil, fmt.Errorf("%s is not supported", kind)
	}
	return nil, nil, fmt.Errorf("%s: %w", kind, err)
}

// readMetaspace reads a Metaspace pre-tokenizer or decoder, old files' add_prefix_space included.
func readMetaspace(raw json.RawMessage) (metaspace, error) {
	s := struct {
		typed
		Replacement string  `json:"replacement"`
		Scheme      *string `json:"prepend_scheme"`
		PrefixSpace *bool   `json:"add_prefix_space"`
		Split       *bool   `json:"split"`
		StrRep      string  `json:"str_rep"` // the replacement once more
	}{}
	if err := fields(raw, &s); err != nil {
		return metaspace{}, err
	}
	m := metaspace{where: "always", cut: s.Split == nil || *s.Split}
	r, n := utf8.DecodeRuneInString(s.Replacement)
	if n == 0 || n != len(s.Replacement) {
		return m, fmt.Errorf("replacement %q is not one character", clip(s.Replacement))
	}
	m.mark = r
	switch {
	case s.Scheme != nil:
		m.where = *s.Scheme
	case s.PrefixSpace != nil && !*s.PrefixSpace:
		m.where = "never"
	}
	if m.where != "always" && m.where != "first" && m.where != "never" || s.PrefixSpace != nil && !*s.PrefixSpace && m.where != "never" {
		return m, fmt.Errorf("prepend_scheme %q is not supported", clip(m.where))
	}
	return m, nil
}
