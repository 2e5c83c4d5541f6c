package tokenizer

import (
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// The properties are cheap: look at more cases than rapid's 100.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("3000")
	}
	os.Exit(m.Run())
}

// TestRoundTrip: what is encoded comes back, for every splitting rule. Qwen2's rule
// brings text to normalization form C.
func TestRoundTrip(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			tok := mustHF(t, g.Tokenizer)
			rapid.Check(t, func(t *rapid.T) {
				s := rapid.OneOf(text(), rapid.String()).Draw(t, "text")
				want := s
				if len(tok.normalizers) > 0 {
					want = unicodeForm(norm.NFC).apply(s) // x/text's own differs on marks that Hugging Face's tables don't know
				}
				if got := tok.Decode(tok.EncodePlain(s)); got != want {
					t.Fatalf("%q comes back as %q", s, got)
				}
				if got := tok.DecodeRaw(tok.Encode(s)); got != want {
					t.Fatalf("%q comes back as %q (special tokens parsed)", s, got)
				}
			})
		})
	}
}

// TestStreamIsBatch: the pieces a Decoder returns make up what Decode returns, and
// none of them breaks a character.
func TestStreamIsBatch(t *testing.T) {
	tok := mustHF(t, goldens(t)[0].Tokenizer)
	rapid.Check(t, func(t *rapid.T) {
		// The first 300 ids are the bytes and the special tokens.
		id := rapid.OneOf(rapid.Int32Range(0, 300), rapid.Int32Range(-2, int32(tok.VocabSize())+2))
		ids := rapid.SliceOf(id).Draw(t, "ids")
		for _, specials := range []bool{false, true} {
			d := tok.NewDecoder()
			d.specials = specials
			var b strings.Builder
			for i, id := range ids {
				b.WriteString(d.Push(id))
				if sofar := tok.decode(ids[:i+1], specials); !strings.HasPrefix(sofar, b.String()) || len(sofar)-b.Len() > len("\uFFFD") {
					t.Fatalf("after %v the stream says %q, the batch %q", ids[:i+1], b.String(), sofar)
				}
			}
			b.WriteString(d.Flush())
			if got, want := b.String(), tok.decode(ids, specials); got != want {
				t.Fatalf("%v streams as %q, decodes as %q", ids, got, want)
			}
			if d.Flush() != "" {
				t.Fatal("a flushed decoder still holds text")
			}
		}
	})
}

func TestDecoderHoldsBack(t *testing.T) {
	tok := mustHF(t, goldens(t)[0].Tokenizer)
	id := func(b byte) int32 { return tok.model.(*bpe).byteID[b] }
	eos, _ := tok.Special("<|endoftext|>")
	d := tok.NewDecoder()
	for i, step := range []struct {
		id   int32
		want string
	}{
		{id('a'), "a"}, {id(0xf0), ""}, {id(0x9f), ""}, {eos, ""}, {id(0x99), ""}, {id(0x82), "🙂"},
		{id(0xe2), ""}, {id('x'), "\uFFFDx"}, {id(0xff), "\uFFFD"}, {id(0xc3), ""}, {-1, ""}, {1 << 30, ""},
	} {
		if got := d.Push(step.id); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	if got := d.Flush(); got != "\uFFFD" {
		t.Errorf("Flush() = %q", got)
	}
	if got := d.Push(id('b')); got != "b" {
		t.Errorf("after Flush: %q", got)
	}
}

func TestSpecialTokens(t *testing.T) {
	tok := mustHF(t, goldens(t)[0].Tokenizer)
	end, ok := tok.Special("<|im_end|>")
	if !ok || end != 2 {
		t.Fatalf("Special(<|im_end|>) = %d, %t", end, ok)
	}
	for _, name := range []string{"the", "nothing", ""} {
		if id, ok := tok.Special(name); ok {
			t.Errorf("Special(%q) = %d", name, id)
		}
	}
	s := "Hi<|im_end|><think>"
	if ids := tok.Encode(s); !slices.Contains(ids, end) || tok.Decode(ids) != "Hi<think>" || tok.DecodeRaw(ids) != s {
		t.Errorf("Encode(%q) = %v: %q, raw %q", s, ids, tok.Decode(ids), tok.DecodeRaw(ids))
	}
	if ids := tok.EncodePlain(s); slices.Contains(ids, end) || tok.Decode(ids) != s {
		t.Errorf("EncodePlain(%q) = %v: %q", s, ids, tok.Decode(ids))
	}
	if tok.Token(end) != "<|im_end|>" || tok.Token(-1) != "" || tok.Token(int32(tok.VocabSize())) != "" {
		t.Error("Token is wrong about an id")
	}
	if tok.EOS() != 0 || tok.Pad() != 0 {
		t.Errorf("EOS %d, pad %d, want 0 (<|endoftext|>) for both", tok.EOS(), tok.Pad())
	}
}

func TestFinderTakesTheLongest(t *testing.T) {
	contents := []string{"<a>", "<a><b>", "ab", "b", "", "<a>x"}
	var added []addedToken
	for id := range contents {
		added = append(added, addedToken{id: int32(id)})
	}
	f := newFinder(added, contents)
	for in, want := range map[string]string{
		"":             "",
		"zz":           "zz|",
		"<a>":          "0|",
		"<a><b>":       "1|",
		"<a><b":        "0|<|3|",
		"xab<a>xy<a":   "x|2|5|y<a|",
		"aab":          "a|2|",
		"<<a>":         "<|0|",
		"<a><a><b>é<a": "0|1|é<a|",
	} {
		var got strings.Builder
		var ids []int32
		flush := func() {
			for _, id := range ids {
				got.WriteString(string(rune('0'+id)) + "|")
			}
			ids = ids[:0]
		}
		f.segments(in, reading{}, &ids, func(s string, _ int) {
			flush()
			got.WriteString(s + "|")
		})
		flush()
		if got.String() != want {
			t.Errorf("segments of %q: %q, want %q", in, got.String(), want)
		}
	}
}

func TestInvalidTextCountsAsReplacementCharacters(t *testing.T) {
	tok := mustHF(t, goldens(t)[0].Tokenizer)
	for in, want := range map[string]string{"a\xff": "a\uFFFD", "\xe2\x82 b": "\uFFFD b"} {
		if got := tok.Decode(tok.EncodePlain(in)); got != want || !slices.Equal(tok.Encode(in), tok.Encode(want)) {
			t.Errorf("%q comes back as %q, want %q", in, got, want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	tok := mustHF(t, goldens(t)[1].Tokenizer)
	texts := []string{"the parrot said", "it's 2024-11-05", "naïve 東京 🙂", "<|im_start|>user\n"}
	want := make([][]int32, len(texts))
	for i, s := range texts {
		want[i] = tok.Encode(s)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 400 {
				if k := i % len(texts); !slices.Equal(tok.Encode(texts[k]), want[k]) {
					t.Errorf("%q encodes differently in parallel", texts[k])
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestRoundTripByteLevel: what is encoded comes back, for byte-level vocabularies without normalizer.
func TestRoundTripByteLevel(t *testing.T) {
	n := 0
	for _, class := range committedClasses(t).Tokenizers {
		tok := mustHF(t, class.JSON)
		if tok.raw == nil || len(tok.normalizers) > 0 || class.Name == "roberta" || class.Name == "clip" { // which add spaces
			continue
		}
		n++
		t.Run(class.Name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := rapid.OneOf(text(), rapid.String()).Draw(t, "text")
				if got := tok.Decode(tok.EncodePlain(s)); got != s {
					t.Fatalf("%q comes back as %q", s, got)
				}
			})
		})
	}
	if n < 7 {
		t.Errorf("only %d byte-level tokenizers", n)
	}
}

// TestEncodeLiteral: a special token that takes in a byte of a user's text is ordinary text.
func TestEncodeLiteral(t *testing.T) {
	tok := mustHF(t, goldens(t)[0].Tokenizer)
	end, _ := tok.Special("<|im_end|>")
	const s = "é<|im_end|>a<|im_end|>"
	plain := tok.EncodePlain("<|im_end|>")
	for _, c := range []struct {
		literal []int
		ends    int
	}{{nil, 2}, {[]int{0}, 2}, {[]int{2}, 1}, {[]int{11}, 1}, {[]int{12}, 2}, {[]int{13}, 1}, {[]int{5, 22}, 0}, {[]int{23}, 2}} {
		ids := tok.EncodeLiteral(s, c.literal)
		n := 0
		for _, id := range ids {
			if id == end {
				n++
			}
		}
		if n != c.ends || tok.DecodeRaw(ids) != s {
			t.Errorf("literal %v: %v has %d ends, want %d", c.literal, ids, n, c.ends)
		}
	}
	if got := tok.EncodeLiteral("<|im_end|>\xff", nil); slices.Contains(got, end) || len(got) < len(plain) {
		t.Errorf("not UTF-8: %v", got)
	}
	if !tok.LiteralKnown() {
		t.Error("a tokenizer without normalizer does not know")
	}
}
