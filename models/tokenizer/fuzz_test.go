package tokenizer

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// FuzzFromHF: no file makes the reader panic, and what it accepts it can write and read
// again with the same ids.
func FuzzFromHF(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add([]byte(g.Tokenizer), "the parrot's 12 é<|im_end|>")
	}
	f.Add([]byte(`{"pre_tokenizer":{"type":"ByteLevel"},"decoder":{"type":"ByteLevel"},"model":{"vocab":{"a":0,"b":5,"ab":9},"merges":["a b"]}}`), "aab")
	for _, file := range []string{
		`{"model":{"vocab":{"a":0},"merges":[["a","a"]]}}`,
		`{"normalizer":{"type":"BertNormalizer"},"pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece"},"model":{"type":"WordPiece","unk_token":"u","vocab":{"a":0,"##a":5,"u":9}}}`,
		`{"normalizer":{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAABhAA=="},"pre_tokenizer":{"type":"Metaspace","replacement":"_"},"decoder":{"type":"Metaspace","replacement":"_"},"model":{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["u",0],["_a",-1],["a",-2]]}}`,
		`{"normalizer":{"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"NFKC"},{"type":"Replace","pattern":{"Regex":"a*|^"},"content":"b"}]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{L}+|[[a]b]++"},"behavior":"MergedWithNext","invert":true},"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]},"model":{"type":"BPE","unk_token":"u","fuse_unk":true,"byte_fallback":true,"continuing_subword_prefix":"#","end_of_word_suffix":"$","vocab":{"a":0,"#a$":5,"u":9,"aa$":3},"merges":["a #a$"]}}`,
		`{"added_tokens":[{"id":3,"content":"aa","lstrip":true,"rstrip":true,"single_word":true,"normalized":true}],"post_processor":{"type":"BertProcessing","sep":["a",0],"cls":["a",0]},"model":{"type":"WordLevel","unk_token":"a","vocab":{"a":0,"b":1}}}`,
	} {
		f.Add([]byte(file), "a aa <b")
	}
	f.Fuzz(func(t *testing.T, data []byte, s string) {
		tok, err := FromHF(data)
		ids, ok := fuzzedIDs(t, tok, err, s)
		if !ok {
			return
		}
		stream, b := tok.NewDecoder(), strings.Builder{}
		for _, id := range ids {
			b.WriteString(stream.Push(id))
		}
		if b.WriteString(stream.Flush()); b.String() != tok.Decode(ids) {
			t.Fatalf("%v streams as %q, decodes as %q", ids, b.String(), tok.Decode(ids))
		}
		again, err := json.Marshal(tok)
		if err != nil {
			t.Fatal(err)
		}
		back, err := FromHF(again)
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if !slices.Equal(back.Encode(s), ids) || !slices.Equal(back.EncodePlain(s), tok.EncodePlain(s)) {
			t.Fatalf("%q encodes differently after a round trip", s)
		}
	})
}

// FuzzEncode: any text comes back, special tokens parsed or not.
func FuzzEncode(f *testing.F) {
	var toks []*Tokenizer
	for _, g := range goldens(f) {
		toks = append(toks, mustHF(f, g.Tokenizer))
		for _, c := range g.Cases {
			f.Add(c.Text)
		}
	}
	f.Add("\xff\xe2\x82")
	f.Fuzz(func(t *testing.T, s string) {
		for _, tok := range toks {
			want := lossy([]byte(s))
			if utf8.ValidString(s) != (want == s) {
				t.Fatalf("lossy(%q) = %q", s, want)
			}
			if nfc(tok) {
				want = norm.NFC.String(want)
			}
			if got := tok.Decode(tok.EncodePlain(s)); got != want {
				t.Fatalf("%s: %q comes back as %q", tok.PreTokenizer(), s, got)
			}
			if got := tok.DecodeRaw(tok.Encode(s)); !nfc(tok) && got != want {
				t.Fatalf("%s: %q comes back as %q", tok.PreTokenizer(), s, got)
			}
		}
	})
}

// FuzzDecoder: a stream says what the batch says, whatever bytes the tokens hold.
func FuzzDecoder(f *testing.F) {
	tok := mustHF(f, goldens(f)[0].Tokenizer)
	f.Add([]byte("aé東🙂"), uint16(0))
	f.Add([]byte("\xe2\x82\xff\xf0\x9f"), uint16(300))
	f.Fuzz(func(t *testing.T, data []byte, token uint16) {
		var ids []int32
		for i, b := range data {
			if ids = append(ids, tok.model.(*bpe).byteID[b]); i%5 == 4 {
				ids = append(ids, int32(token))
			}
		}
		d := tok.NewDecoder()
		var out bytes.Buffer
		for _, id := range ids {
			out.WriteString(d.Push(id))
		}
		out.WriteString(d.Flush())
		if want := tok.Decode(ids); out.String() != want || !utf8.ValidString(want) {
			t.Fatalf("%v streams as %q, decodes as %q", ids, out.String(), want)
		}
	})
}

// nfc reports whether a tokenizer normalizes text (the goldens': to form C).
func nfc(t *Tokenizer) bool { return len(t.normalizers) > 0 }

// fuzzedIDs encodes a text with what a reader made of a fuzzed file, if it took it: an error is one line, ids are of the
// vocabulary.
func fuzzedIDs(t *testing.T, tok *Tokenizer, err error, s string) (ids []int32, ok bool) {
	t.Helper()
	if err != nil {
		if strings.ContainsRune(err.Error(), '\n') {
			t.Fatalf("an error of several lines: %q", err)
		}
		return nil, false
	}
	ids = tok.Encode(s)
	for _, id := range ids {
		if id < 0 || int(id) >= tok.VocabSize() {
			t.Fatalf("id %d of %d", id, tok.VocabSize())
		}
	}
	return ids, true
}
