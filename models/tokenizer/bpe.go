package tokenizer

import (
	"fmt"
	"strings"
)

// bpe merges the bytes of one piece into tokens, lowest rank first and leftmost
// among equals.
type bpe struct {
	byteID [256]int32       // token of each byte; -1: the vocabulary has none
	merges map[uint64]merge // by pair of ids
	whole  map[string]int32 // pieces that are one token whatever the merges say; nil unless ignore_merges
}

type merge struct{ rank, id int32 }

func pair(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

// addMerges reads merges as pairs of token spellings; ids finds the tokens.
func (b *bpe) addMerges(pairs [][2]string, ids map[string]int32) error {
	b.merges = make(map[uint64]merge, len(pairs))
	for rank, p := range pairs {
		left, ok := ids[p[0]]
		if !ok {
			return fmt.Errorf("merge %d: %q is not in the vocabulary", rank, p[0])
		}
		right, ok := ids[p[1]]
		if !ok {
			return fmt.Errorf("merge %d: %q is not in the vocabulary", rank, p[1])
		}
		id, ok := ids[p[0]+p[1]]
		if !ok {
			return fmt.Errorf("merge %d: %q is not in the vocabulary", rank, p[0]+p[1])
		}
		b.merges[pair(left, right)] = merge{int32(rank), id}
	}
	return nil
}

// symbol is a token in the making, linked to its neighbours by index (-1: none).
type symbol struct {
	id         int32 // -1: swallowed by its left neighbour
	prev, next int32
}

// candidate is a merge that was possible at symbol pos when it was pushed.
type candidate struct{ rank, pos, id int32 }

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.pos < d.pos
}

const (
	maxCachedWord  = 48      // bytes
	maxCachedWords = 1 << 16 // then the cache starts afresh
)

// encoder holds the scratch space and the cache of one goroutine's encoding.
type encoder struct {
	cache map[string][]int32
	syms  []symbol
	heap  []candidate
}

// word appends the tokens of one piece to out.
func (e *encoder) word(b *bpe, piece string, out []int32) []int32 {
	if ids, ok := e.cache[piece]; ok {
		return append(out, ids...)
	}
	start := len(out)
	if id, ok := b.whole[piece]; ok {
		out = append(out, id)
	} else {
		out = e.merge(b, piece, out)
	}
	if len(piece) <= maxCachedWord {
		if len(e.cache) >= maxCachedWords {
			clear(e.cache)
		}
		// Cloned: a key must not keep the whole text alive.
		e.cache[strings.Clone(piece)] = append([]int32(nil), out[start:]...)
	}
	return out
}

// merge does the merging: a heap of candidates over a linked list, so that a very
// long piece costs n log n.
func (e *encoder) merge(b *bpe, piece string, out []int32) []int32 {
	syms := e.syms[:0]
	for i := range len(piece) {
		if id := b.byteID[piece[i]]; id >= 0 {
			n := int32(len(syms))
			syms = append(syms, symbol{id, n - 1, n + 1})
		}
	}
	e.syms, e.heap = syms, e.heap[:0]
	if len(syms) == 0 {
		return out
	}
	syms[len(syms)-1].next = -1
	for i := range len(syms) - 1 {
		e.consider(b, int32(i))
	}
	for len(e.heap) > 0 {
		c := e.pop()
		s := &syms[c.pos]
		if s.id < 0 || s.next < 0 {
			continue
		}
		right := &syms[s.next]
		// The symbols may have changed since the candidate was pushed.
		if m, ok := b.merges[pair(s.id, right.id)]; !ok || m.id != c.id {
			continue
		}
		s.id, s.next, right.id = c.id, right.next, -1
		if s.next >= 0 {
			syms[s.next].prev = c.pos
			e.consider(b, c.pos)
		}
		if s.prev >= 0 {
			e.consider(b, s.prev)
		}
	}
	for i := int32(0); i >= 0; i = syms[i].next {
		out = append(out, syms[i].id)
	}
	return out
}

// consider pushes the merge of symbol pos and its right neighbour, if there is one.
func (e *encoder) consider(b *bpe, pos int32) {
	s := e.syms[pos]
	m, ok := b.merges[pair(s.id, e.syms[s.next].id)]
	if !ok {
		return
	}
	h := append(e.heap, candidate{m.rank, pos, m.id})
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h[i].before(h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	e.heap = h
}

func (e *encoder) pop() candidate {
	h := e.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && h[child+1].before(h[child]) {
			child++
		}
		if !h[child].before(h[i]) {
			break
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
	e.heap = h
	return top
}
