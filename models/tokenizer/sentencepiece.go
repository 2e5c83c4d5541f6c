package tokenizer

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kinds of pieces: ModelProto.SentencePiece.Type, and tokenizer.ggml.token_type in GGUF.
const (
	pieceNormal  = 1
	pieceUnknown = 2
	pieceControl = 3
	pieceUser    = 4
	pieceUnused  = 5
	pieceByte    = 6
)

type spPiece struct {
	text  string
	score float32
	kind  int32
}

// spModel is what a SentencePiece model says.
type spModel struct {
	pieces                           []spPiece
	bpe                              bool // else Unigram
	byteFallback                     bool
	dummyPrefix, removeExtra, escape bool
	charsMap                         []byte
	unk, bos, eos, pad               int32
	rules                            *charsMap
	everywhere                       bool // the dummy prefix goes behind every special token too
}

// FromSentencePiece makes the tokenizer of a SentencePiece model (tokenizer.model, spiece.model), BPE or Unigram, with
// the ids that SentencePiece gives. Control pieces (<s>, </s>) are special tokens, which Encode finds in text and
// SentencePiece itself does not. The space SentencePiece puts in front of a text is put there only, not behind special
// tokens, until Configure reads legacy: true. Neither BOS nor EOS is added until Configure says so.
func FromSentencePiece(modelProto []byte) (*Tokenizer, error) {
	m, err := parseSPModel(modelProto)
	if err == nil {
		var t *Tokenizer
		if t, err = fromSPModel(m); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("SentencePiece model: %w", err)
}

// message calls field for every field of a protocol buffer message: number, and value as bytes or integer.
func message(b []byte, field func(n protowire.Number, bytes []byte, value uint64) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("is no protocol buffer: %w", protowire.ParseError(size))
		}
		b = b[size:]
		var bytes []byte
		var value uint64
		switch kind {
		case protowire.VarintType:
			value, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			bytes, size = protowire.ConsumeBytes(b)
		case protowire.Fixed32Type:
			var v uint32
			v, size = protowire.ConsumeFixed32(b)
			value = uint64(v)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return fmt.Errorf("is no protocol buffer: %w", protowire.ParseError(size))
		}
		b = b[size:]
		if err := field(n, bytes, value); err != nil {
			return err
		}
	}
	return nil
}

// parseSPModel reads a ModelProto (sentencepiece_model.proto).
func parseSPModel(proto []byte) (*spModel, error) {
	m := &spModel{dummyPrefix: true, removeExtra: true, escape: true, unk: 0, bos: 1, eos: 2, pad: -1}
	kind := uint64(1)
	err := message(proto, func(n protowire.Number, b []byte, _ uint64) error {
		switch n {
		case 1:
			p := spPiece{kind: pieceNormal}
			if err := message(b, func(n protowire.Number, b []byte, v uint64) error {
				switch n {
				case 1:
					p.text = string(b)
				case 2:
					p.score = math.Float32frombits(uint32(v))
				case 3:
					p.kind = int32(v)
				}
				return nil
			}); err != nil {
				return err
			}
			m.pieces = append(m.pieces, p)
		case 2: // trainer_spec
			return message(b, func(n protowire.Number, _ []byte, v uint64) error {
				switch n {
				case 3:
					kind = v
				case 24:
					if v != 0 {
						return errors.New("treat_whitespace_as_suffix is not supported")
					}
				case 35:
					m.byteFallback = v != 0
				case 40:
					m.unk = int32(v)
				case 41:
					m.bos = int32(v)
				case 42:
					m.eos = int32(v)
				case 43:
					m.pad = int32(v)
				}
				return nil
			})
		case 3: // normalizer_spec
			return message(b, func(n protowire.Number, b []byte, v uint64) error {
				switch n {
				case 2:
					m.charsMap = b
				case 3:
					m.dummyPrefix = v != 0
				case 4:
					m.removeExtra = v != 0
				case 5:
					m.escape = v != 0
				}
				return nil
			})
		case 5: // denormalizer_spec
			return message(b, func(n protowire.Number, b []byte, _ uint64) error {
				if n == 2 && len(b) > 0 {
					return errors.New("denormalizer_spec is not supported")
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && kind != 1 && kind != 2 {
		names := map[uint64]string{3: "WORD", 4: "CHAR"}
		err = fmt.Errorf("model_type %d (%s) is not supported; only UNIGRAM and BPE", kind, names[kind])
	}
	m.bpe = kind == 2
	return m, err
}

// fromSPModel makes the tokenizer.
func fromSPModel(m *spModel) (*Tokenizer, error) {
	if len(m.pieces) == 0 {
		return nil, errors.New("it has no pieces")
	}
	t := &Tokenizer{sp: m}
	unknown := int32(-1)
	for id, p := range m.pieces {
		if !utf8.ValidString(p.text) {
			return nil, fmt.Errorf("piece %d, %q, is not UTF-8", id, clip(p.text))
		}
		if math.IsNaN(float64(p.score)) || math.IsInf(float64(p.score), 0) {
			return nil, fmt.Errorf("piece %d, %q, has the score %g", id, clip(p.text), p.score)
		}
		if err := t.add(p.text, int64(id), int64(len(m.pieces))); err != nil {
			return nil, err
		}
		switch p.kind {
		case pieceNormal, pieceUser, pieceUnused, pieceByte:
		case pieceUnknown, pieceControl:
			t.added = append(t.added, addedToken{id: int32(id), content: p.text, special: true})
			if p.kind == pieceUnknown {
				unknown = int32(id)
			}
		default:
			return nil, fmt.Errorf("piece %d, %q, is of the unknown type %d", id, clip(p.text), p.kind)
		}
	}
	if unknown < 0 && !m.byteFallback {
		return nil, errors.New("it has no unknown piece")
	}
	if m.unk = unknown; m.unk < 0 && !m.bpe {
		return nil, errors.New("it has no unknown piece")
	}
	if len(m.charsMap) > 0 {
		var err error
		if m.rules, err = newCharsMap(m.charsMap); err != nil {
			return nil, err
		}
	}
	if err := t.index(); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		to *int32
		id int32
	}{{&t.bos, m.bos}, {&t.eos, m.eos}, {&t.pad, m.pad}} {
		if f.id >= 0 && int(f.id) < len(m.pieces) && m.pieces[f.id].kind == pieceControl {
			*f.to = f.id
		}
	}
	m.assemble(t)
	return t, nil
}

// assemble makes the pipeline.
func (m *spModel) assemble(t *Tokenizer) {
	ids := map[string]int32{} // of the pieces that text can become
	user := map[string]int32{}
	var users []entry
	for id, p := range m.pieces {
		switch p.kind {
		case pieceNormal, pieceUnused:
			ids[p.text] = int32(id)
		case pieceUser:
			ids[p.text], user[p.text] = int32(id), int32(id)
			users = append(users, entry{p.text, int32(id)})
		}
	}
	n := &spNormalizer{spModel: m}
	if len(users) > 0 {
		n.user = newTrie(users)
	}
	t.normalizers, t.pre, t.steps = []normalizer{n}, nil, []string{"SentencePiece"}
	var bytes *[256]int32
	if m.byteFallback {
		bytes = byteTokens(t.ids)
	}
	if m.bpe {
		b := m.bpeModel(ids, user, bytes)
		if n.user != nil {
			t.pre = append(t.pre, splitter{alone{n.user}, "Isolated"})
		}
		if cutsAtWords(b, t.tokens) {
			t.pre = append(t.pre, atWords{b.whole})
		}
		t.model = b
	} else {
		t.model = m.unigramModel(ids, user, bytes)
	}
	t.decoders = nil
	if m.escape {
		t.decoders = append(t.decoders, eachToken(func(_ int, s string) string { return unescape(s) }))
	}
	t.decoders = append(t.decoders, func() stage { return &byteFallback{} }, func() stage { return fuse{} })
	if n := m.leadingSpaces(); n > 0 {
		t.decoders = append(t.decoders, func() stage { return &cut{content: " ", start: n, left: n} })
	}
	t.find()
}

// leadingSpaces is how many spaces decoding takes away in front: the one that was put there, or all, where a text never
// starts with any.
func (m *spModel) leadingSpaces() int {
	switch {
	case m.removeExtra:
		return 1 << 20
	case m.dummyPrefix:
		return 1
	}
	return 0
}

// unigramModel scores as SentencePiece does: in single precision, user-defined pieces above all others.
func (m *spModel) unigramModel(ids, user map[string]int32, bytes *[256]int32) *unigram {
	u := &unigram{unk: m.unk, single: true, bytes: bytes, scores: make([]float64, len(m.pieces)), user: map[int32]bool{}}
	lowest := float32(math.MaxFloat32)
	var entries []entry
	for id, p := range m.pieces {
		u.scores[id] = float64(p.score)
		if p.kind == pieceNormal {
			lowest = min(lowest, p.score)
		}
	}
	for s, id := range ids {
		if m.pieces[id].kind != pieceUnused {
			entries = append(entries, entry{s, id})
		}
	}
	for _, id := range user {
		u.user[id] = true
	}
	u.unkScore = float64(lowest - unkPenalty)
	u.trie = newTrie(entries)
	return u
}
