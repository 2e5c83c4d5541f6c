package tokenizer

import (
	"slices"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token found in the text as it stands, before any splitting.
type addedToken struct {
	id         int32
	content    string
	special    bool // control token: not part of the text
	normalized bool // matched after normalization
	singleWord bool // not inside of a word
	lstrip     bool // swallows the white space before it
	rstrip     bool // and after it
}

// finder finds added tokens in text: leftmost first, the longest where several start.
type finder struct {
	trie   *trie
	tokens []addedToken // what the trie's values are indices of
}

// newFinder finds tokens by contents[i]. Of equal ones the special comes first, as in Hugging Face.
func newFinder(tokens []addedToken, contents []string) *finder {
	f := &finder{tokens: tokens}
	var entries []entry
	for _, special := range []bool{true, false} {
		for i, a := range tokens {
			if a.special == special && contents[i] != "" {
				entries = append(entries, entry{contents[i], int32(i)})
			}
		}
	}
	if len(entries) > 0 {
		f.trie = newTrie(entries)
	}
	return f
}

// rules say which special tokens count as such: all but those that take in a byte that is ordinary text.
type reading struct {
	plain   bool  // none does
	literal []int // offsets of bytes that are ordinary text, in order
}

// ordinary reports whether the special token at [from, to) is ordinary text.
func (r reading) ordinary(from, to int) bool {
	if r.plain {
		return true
	}
	i, _ := slices.BinarySearch(r.literal, from)
	return i < len(r.literal) && r.literal[i] < to
}

// segments appends the ids of the tokens found in s to out and calls plain, which appends too, on the text between them
// and its offset. A token passed over still hides those that start within it, as in Hugging Face.
func (f *finder) segments(s string, how reading, out *[]int32, plain func(s string, at int)) {
	from := 0
	for i := 0; f.trie != nil && i < len(s); {
		if f.trie.root[s[i]] == 0 {
			i++
			continue
		}
		k, n := f.trie.longest(s[i:])
		if n == 0 {
			i++
			continue
		}
		a := &f.tokens[k]
		start, end := i, i+n
		i = end
		if a.special && how.ordinary(start, end) || a.singleWord && (endsInWord(s[:start]) || startsInWord(s[end:])) {
			continue
		}
		if a.lstrip {
			start = max(from, lastSpaces(s[:start]))
		}
		if a.rstrip {
			end += firstSpaces(s[end:])
		}
		if from < start {
			plain(s[from:start], from)
		}
		*out = append(*out, a.id)
		from = end
	}
	if from < len(s) {
		plain(s[from:], from)
	}
}

func startsInWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

func endsInWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

// firstSpaces is the length of the white space s starts with.
func firstSpaces(s string) int {
	for i, r := range s {
		if !unicode.IsSpace(r) {
			return i
		}
	}
	return len(s)
}

// lastSpaces is where the white space s ends with starts.
func lastSpaces(s string) int {
	for end := len(s); ; {
		r, n := utf8.DecodeLastRuneInString(s[:end])
		if n == 0 || !unicode.IsSpace(r) {
			return end
		}
		end -= n
	}
}
