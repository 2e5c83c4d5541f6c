package tokenizer

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive merges by the definition: again and again the lowest rank, leftmost first.
func naive(b *bpe, piece string) []int32 {
	var ids []int32
	for i := range len(piece) {
		if id := b.byteID[piece[i]]; id >= 0 {
			ids = append(ids, id)
		}
	}
	for {
		best, at := merge{rank: 1 << 30}, -1
		for i := 0; i+1 < len(ids); i++ {
			if m, ok := b.merges[pair(ids[i], ids[i+1])]; ok && m.rank < best.rank {
				best, at = m, i
			}
		}
		if at < 0 {
			return ids
		}
		ids = slices.Replace(ids, at, at+2, best.id)
	}
}

func TestMergeIsTheDefinition(t *testing.T) {
	for _, g := range goldens(t) {
		model := mustHF(t, g.Tokenizer).model.(*bpe)
		model.whole = nil
		e := &encoder{}
		rapid.Check(t, func(t *rapid.T) {
			words := rapid.SliceOfN(rapid.SampledFrom([]string{"the", "parrot", "day", "a", "aa", "se", "ion", "é", "東", " ", "\xff"}), 0, 12)
			s := rapid.OneOf(rapid.Map(words, func(w []string) string { return strings.Join(w, "") }), rapid.String()).Draw(t, "piece")
			if got, want := model.encode(e, s, nil), naive(model, s); !slices.Equal(got, want) {
				t.Fatalf("%q merges to %v, by definition to %v", s, got, want)
			}
		})
	}
}

func TestCacheChangesNothing(t *testing.T) {
	model := mustHF(t, goldens(t)[0].Tokenizer).model.(*bpe)
	e := &encoder{cache: map[string][]int32{}}
	for _, w := range []string{"the", " the", "the", "x", " the", strings.Repeat("the", 100), ""} {
		for range 2 {
			if got, want := e.word(model, w, []int32{7})[1:], naive(model, w); !slices.Equal(got, want) {
				t.Errorf("%q: %v, want %v", w, got, want)
			}
		}
	}
	if _, ok := e.cache[strings.Repeat("the", 100)]; ok || len(e.cache) != 4 {
		t.Errorf("the cache holds %d words, want the 4 short ones", len(e.cache))
	}
	for i := range maxCachedWords + 10 {
		e.word(model, string(rune(0x4e00+i)), nil)
	}
	if len(e.cache) > maxCachedWords {
		t.Errorf("the cache grew to %d words", len(e.cache))
	}
}

// A megabyte without a border must not take quadratic time (hours).
func TestLongWord(t *testing.T) {
	tok, err := FromWords([]string{"aa", "aaaa", "aaaaaaaa"})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ids := tok.Encode(strings.Repeat("a", 1<<20))
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("a megabyte of a's took %v", d)
	}
	if len(ids) != 1<<17 || tok.Decode(ids) != strings.Repeat("a", 1<<20) {
		t.Errorf("a megabyte of a's became %d tokens, want %d", len(ids), 1<<17)
	}
}

// realText is the prompts and answers of one data set, about n bytes.
func realText(b testing.TB, n int) []string {
	f, err := os.Open(shared(b, "data/hh/train.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() && n > 0 {
		var row struct{ Prompt, Label string }
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			b.Fatal(err)
		}
		s := row.Prompt + "\n" + row.Label
		out = append(out, s)
		n -= len(s)
	}
	return out
}

func BenchmarkEncode(b *testing.B) {
	for _, rule := range []string{"smollm", "llama-bpe"} {
		b.Run(rule, func(b *testing.B) {
			texts := realText(b, 2<<20)
			meta := smolLM2(b)
			meta["tokenizer.ggml.pre"] = rule
			tok, err := FromGGUF(meta)
			if err != nil {
				b.Fatal(err)
			}
			size := 0
			for _, s := range texts {
				size += len(s)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for _, s := range texts {
					tok.EncodePlain(s)
				}
			}
		})
	}
}

// BenchmarkEncodeCold has every text meet an empty cache: the cost of merging itself.
func BenchmarkEncodeCold(b *testing.B) {
	texts := realText(b, 1<<20)
	tok, err := FromGGUF(smolLM2(b))
	if err != nil {
		b.Fatal(err)
	}
	size := 0
	for _, s := range texts {
		size += len(s)
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		for _, s := range texts {
			tok.free = nil
			tok.EncodePlain(s)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	texts := realText(b, 1<<20)
	tok, err := FromGGUF(smolLM2(b))
	if err != nil {
		b.Fatal(err)
	}
	ids := tok.EncodePlain(strings.Join(texts, "\n"))
	b.SetBytes(int64(len(tok.Decode(ids))))
	for b.Loop() {
		tok.Decode(ids)
	}
}

// BenchmarkClasses encodes real text by every class. The vocabularies are small: more tokens and more merging than real
// ones would cost.
func BenchmarkClasses(b *testing.B) {
	texts := realText(b, 1<<20)
	size := 0
	for _, s := range texts {
		size += len(s)
	}
	run := func(name string, tok *Tokenizer) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				for _, s := range texts {
					tok.EncodePlain(s)
				}
			}
		})
	}
	for _, class := range committedClasses(b).Tokenizers {
		if !strings.Contains(class.Name, "split") && !strings.Contains(class.Name, "punctuation") {
			run(class.Name, mustHF(b, class.JSON))
		}
	}
	var p pieces
	fixture(b, "testdata/pieces.json.gz", &p)
	for _, m := range p.Models {
		run("SentencePiece "+m.Name, mustSP(b, m.Model))
	}
}
