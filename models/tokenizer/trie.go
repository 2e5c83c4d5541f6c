package tokenizer

import (
	"cmp"
	"slices"
)

// trie finds the keys that start a text. Nodes are numbered breadth first, so that the children of one lie side by
// side: those of node n are start[n] to start[n+1].
type trie struct {
	root  [256]int32 // children of the root; 0: none
	start []int32
	label []byte  // last byte of the key so far
	value []int32 // -1: no key ends here
}

type entry struct {
	key   string
	value int32
}

// newTrie takes keys that are not empty; of two equal ones the first counts.
func newTrie(entries []entry) *trie {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.key == b.key })
	t := &trie{label: []byte{0}, value: []int32{-1}}
	type span struct{ from, to, depth int } // the entries below a node
	for queue := []span{{0, len(entries), 0}}; len(queue) > 0; queue = queue[1:] {
		s := queue[0]
		t.start = append(t.start, int32(len(t.label)))
		node := len(t.start) - 1
		i := s.from
		if i < s.to && len(entries[i].key) == s.depth {
			t.value[node] = entries[i].value
			i++
		}
		for i < s.to {
			b, from := entries[i].key[s.depth], i
			for i < s.to && entries[i].key[s.depth] == b {
				i++
			}
			if node == 0 {
				t.root[b] = int32(len(t.label))
			}
			t.label, t.value = append(t.label, b), append(t.value, -1)
			queue = append(queue, span{from, i, s.depth + 1})
		}
	}
	t.start = append(t.start, int32(len(t.label)))
	return t
}

// next is the child of a node by a byte, 0 if there is none.
func (t *trie) next(node int32, b byte) int32 {
	if node == 0 {
		return t.root[b]
	}
	lo, hi := t.start[node], t.start[node+1]
	for hi-lo > 8 {
		if mid := (lo + hi) / 2; t.label[mid] <= b {
			lo = mid
		} else {
			hi = mid
		}
	}
	for ; lo < hi; lo++ {
		if t.label[lo] == b {
			return lo
		}
	}
	return 0
}

// longest gives the value and length of the longest key that starts s; n is 0 where none does.
func (t *trie) longest(s string) (value int32, n int) {
	node := int32(0)
	for i := range len(s) {
		if node = t.next(node, s[i]); node == 0 {
			break
		}
		if t.value[node] >= 0 {
			value, n = t.value[node], i+1
		}
	}
	return value, n
}

// get gives the value of a key.
func (t *trie) get(key string) (int32, bool) {
	v, n := t.longest(key)
	return v, n == len(key) && n > 0
}
