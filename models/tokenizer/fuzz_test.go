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
	f.Add([]byte(`{"model":{"vocab":{"a":0},"merges":[["a","a"]]}}`), "")
	f.Fuzz(func(t *testing.T, data []byte, s string) {
		tok, err := FromHF(data)
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') {
				t.Fatalf("an error of several lines: %q", err)
			}
			return
		}
		ids := tok.Encode(s)
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("id %d of %d", id, tok.VocabSize())
			}
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
