package tokenizer

import (
	"errors"
	"fmt"
	"slices"
)

// check refuses what the merging in this package does not do.
func (m *hfModel) check() error {
	set := func(s *string) bool { return s != nil && *s != "" }
	switch {
	case m.Type != "BPE" && (m.Type != "" || m.Merges == nil): // old files leave the type out
		return fmt.Errorf("model.type %q is not supported; only BPE", m.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return fmt.Errorf("model.dropout %g is not supported", *m.Dropout)
	case set(m.SubwordPrefix):
		return fmt.Errorf("model.continuing_subword_prefix %q is not supported", *m.SubwordPrefix)
	case set(m.EndOfWordSuffix):
		return fmt.Errorf("model.end_of_word_suffix %q is not supported", *m.EndOfWordSuffix)
	case m.ByteFallback:
		return errors.New("model.byte_fallback is not supported")
	case m.UnkToken != nil && m.FuseUnk:
		return errors.New("model.fuse_unk is not supported")
	case len(m.Vocab) == 0:
		return errors.New("model.vocab is empty")
	}
	return nil
}

func (t *Tokenizer) readNormalizer(s *hfStep) error {
	switch {
	case s == nil:
	case s.Type == "NFC":
		t.nfc = true
	case s.Type == "Sequence":
		for i := range s.Normalizers {
			if err := t.readNormalizer(&s.Normalizers[i]); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("normalizer %s is not supported; only NFC", s.Type)
	}
	return nil
}

func (t *Tokenizer) readPreTokenizer(s *hfStep) error {
	steps := []hfStep{}
	if s != nil {
		steps = flatten(*s)
	}
	if len(steps) == 0 || steps[len(steps)-1].Type != "ByteLevel" {
		last := "null"
		if len(steps) > 0 {
			last = steps[len(steps)-1].Type
		}
		return fmt.Errorf("pre_tokenizer %s is not supported; it must end with ByteLevel", last)
	}
	for i, s := range steps {
		switch s.Type {
		case "Digits":
			stage := "digit-runs"
			if s.IndividualDigits != nil && *s.IndividualDigits {
				stage = "digits"
			}
			t.stages = append(t.stages, stage)
		case "Split":
			stage, err := s.splitStage()
			if err != nil {
				return err
			}
			t.stages = append(t.stages, stage)
		case "ByteLevel":
			if i < len(steps)-1 {
				return errors.New("pre_tokenizer ByteLevel is supported as the last step only")
			}
			if s.AddPrefixSpace != nil && *s.AddPrefixSpace {
				return errors.New("pre_tokenizer ByteLevel.add_prefix_space is not supported")
			}
			if s.UseRegex == nil || *s.UseRegex {
				t.stages = append(t.stages, "gpt2")
			}
		default:
			return fmt.Errorf("pre_tokenizer %s is not supported; only ByteLevel, Digits and Split", s.Type)
		}
	}
	return nil
}

func flatten(s hfStep) []hfStep {
	if s.Type != "Sequence" {
		return []hfStep{s}
	}
	var out []hfStep
	for _, inner := range slices.Concat(s.Normalizers, s.PreTokenizers, s.Processors) {
		out = append(out, flatten(inner)...)
	}
	return out
}

// splitStage names the scanner of a Split step. The known expressions match every
// text without gaps, so isolating matches and removing what lies between are one.
func (s *hfStep) splitStage() (string, error) {
	invert := s.Invert != nil && *s.Invert
	if s.Pattern == nil {
		return "", errors.New("pre_tokenizer Split has no pattern")
	}
	if !(s.Behavior == "Isolated" || s.Behavior == "Removed" && invert) {
		return "", fmt.Errorf("pre_tokenizer Split with behavior %q and invert %t is not supported", s.Behavior, invert)
	}
	for name, regex := range regexes {
		if s.Pattern.String == "" && regex == s.Pattern.Regex {
			return name, nil
		}
	}
	return "", fmt.Errorf("pre_tokenizer Split with pattern %q is not supported; only those of GPT-2, Llama-3 and Qwen2",
		s.Pattern.Regex+s.Pattern.String)
}

func (t *Tokenizer) readVocab(f hfFile) error {
	// Ids may have gaps; far more gaps than tokens are a broken file, not memory to take.
	limit := int64(2*(len(f.Model.Vocab)+len(f.AddedTokens)) + 1<<16)
	put := func(s string, id int64) error {
		if id < 0 || id >= limit {
			return fmt.Errorf("token %q has id %d, out of range", s, id)
		}
		if s == "" {
			return fmt.Errorf("id %d is an empty token", id)
		}
		for int64(len(t.tokens)) <= id {
			t.tokens = append(t.tokens, "")
		}
		if old := t.tokens[id]; old != "" && old != s {
			return fmt.Errorf("id %d is both %q and %q", id, min(old, s), max(old, s))
		}
		t.tokens[id] = s
		return nil
	}
	for s, id := range f.Model.Vocab {
		if err := put(s, id); err != nil {
			return err
		}
	}
	seen := map[int64]bool{}
	for _, a := range f.AddedTokens {
		if a.SingleWord || a.LStrip || a.RStrip {
			return fmt.Errorf("added token %q: single_word, lstrip and rstrip are not supported", a.Content)
		}
		if seen[a.ID] {
			return fmt.Errorf("added token %q: id %d is listed twice", a.Content, a.ID)
		}
		seen[a.ID] = true
		if err := put(a.Content, a.ID); err != nil {
			return err
		}
		t.added = append(t.added, addedToken{id: int32(a.ID), content: a.Content, special: a.Special, normalized: a.Normalized})
	}
	for _, m := range f.Model.Merges {
		t.merges = append(t.merges, m)
	}
	return nil
}

// readPostProcessor learns whether BOS goes in front of every text.
func (t *Tokenizer) readPostProcessor(s *hfStep) error {
	if s == nil {
		return nil
	}
	for _, s := range flatten(*s) {
		switch s.Type {
		case "ByteLevel": // changes offsets only
		case "TemplateProcessing":
			single := s.Single
			if len(single) == 2 && single[0].SpecialToken != nil {
				name := single[0].SpecialToken.ID
				ids := s.SpecialTokens[name].IDs
				if len(ids) != 1 || ids[0] < 0 || ids[0] >= int64(len(t.tokens)) {
					return fmt.Errorf("post_processor TemplateProcessing: %q is not one token of the vocabulary", name)
				}
				t.bos, t.addBOS = int32(ids[0]), true
				single = single[1:]
			}
			if len(single) != 1 || single[0].Sequence == nil || single[0].Sequence.ID != "A" {
				return errors.New("post_processor TemplateProcessing adds more than one token in front of the text")
			}
		default:
			return fmt.Errorf("post_processor %s is not supported; only ByteLevel and TemplateProcessing", s.Type)
		}
	}
	return nil
}
