package tokenizer

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestFromWords(t *testing.T) {
	words := strings.Fields("the cat sat on a mat he hell hello bc abc ab xab xabc café 東京 ! ... abab ababab")
	tok, err := FromWords(words)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range words {
		for _, s := range []string{w, " " + w} {
			if ids := tok.EncodePlain(s); len(ids) != 1 || tok.Decode(ids) != s {
				t.Errorf("%q is %v, want one token", s, ids)
			}
		}
	}
	if ids := tok.Encode("the cat sat<|endoftext|>"); len(ids) != 4 || ids[3] != tok.EOS() {
		t.Errorf("a sentence of three words is %v", ids)
	}
	if tok.EOS() == tok.Pad() || int(tok.Pad()) != tok.VocabSize()-1 || int(tok.EOS()) != tok.VocabSize()-2 {
		t.Errorf("EOS %d, pad %d of %d ids", tok.EOS(), tok.Pad(), tok.VocabSize())
	}
	if _, ok := tok.BOS(); ok {
		t.Error("there is a BOS")
	}
	if ids := tok.Encode("A\x00\xff"); !slices.Equal(ids[:2], []int32{'A', 0}) {
		t.Errorf("bytes are not their own ids: %v", ids)
	}
}

func TestFromWordsOfNothing(t *testing.T) {
	tok, err := FromWords(nil)
	if err != nil || tok.VocabSize() != 258 {
		t.Fatalf("%v, %v", tok, err)
	}
	if got := tok.Decode(tok.EncodePlain("any text, é <|pad|>")); got != "any text, é <|pad|>" {
		t.Errorf("text comes back as %q", got)
	}
}

// The rule cuts some words; their parts become tokens.
func TestFromWordsCut(t *testing.T) {
	tok, err := FromWords([]string{"don't", "12a", " lead", "a b"})
	if err != nil {
		t.Fatal(err)
	}
	for s, n := range map[string]int{"don't": 2, " don't": 2, "12a": 2, " lead": 1, "a b": 2, " 12": 1} {
		if ids := tok.EncodePlain(s); len(ids) != n {
			t.Errorf("%q is %d tokens, want %d", s, len(ids), n)
		}
	}
}

func TestFromWordsRefuses(t *testing.T) {
	for want, words := range map[string][]string{
		`word 1 ("") is empty or not UTF-8`:     {"a", ""},
		`word 0 ("\xff") is empty or not UTF-8`: {"\xff"},
	} {
		if _, err := FromWords(words); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", words, err, want)
		}
	}
	// GPT-2's rule cuts "<|endoftext|>", so it cannot become an ordinary token.
	tok, err := FromWords([]string{"<|endoftext|>"})
	if err != nil {
		t.Fatal(err)
	}
	if ids := tok.EncodePlain("<|endoftext|>"); slices.Contains(ids, tok.EOS()) {
		t.Errorf("plain text has EOS in it: %v", ids)
	}
}

func TestFromWordsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few letters: words then overlap in every way.
		words := rapid.SliceOfN(rapid.StringMatching(`[abc]{1,6}`), 0, 12).Draw(t, "words")
		tok, err := FromWords(words)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			for _, s := range []string{w, " " + w} {
				if ids := tok.EncodePlain(s); len(ids) != 1 {
					t.Fatalf("%q is %v, want one token", s, ids)
				}
			}
		}
		s := text().Draw(t, "text")
		if got := tok.Decode(tok.EncodePlain(s)); got != s {
			t.Fatalf("%q comes back as %q", s, got)
		}
		again, _ := FromWords(words)
		a, _ := json.Marshal(tok)
		b, _ := json.Marshal(again)
		if string(a) != string(b) {
			t.Fatal("the same words give another tokenizer")
		}
		back, err := FromHF(a)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(back.EncodePlain(s), tok.EncodePlain(s)) || back.EOS() != tok.EOS() || back.Pad() != tok.Pad() {
			t.Fatal("what was written reads back as another tokenizer")
		}
	})
}
