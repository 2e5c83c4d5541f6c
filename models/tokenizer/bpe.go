package tokenizer

import "fmt"

// bpe merges the symbols of one piece (bytes, or characters where chars is set) into tokens, lowest rank first and
// leftmost among equals.
type bpe struct {
	byteID [256]int32       // token of each byte; -1: the vocabulary has none
	chars  *charSymbols     // nil: byte-level
	merges map[uint64]merge // by pair of ids
	whole  map[string]int32 // pieces that are one token whatever the merges say
	unused map[int32]bool   // tokens to take apart again (SentencePiece)
}

type merge struct{ rank, id int32 }

func pair(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

// addMerges reads merges as pairs of token spellings; ids finds the tokens. Merged, the right one loses the prefix
// that marks the inside of a word.
func (b *bpe) addMerges(pairs [][2]string, prefix string, ids map[string]int32) error {
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
		if len(p[1]) < len(prefix) {
			return fmt.Errorf("merge %d: %q does not start with %q", rank, p[1], prefix)
		}
		id, ok := ids[p[0]+p[1][len(prefix):]]
		if !ok {
			return fmt.Errorf("merge %d: %q is not in the vocabulary", rank, p[0]+p[1][len(prefix):])
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

func (b *bpe) encode(e *encoder, piece string, out []int32) []int32 {
	if id, ok := b.whole[piece]; ok {
		return append(out, id)
	}
	e.syms = e.syms[:0]
	if b.chars != nil {
		b.chars.start(e, piece)
	} else {
		for i := range len(piece) {
			if id := b.byteID[piece[i]]; id >= 0 {
				e.push(id)
			}
		}
	}
	start := len(out)
	out = e.merge(b, out)
	if b.chars != nil && (b.unused != nil || b.chars.parts != nil) {
		out = b.finish(e, out, start)
	}
	return out
}

// push adds a symbol.
func (e *encoder) push(id int32) {
	n := int32(len(e.syms))
	e.syms = append(e.syms, symbol{id, n - 1, n + 1})
}

// merge does the merging: a heap of candidates over a linked list, so that a very
// long piece costs n log n.
func (e *encoder) merge(b *bpe, out []int32) []int32 {
	syms := e.syms
	e.heap = e.heap[:0]
	if b.unused != nil {
		e.halves = map[int32][2]int32{}
	}
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
		}
		if s.prev >= 0 {
			e.consider(b, s.prev)
		}
		if s.next >= 0 {
			e.consider(b, c.pos)
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
	if b.unused[m.id] {
		e.halves[m.id] = [2]int32{s.id, e.syms[s.next].id}
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
