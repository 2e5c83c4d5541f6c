package tokenizer

import "strings"

// What happens to a text, in the order of Hugging Face tokenizers: added tokens are cut out, the rest is normalized,
// then split into pieces by the pre-tokenizers, and every piece is tokenized by the model by itself.

// piece is a part of the text on its way.
type piece struct {
	s     string
	first bool // it begins where the text does (what Metaspace's prepend_scheme "first" asks)
}

// normalizer rewrites text. It is not called on an empty one.
type normalizer interface {
	normalize(p piece) piece
}

// preTokenizer cuts text: it returns the text, changed or not, and appends the parts of it to keep, none of them
// empty, to spans.
type preTokenizer interface {
	split(e *encoder, p piece, spans []span) (string, []span)
}

// model appends the tokens of one piece to out.
type model interface {
	encode(e *encoder, piece string, out []int32) []int32
}

type span struct{ from, to int }

const (
	maxCachedWord  = 48      // bytes
	maxCachedWords = 1 << 16 // then the cache starts afresh
)

// encoder holds the scratch space and the cache of one goroutine's encoding.
type encoder struct {
	cache   map[string][]int32
	spans   [][]span // by depth in the pre-tokenizers
	matches []match
	syms    []symbol           // BPE
	heap    []candidate        // BPE
	halves  map[int32][2]int32 // BPE: what unused pieces were made of
	best    []bestPath         // Unigram, by byte
	path    []int32            // Unigram
}

// word appends the tokens of one piece to out.
func (e *encoder) word(m model, piece string, out []int32) []int32 {
	if len(piece) > maxCachedWord {
		return m.encode(e, piece, out)
	}
	if ids, ok := e.cache[piece]; ok {
		return append(out, ids...)
	}
	start := len(out)
	out = m.encode(e, piece, out)
	if len(e.cache) >= maxCachedWords {
		clear(e.cache)
	}
	// Cloned: a key must not keep the whole text alive.
	e.cache[strings.Clone(piece)] = append([]int32(nil), out[start:]...)
	return out
}
