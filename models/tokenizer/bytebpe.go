package tokenizer

import "golang.org/x/text/unicode/norm"

// byteBPE is a byte-level BPE tokenizer made of named splitting rules, as GGUF files and lists of words give it.
type byteBPE struct {
	merges [][2]string
	rule   string
	nfc    bool
	whole  bool // ignore_merges
}

// buildBytes assembles a byte-level BPE tokenizer whose tokens and added are set.
func (t *Tokenizer) buildBytes(b *byteBPE) error {
	if err := t.index(); err != nil {
		return err
	}
	t.bytes, t.steps, t.normalizers = b, rules[b.rule], nil
	if b.nfc {
		t.normalizers = []normalizer{unicodeForm(norm.NFC)}
	}
	t.pre = nil
	for _, name := range t.steps {
		t.pre = append(t.pre, scanners[name])
	}
	m, err := t.newByteBPE(b.merges, b.whole, -1)
	if err != nil {
		return err
	}
	t.model = m
	t.decoders = []func() stage{func() stage { return &byteLevel{} }}
	t.find()
	t.rawBytes()
	return nil
}

// newByteBPE makes the model, for tokens that spell bytes as GPT-2's do. Bytes the vocabulary lacks are unk, or left
// out if that is -1.
func (t *Tokenizer) newByteBPE(merges [][2]string, whole bool, unk int32) (*bpe, error) {
	m := &bpe{}
	for b := range m.byteID {
		id, ok := t.ids[string(byteRune[b])]
		if !ok {
			id = unk
		}
		m.byteID[b] = id
	}
	if err := m.addMerges(merges, "", t.ids); err != nil {
		return nil, err
	}
	if whole {
		m.whole = make(map[string]int32, len(t.tokens))
		for id, s := range t.tokens {
			// Spelled out by users, an added token is ordinary text.
			if _, isAdded := t.kind[int32(id)]; s != "" && !isAdded {
				if raw, ok := unsurface(s); ok {
					m.whole[raw] = int32(id)
				}
			}
		}
	}
	return m, nil
}
