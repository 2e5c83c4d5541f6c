package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// readDecoder makes the decoding stages.
func (t *Tokenizer) readDecoder(raw json.RawMessage) error {
	if kind, err := kindOf(raw); err == nil && kind == "null" {
		t.decoders = []func() stage{eachToken(spaced)}
		return nil
	}
	return t.readDecoderStep(raw, new(bool))
}

// readDecoderStep appends the stages of one step. fused says that a step before has made all tokens one, which leaves
// few things to do that do not need all of the text at once.
func (t *Tokenizer) readDecoderStep(raw json.RawMessage, fused *bool) error {
	kind, err := kindOf(raw)
	if err != nil {
		return err
	}
	var f struct{ typed }
	add := func(s func() stage) { t.decoders = append(t.decoders, s) }
	var s func() stage
	streams := false // can come after fusing
	switch kind {
	case "Sequence":
		var s struct {
			typed
			Decoders []json.RawMessage `json:"decoders"`
		}
		if err := fields(raw, &s); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if len(s.Decoders) == 0 {
			return fmt.Errorf("%s is empty", kind)
		}
		for _, step := range s.Decoders {
			if err := t.readDecoderStep(step, fused); err != nil {
				return err
			}
		}
		return nil
	case "ByteLevel":
		var b struct {
			typed
			PrefixSpace bool `json:"add_prefix_space"` // the decoder uses none of its settings
			TrimOffsets bool `json:"trim_offsets"`
			UseRegex    bool `json:"use_regex"`
		}
		err = fields(raw, &b)
		s = func() stage { return &byteLevel{} }
	case "ByteFallback":
		err = fields(raw, &f)
		s = func() stage { return &byteFallback{} }
	case "Fuse":
		err = fields(raw, &f)
		s, streams = func() stage { return fuse{} }, true
	case "Metaspace":
		var m metaspace
		m, err = readMetaspace(raw)
		s = eachToken(unmark(string(m.mark), m.where))
	case "WordPiece":
		w := struct {
			typed
			Prefix  string `json:"prefix"`
			Cleanup bool   `json:"cleanup"`
		}{Prefix: "##", Cleanup: true}
		err = fields(raw, &w)
		s = eachToken(joinWords(w.Prefix, w.Cleanup))
	case "BPEDecoder":
		w := struct {
			typed
			Suffix string `json:"suffix"`
		}{Suffix: "</w>"}
		if err = fields(raw, &w); err == nil && w.Suffix == "" {
			err = errors.New("the suffix is empty")
		}
		s = func() stage { return &wordEnds{suffix: w.Suffix} }
	case "Strip":
		var c struct {
			typed
			Content string `json:"content"`
			Start   int    `json:"start"`
			Stop    int    `json:"stop"`
		}
		if err = fields(raw, &c); err == nil && (utf8.RuneCountInString(c.Content) != 1 || c.Start < 0 || c.Stop < 0) {
			err = errors.New("content is not one character or a number is negative")
		}
		s, streams = eachToken(cutToken(c.Content, c.Start, c.Stop)), true
		if *fused {
			s = func() stage { return &cut{content: c.Content, start: c.Start, stop: c.Stop, left: c.Start} }
		}
	case "Replace":
		var r replacement
		var p pattern
		if err = fields(raw, &r); err == nil {
			p, _, err = r.Pattern.compile()
		}
		if l, ok := p.(literal); ok {
			streams = utf8.RuneCountInString(string(l)) == 1
			s = eachToken(func(_ int, token string) string { return strings.ReplaceAll(token, string(l), r.Content) })
		} else {
			x := replace{p, r.Content}
			s = eachToken(func(_ int, token string) string { return x.apply(token, p.matches(token, nil)) })
		}
	default:
		return fmt.Errorf("%s is not supported", kind)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	if *fused && !streams {
		return fmt.Errorf("%s after a step that makes all tokens one is not supported", kind)
	}
	*fused = *fused || kind == "ByteLevel" || kind == "Fuse"
	add(s)
	return nil
}
