package tokenizer

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
)

// json writes a tokenizer.json that says the same, as far as that format can: see docs/tokenizers.md.
func (m *spModel) json(t *Tokenizer) ([]byte, error) {
	f := t.jsonFile()
	added := f["added_tokens"].([]hfAdded)
	var users []string
	for id, p := range m.pieces {
		switch p.kind {
		case pieceUnused:
			return nil, errors.New("a tokenizer.json cannot say that pieces are unused")
		case pieceUser:
			users = append(users, regexp.QuoteMeta(p.text))
			if _, known := t.kind[int32(id)]; !known {
				added = append(added, hfAdded{ID: int64(id), Content: p.text, Normalized: true})
			}
		}
	}
	slices.SortFunc(added, func(a, b hfAdded) int { return cmp.Compare(a.ID, b.ID) })
	f["added_tokens"] = added

	var steps []object
	replace := func(kind, what, by string) {
		steps = append(steps, object{"type": "Replace", "pattern": object{kind: what}, "content": by})
	}
	if len(m.charsMap) > 0 {
		steps = append(steps, object{"type": "Precompiled", "precompiled_charsmap": base64.StdEncoding.EncodeToString(m.charsMap)})
	}
	space := " "
	if m.removeExtra {
		replace("Regex", `\A +| +\z`, "")
		replace("Regex", ` {2,}`, " ")
	}
	if m.escape {
		space = wordMark
		replace("String", " ", wordMark)
		if m.removeExtra {
			replace("Regex", wordMark+`+\z`, "")
		}
	}
	switch {
	case m.dummyPrefix && !m.everywhere:
		f["pre_tokenizer"] = object{"type": "Metaspace", "replacement": space, "prepend_scheme": "first", "split": false}
	case m.dummyPrefix && len(users) > 0: // but not in front of user-defined tokens themselves
		replace("Regex", `\A(?!(?:`+strings.Join(users, "|")+`)\z)`, space)
	case m.dummyPrefix:
		steps = append(steps, object{"type": "Prepend", "prepend": space})
	}
	if len(steps) > 0 {
		f["normalizer"] = object{"type": "Sequence", "normalizers": steps}
	}

	steps = nil
	if m.escape {
		replace("String", wordMark, " ")
	}
	steps = append(steps, object{"type": "ByteFallback"}, object{"type": "Fuse"})
	if n := m.leadingSpaces(); n > 0 {
		steps = append(steps, object{"type": "Strip", "content": " ", "start": n, "stop": 0})
	}
	f["decoder"] = object{"type": "Sequence", "decoders": steps}
	if m.bpe {
		f["model"] = m.bpeJSON(t)
	} else {
		vocab := make([]hfScore, len(m.pieces))
		for id, p := range m.pieces {
			vocab[id] = hfScore{p.text, float64(p.score)}
		}
		f["model"] = object{"type": "Unigram", "unk_id": m.unk, "vocab": vocab, "byte_fallback": m.byteFallback}
	}
	return json.Marshal(f)
}

// bpeJSON spells out the merges. One piece's come after those of pieces with higher scores; that equal ones should go
// by place a list cannot say.
func (m *spModel) bpeJSON(t *Tokenizer) object {
	type rule struct {
		merge hfMerge
		rank  int32
	}
	ids := map[string]bool{}
	for _, p := range m.pieces {
		if p.kind == pieceNormal || p.kind == pieceUser {
			ids[p.text] = true
		}
	}
	var rules []rule
	rank := m.ranks()
	for id, p := range m.pieces {
		if !ids[p.text] {
			continue
		}
		for i := range p.text {
			if i > 0 && ids[p.text[:i]] && ids[p.text[i:]] {
				rules = append(rules, rule{hfMerge{p.text[:i], p.text[i:]}, rank[id]})
			}
		}
	}
	slices.SortStableFunc(rules, func(a, b rule) int { return cmp.Compare(a.rank, b.rank) })
	merges := make([][2]string, len(rules)) // pairs, because pieces may hold spaces
	for i, r := range rules {
		merges[i] = r.merge
	}
	vocab := map[string]int32{}
	for id, p := range m.pieces {
		vocab[p.text] = int32(id)
	}
	var unk *string
	if m.unk >= 0 {
		unk = &m.pieces[m.unk].text
	}
	return object{"type": "BPE", "dropout": nil, "unk_token": unk, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": true, "byte_fallback": m.byteFallback, "ignore_merges": false, "vocab": vocab, "merges": merges}
}
