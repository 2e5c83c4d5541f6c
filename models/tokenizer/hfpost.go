package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

type (
	hfTemplate struct {
		typed
		Single        []hfPiece            `json:"single"`
		Pair          []hfPiece            `json:"pair"`
		SpecialTokens map[string]hfSpecial `json:"special_tokens"`
	}
	hfPiece struct {
		SpecialToken *hfRef `json:"SpecialToken,omitempty"`
		Sequence     *hfRef `json:"Sequence,omitempty"`
	}
	hfRef struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	}
	hfSpecial struct {
		ID     string   `json:"id"`
		IDs    []int64  `json:"ids"`
		Tokens []string `json:"tokens"`
	}
	// hfNamedID is a token with its id: ["[SEP]", 102].
	hfNamedID struct{ id int64 }
)

func (n *hfNamedID) UnmarshalJSON(b []byte) error {
	var two []json.RawMessage
	var name string
	if err := json.Unmarshal(b, &two); err != nil || len(two) != 2 || json.Unmarshal(two[0], &name) != nil || json.Unmarshal(two[1], &n.id) != nil {
		return fmt.Errorf("%q is not a token and its id", clip(string(b)))
	}
	return nil
}

// readPostProcessor learns what goes around every text.
func (t *Tokenizer) readPostProcessor(raw json.RawMessage) error {
	kind, err := kindOf(raw)
	if err != nil {
		return err
	}
	switch kind {
	case "null":
		return nil
	case "Sequence":
		var s struct {
			typed
			Processors []json.RawMessage `json:"processors"`
		}
		if err := fields(raw, &s); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		for _, step := range s.Processors {
			if err := t.readPostProcessor(step); err != nil {
				return err
			}
		}
		return nil
	case "ByteLevel": // changes offsets only
		return nil
	case "BertProcessing", "RobertaProcessing":
		var s struct {
			typed
			Sep         *hfNamedID `json:"sep"`
			Cls         *hfNamedID `json:"cls"`
			TrimOffsets bool       `json:"trim_offsets"` // changes offsets only
			PrefixSpace bool       `json:"add_prefix_space"`
		}
		if err = fields(raw, &s); err == nil && (s.Sep == nil || s.Cls == nil) {
			err = errors.New("has no sep or no cls")
		}
		if err == nil {
			err = t.around([]int64{s.Cls.id}, []int64{s.Sep.id})
		}
	case "TemplateProcessing":
		var s hfTemplate
		if err = fields(raw, &s); err == nil {
			err = t.readTemplate(s)
		}
	default:
		return fmt.Errorf("%s is not supported", kind)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}

func (t *Tokenizer) readTemplate(s hfTemplate) error {
	var before, after []int64
	texts := 0
	for _, p := range s.Single {
		switch {
		case p.Sequence != nil && p.Sequence.ID == "A" && p.SpecialToken == nil:
			texts++
		case p.SpecialToken != nil && p.Sequence == nil:
			special, ok := s.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return fmt.Errorf("%q is not one of its special_tokens", clip(p.SpecialToken.ID))
			}
			if texts == 0 {
				before = append(before, special.IDs...)
			} else {
				after = append(after, special.IDs...)
			}
		default:
			return errors.New("single has a piece that is neither a special token nor the text")
		}
	}
	if texts != 1 {
		return fmt.Errorf("single has the text %d times", texts)
	}
	return t.around(before, after)
}

// around adds ids around what is there.
func (t *Tokenizer) around(before, after []int64) error {
	narrow := func(ids []int64) (out []int32, err error) {
		for _, id := range ids {
			if id < 0 || id >= int64(len(t.tokens)) || t.tokens[id] == "" {
				return nil, fmt.Errorf("id %d is not in the vocabulary", id)
			}
			out = append(out, int32(id))
		}
		return out, nil
	}
	b, err := narrow(before)
	if err != nil {
		return err
	}
	a, err := narrow(after)
	if err != nil {
		return err
	}
	t.prefix, t.suffix = slices.Concat(b, t.prefix), slices.Concat(t.suffix, a)
	return nil
}
