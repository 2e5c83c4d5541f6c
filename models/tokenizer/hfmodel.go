package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

type (
	hfBPE struct {
		typed
		Dropout         *float64         `json:"dropout"`
		UnkToken        *string          `json:"unk_token"`
		SubwordPrefix   *string          `json:"continuing_subword_prefix"`
		EndOfWordSuffix *string          `json:"end_of_word_suffix"`
		FuseUnk         bool             `json:"fuse_unk"`
		ByteFallback    bool             `json:"byte_fallback"`
		IgnoreMerges    bool             `json:"ignore_merges"`
		Vocab           map[string]int64 `json:"vocab"`
		Merges          []hfMerge        `json:"merges"`
	}
	hfUnigram struct {
		typed
		UnkID        *int64    `json:"unk_id"`
		Vocab        []hfScore `json:"vocab"`
		ByteFallback bool      `json:"byte_fallback"`
	}
	// hfScore is a token with its log-probability: ["a", -1.5].
	hfScore struct {
		token string
		score float64
	}
	hfWordPiece struct {
		typed
		UnkToken *string          `json:"unk_token"`
		Prefix   *string          `json:"continuing_subword_prefix"`
		MaxChars *int             `json:"max_input_chars_per_word"`
		Vocab    map[string]int64 `json:"vocab"`
	}
	hfWordLevel struct {
		typed
		UnkToken *string          `json:"unk_token"`
		Vocab    map[string]int64 `json:"vocab"`
	}
)

func (s *hfScore) UnmarshalJSON(b []byte) error {
	var two []json.RawMessage
	if err := json.Unmarshal(b, &two); err != nil || len(two) != 2 ||
		json.Unmarshal(two[0], &s.token) != nil || json.Unmarshal(two[1], &s.score) != nil {
		return fmt.Errorf("%q is not a token and its score", clip(string(b)))
	}
	return nil
}

func (s hfScore) MarshalJSON() ([]byte, error) { return json.Marshal([]any{s.token, s.score}) }

// readModel reads the vocabulary and makes the model.
func (t *Tokenizer) readModel(raw json.RawMessage, added []hfAdded) error {
	kind, err := kindOf(raw)
	if err != nil {
		return fmt.Errorf("model: %w", err)
	}
	var has struct{ Merges json.RawMessage }
	_ = json.Unmarshal(raw, &has)
	if kind == "" && has.Merges != nil { // old files
		kind = "BPE"
	}
	switch kind {
	case "BPE":
		return t.readBPE(raw, added)
	case "Unigram":
		return t.readUnigram(raw, added)
	case "WordPiece":
		return t.readWordPiece(raw, added)
	case "WordLevel":
		var m hfWordLevel
		if err := fields(raw, &m); err != nil {
			return fmt.Errorf("model: %w", err)
		}
		unk, err := t.vocabulary(m.Vocab, added, m.UnkToken, true)
		if err != nil {
			return err
		}
		t.model = &wordLevel{t.modelIDs(), unk}
		return nil
	}
	return fmt.Errorf("model.type %q is not supported; only BPE, Unigram, WordPiece and WordLevel", kind)
}

// vocabulary takes in a vocabulary and the added tokens, and gives the id of the unknown token, -1 if there is none.
func (t *Tokenizer) vocabulary(vocab map[string]int64, added []hfAdded, unkToken *string, needUnk bool) (int32, error) {
	if len(vocab) == 0 {
		return 0, errors.New("model.vocab is empty")
	}
	limit := int64(2*(len(vocab)+len(added)) + 1<<16)
	for s, id := range vocab {
		if err := t.add(s, id, limit); err != nil {
			return 0, err
		}
	}
	if err := t.readAdded(added, limit); err != nil {
		return 0, err
	}
	if err := t.index(); err != nil {
		return 0, err
	}
	if unkToken == nil {
		if needUnk {
			return 0, errors.New("model.unk_token is missing")
		}
		return -1, nil
	}
	id, ok := vocab[*unkToken]
	if !ok {
		return 0, fmt.Errorf("model.unk_token %q is not in the vocabulary", clip(*unkToken))
	}
	return int32(id), nil
}

func (t *Tokenizer) readBPE(raw json.RawMessage, added []hfAdded) error {
	var m hfBPE
	if err := fields(raw, &m); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return fmt.Errorf("model.dropout %g is not supported", *m.Dropout)
	}
	unk, err := t.vocabulary(m.Vocab, added, m.UnkToken, false)
	if err != nil {
		return err
	}
	merges := make([][2]string, len(m.Merges))
	for i := range merges {
		merges[i] = m.Merges[i]
	}
	prefix, suffix := orEmpty(m.SubwordPrefix), orEmpty(m.EndOfWordSuffix)
	if n := len(t.pre); n > 0 && prefix == "" && suffix == "" && !m.ByteFallback && !m.FuseUnk {
		if _, ok := t.pre[n-1].(byteSpelling); ok { // the same, without spelling the bytes
			t.pre = t.pre[:n-1]
			t.model, err = t.newByteBPE(merges, m.IgnoreMerges, unk)
			return err
		}
	}
	b := &bpe{chars: newCharSymbols(t.ids, prefix, suffix)}
	b.chars.unk, b.chars.fuse = unk, m.FuseUnk
	if m.ByteFallback {
		b.chars.bytes = byteTokens(t.ids)
	}
	if err := b.addMerges(merges, prefix, t.ids); err != nil {
		return err
	}
	if m.IgnoreMerges {
		b.whole = t.modelIDs()
	} else if cutsAtWords(b, t.tokens) {
		t.pre = append(t.pre, atWords{})
	}
	t.model = b
	return nil
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (t *Tokenizer) readUnigram(raw json.RawMessage, added []hfAdded) error {
	var m hfUnigram
	if err := fields(raw, &m); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	switch {
	case len(m.Vocab) == 0:
		return errors.New("model.vocab is empty")
	case m.UnkID == nil:
		return errors.New("model.unk_id null is not supported")
	case *m.UnkID < 0 || *m.UnkID >= int64(len(m.Vocab)):
		return fmt.Errorf("model.unk_id %d is not in the vocabulary of %d", *m.UnkID, len(m.Vocab))
	}
	limit := int64(2*(len(m.Vocab)+len(added)) + 1<<16)
	u := &unigram{unk: int32(*m.UnkID), unkScore: math.Inf(1), scores: make([]float64, len(m.Vocab))}
	for id, v := range m.Vocab {
		u.scores[id] = v.score
		u.unkScore = min(u.unkScore, v.score-unkPenalty)
		if err := t.add(v.token, int64(id), limit); err != nil {
			return err
		}
	}
	if err := t.readAdded(added, limit); err != nil {
		return err
	}
	if err := t.index(); err != nil {
		return err
	}
	var entries []entry
	for s, id := range t.modelIDs() {
		if int(id) < len(m.Vocab) {
			entries = append(entries, entry{s, id})
		}
	}
	if t.kind[u.unk].special && t.tokens[u.unk] != "" {
		entries = append(entries, entry{t.tokens[u.unk], u.unk}) // spelled out, it is as unknown as in Hugging Face
	}
	u.trie = newTrie(entries)
	if m.ByteFallback {
		u.bytes = byteTokens(t.ids)
	}
	t.model = u
	return nil
}

func (t *Tokenizer) readWordPiece(raw json.RawMessage, added []hfAdded) error {
	var m hfWordPiece
	if err := fields(raw, &m); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	unk, err := t.vocabulary(m.Vocab, added, m.UnkToken, true)
	if err != nil {
		return err
	}
	prefix, most := "##", 100
	if m.Prefix != nil {
		prefix = *m.Prefix
	}
	if m.MaxChars != nil {
		most = *m.MaxChars
	}
	t.model = newWordPiece(t.modelIDs(), prefix, unk, most)
	return nil
}
