package tokenizer

import "unicode/utf8"

const (
	unkPenalty = 10  // how much worse than the worst token an unknown character is
	userBonus  = 0.1 // the score of a user-defined piece for each byte after its first (found by asking SentencePiece 0.2.3)
)

// unigram finds the most probable segmentation of a piece (Kudo 2018, "Subword Regularization", section 3.2) by
// Viterbi's algorithm: as Hugging Face tokenizers in double precision, or as SentencePiece does in single.
type unigram struct {
	trie     *trie
	scores   []float64 // log-probability by id
	unk      int32
	unkScore float64
	bytes    *[256]int32 // tokens of bytes; nil without byte fallback

	single bool           // SentencePiece
	user   map[int32]bool // user-defined tokens, always taken (SentencePiece)
}

// bestPath is the best segmentation that ends at one byte.
type bestPath struct {
	score float64
	from  int32 // where its last token starts; -1: there is none yet
	id    int32
}

func (u *unigram) encode(e *encoder, piece string, out []int32) []int32 {
	best := e.best[:0]
	for range len(piece) + 1 {
		best = append(best, bestPath{from: -1})
	}
	e.best = best
	for i := 0; i < len(piece); {
		so := best[i].score
		_, n := utf8.DecodeRuneInString(piece[i:])
		known := false
		node := int32(0)
		for j := i; j < len(piece); {
			if node = u.trie.next(node, piece[j]); node == 0 {
				break
			}
			j++
			id := u.trie.value[node]
			if id < 0 {
				continue
			}
			score := u.scores[id]
			if u.user[id] {
				score = float64(float32(userBonus * float64(j-i-1)))
			}
			u.improve(&best[j], so, score, i, id)
			known = known || j == i+n
		}
		if !known {
			u.improve(&best[i+n], so, u.unkScore, i, u.unk)
		}
		i += n
	}
	return u.collect(e, piece, out)
}

// improve takes a path if it is the better one.
func (u *unigram) improve(to *bestPath, so, score float64, from int, id int32) {
	score += so
	if u.single {
		score = float64(float32(score))
	}
	if to.from < 0 || score > to.score {
		*to = bestPath{score, int32(from), id}
	}
}

// collect appends the tokens of the best path. Unknown characters in a row are one.
func (u *unigram) collect(e *encoder, piece string, out []int32) []int32 {
	path := e.path[:0] // ends of the tokens, last first
	for at := int32(len(piece)); at > 0; at = e.best[at].from {
		path = append(path, at)
	}
	e.path = path
	for i := len(path) - 1; i >= 0; i-- {
		node := e.best[path[i]]
		if node.id != u.unk {
			out = append(out, node.id)
			continue
		}
		for i > 0 && e.best[path[i-1]].id == u.unk {
			i--
		}
		out = u.unknown(piece[node.from:path[i]], out)
	}
	return out
}

func (u *unigram) unknown(s string, out []int32) []int32 {
	if id, ok := u.trie.get(s); ok && !u.single {
		return append(out, id)
	}
	if u.bytes == nil {
		return append(out, u.unk)
	}
	for i := range len(s) {
		if u.bytes[s[i]] < 0 {
			return append(out, u.unk)
		}
	}
	for i := range len(s) {
		out = append(out, u.bytes[s[i]])
	}
	return out
}
