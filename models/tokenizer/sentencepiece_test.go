package tokenizer

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"google.golang.org/protobuf/encoding/protowire"
)

// pieces is what testdata/pieces.py prints: SentencePiece models, and what SentencePiece makes of random texts.
type pieces struct {
	Texts  []string
	Models []struct {
		Name    string
		Model   []byte
		IDs     [][]int32
		Decoded []string
	}
}

// TestSentencePiecePeer asks SentencePiece, as it is installed, about thousands of random texts.
func TestSentencePiecePeer(t *testing.T) {
	var p pieces
	if err := json.Unmarshal(script(t, "sentencepiece", "testdata/pieces.py", "1500", "7"), &p); err != nil {
		t.Fatal(err)
	}
	comparePieces(t, &p)
}

// TestSentencePieceFixture holds the answers of SentencePiece 0.2.3.
func TestSentencePieceFixture(t *testing.T) {
	var p pieces
	fixture(t, "testdata/pieces.json.gz", &p)
	comparePieces(t, &p)
}

func comparePieces(t *testing.T, p *pieces) {
	t.Helper()
	if len(p.Models) < 5 || len(p.Texts) < 50 {
		t.Fatalf("%d models, %d texts", len(p.Models), len(p.Texts))
	}
	for _, m := range p.Models {
		t.Run(m.Name, func(t *testing.T) {
			tok := mustSP(t, m.Model)
			wrong := 0
			for i, s := range p.Texts {
				// SentencePiece has no special tokens in text: EncodePlain.
				ids := tok.EncodePlain(s)
				if !slices.Equal(ids, m.IDs[i]) {
					if wrong++; wrong <= 4 {
						t.Errorf("EncodePlain(%+q) = %v, SentencePiece says %v", s, ids, m.IDs[i])
					}
				}
				// It shows unknown pieces as " ⁇ " and takes all spaces at the start away where it removes extra ones.
				want := m.Decoded[i]
				if got := tok.Decode(m.IDs[i]); got != want && !slices.Contains(m.IDs[i], tok.sp.unk) {
					if wrong++; wrong <= 4 {
						t.Errorf("Decode(%v) = %+q, SentencePiece says %+q", m.IDs[i], got, want)
					}
				}
			}
			if wrong > 0 {
				t.Errorf("%d mismatches", wrong)
			}
		})
	}
}

// TestSentencePieceAsJSON: the tokenizer.json written for a model gives the same ids and texts, here and in Hugging Face
// tokenizers, but for what that format does in other ways (docs/tokenizers.md).
func TestSentencePieceAsJSON(t *testing.T) {
	var p pieces
	fixture(t, "testdata/pieces.json.gz", &p)
	for _, m := range p.Models {
		t.Run(m.Name, func(t *testing.T) {
			tok := mustSP(t, m.Model)
			if err := tok.Configure([]byte(`{"legacy": true, "add_bos_token": true}`)); err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(tok)
			if err != nil {
				t.Fatal(err)
			}
			back := mustHF(t, data)
			var texts []string
			var ids [][]int32
			for i, s := range p.Texts {
				// Hugging Face's Precompiled sees whole graphemes, its Unigram any token's name in text.
				if strings.Contains(s, "<unk>") || strings.Contains(s, "<0x") ||
					len(tok.sp.charsMap) > 0 && uniseg.GraphemeClusterCount(s) != utf8.RuneCountInString(s) {
					continue
				}
				texts, ids = append(texts, s), append(ids, m.IDs[i])
				if got := back.EncodePlain(s); !slices.Equal(got, m.IDs[i]) {
					t.Errorf("read back, %+q is %v, was %v", s, got, m.IDs[i])
				}
				if got, want := back.Decode(m.IDs[i]), tok.Decode(m.IDs[i]); got != want {
					t.Errorf("read back, %v is %q, was %q", m.IDs[i], got, want)
				}
			}
			if len(texts) < 20 {
				t.Errorf("only %d texts are compared", len(texts))
			}
			if got, want := back.EncodeWithSpecials("the 42"), tok.EncodeWithSpecials("the 42"); !slices.Equal(got, want) || got[0] != 1 {
				t.Errorf("with specials: %v, was %v", got, want)
			}
			a := peer(t, tok, texts, ids) // skips where it is not installed
			for i, s := range texts {
				if !tok.sp.bpe && (strings.Contains(s, "<s>") || strings.Contains(s, "</s>")) {
					continue // its Unigram makes control tokens of a user's text
				}
				if !slices.Equal(a.Plain[i], ids[i]) || a.Decode[i] != tok.Decode(ids[i]) {
					t.Errorf("Hugging Face makes %v of %+q, was %v; back: %q, was %q", a.Plain[i], s, ids[i], a.Decode[i], tok.Decode(ids[i]))
				}
			}
		})
	}
}

func mustSP(t testing.TB, model []byte) *Tokenizer {
	t.Helper()
	tok, err := FromSentencePiece(model)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// spProto writes a model: pieces and further fields, as protocol buffers.
func spProto(fields []byte, pieces ...spPiece) []byte {
	var b []byte
	for _, p := range pieces {
		var m []byte
		m = protowire.AppendString(protowire.AppendTag(m, 1, protowire.BytesType), p.text)
		m = protowire.AppendFixed32(protowire.AppendTag(m, 2, protowire.Fixed32Type), math.Float32bits(p.score))
		m = protowire.AppendVarint(protowire.AppendTag(m, 3, protowire.VarintType), uint64(p.kind))
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), m)
	}
	return append(b, fields...)
}

// spField is a varint field within a sub-message.
func spField(message, field protowire.Number, v uint64) []byte {
	m := protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v)
	return protowire.AppendBytes(protowire.AppendTag(nil, message, protowire.BytesType), m)
}

var spBasics = []spPiece{{"<unk>", 0, pieceUnknown}, {"<s>", 0, pieceControl}, {"</s>", 0, pieceControl}}

func TestSentencePieceRefuses(t *testing.T) {
	with := func(p ...spPiece) []spPiece { return append(slices.Clone(spBasics), p...) }
	charsMap := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), []byte("12345"))
	for _, c := range []struct {
		data []byte
		want string
	}{
		{nil, "it has no pieces"},
		{[]byte("no protocol buffer"), "is no protocol buffer"},
		{spProto(spField(2, 3, 3), spBasics...), "model_type 3 (WORD) is not supported"},
		{spProto(spField(2, 3, 4), spBasics...), "model_type 4 (CHAR)"},
		{spProto(spField(2, 24, 1), spBasics...), "treat_whitespace_as_suffix"},
		{spProto(nil, spPiece{"a", 0, pieceNormal}), "no unknown piece"},
		{spProto(nil, with(spPiece{"a", 0, 9})...), `piece 3, "a", is of the unknown type 9`},
		{spProto(nil, with(spPiece{"", 0, pieceNormal})...), "id 3 is an empty token"},
		{spProto(nil, with(spPiece{"\xff", 0, pieceNormal})...), "is not UTF-8"},
		{spProto(nil, with(spPiece{"a", 0, 1}, spPiece{"a", 0, 1})...), `"a" has two ids, 3 and 4`},
		{spProto(nil, with(spPiece{"a", float32(math.NaN()), 1})...), "has the score NaN"},
		{spProto(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), charsMap), spBasics...), "size of its trie is wrong"},
		{spProto(protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), charsMap), spBasics...), "denormalizer_spec"},
	} {
		_, err := FromSentencePiece(c.data)
		if err == nil || !strings.HasPrefix(err.Error(), "SentencePiece model: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", c.data, err, c.want)
		}
	}
}

// TestSentencePieceByHand: merges go by score, unused pieces are taken apart, spaces are marked.
func TestSentencePieceByHand(t *testing.T) {
	bpe := func(fields []byte) *Tokenizer {
		return mustSP(t, spProto(append(spField(2, 3, 2), fields...), append(slices.Clone(spBasics),
			spPiece{"▁", -9, 1}, spPiece{"a", -9, 1}, spPiece{"b", -9, 1}, spPiece{"ab", -2, 1}, spPiece{"bb", -1, 1}, spPiece{"abb", -3, pieceUnused},
			spPiece{"▁a", -4, 1}, spPiece{"a▁b", 0, pieceUser}, spPiece{"xy", -1, 1})...))
	}
	tok := bpe(nil)
	for s, want := range map[string][]int32{
		"":       {},
		"   ":    {},
		"ab":     {3, 6},    // score -2 goes before ▁a's -4
		"abb":    {3, 4, 7}, // bb first, then abb, which comes apart again
		"a":      {9},
		" a  b ": {3, 10},     // spaces at the ends go, one is left; a user-defined piece is found before merging
		"xyxy":   {3, 11, 11}, // of characters that are no pieces
		"xx?":    {3, 0},      // one unknown token for all
		"xbx":    {3, 0, 5, 0},
		"</s>":   {3, 0, 0, 0}, // fixed below: not parsed by EncodePlain
	} {
		if s == "</s>" {
			if got := tok.Encode(s); !slices.Equal(got, []int32{2}) {
				t.Errorf("Encode(%q) = %v", s, got)
			}
			want = []int32{3, 0}
		}
		if got := tok.EncodePlain(s); !slices.Equal(got, want) {
			t.Errorf("EncodePlain(%q) = %v, want %v", s, got, want)
		}
	}
	if got := tok.Encode("</s>"); !slices.Equal(got, []int32{2}) {
		t.Errorf("</s> is %v", got)
	}
	if got := tok.Decode([]int32{1, 3, 9, 6, 10, 2}); got != "aaba b" {
		t.Errorf("Decode = %q", got)
	}
	if tok.EOS() != 2 || tok.AddBOS() || tok.Pad() != 2 {
		t.Errorf("EOS %d, adds BOS %t, pad %d", tok.EOS(), tok.AddBOS(), tok.Pad())
	}
	// Behind a special token a space is put in front only in legacy mode.
	if got := tok.Encode("a</s>a"); !slices.Equal(got, []int32{9, 2, 4}) {
		t.Errorf("not legacy: %v", got)
	}
	err := tok.Configure([]byte(`{"legacy": true, "add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "added_tokens_decoder": {
		"2": {"content": "</s>", "special": true}, "12": {"content": "<end>", "special": true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]struct{ bos, eos bool }{
		`{"tokenizer_class": "LlamaTokenizer"}`:                               {true, false},
		`{"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": false}`:   {false, false},
		`{"tokenizer_class": "T5Tokenizer"}`:                                  {false, true},
		`{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}`: {false, false},
	} {
		tok := bpe(nil)
		if err := tok.Configure([]byte(config)); err != nil || tok.AddBOS() != want.bos || slices.Contains(tok.suffix, 2) != want.eos {
			t.Errorf("%s: adds BOS %t, suffix %v, %v", config, tok.AddBOS(), tok.suffix, err)
		}
	}
	if err := bpe(nil).Configure([]byte(`{"tokenizer_class": "XLMRobertaTokenizer"}`)); err == nil || !strings.Contains(err.Error(), `"XLMRobertaTokenizer"`) {
		t.Errorf("a class that numbers tokens in its own way: %v", err)
	}
	if got := tok.EncodeWithSpecials("a</s>a<end>"); !slices.Equal(got, []int32{1, 9, 2, 9, 12, 2}) || !tok.AddBOS() {
		t.Errorf("legacy: %v", got)
	}
	if _, err := json.Marshal(tok); err == nil || !strings.Contains(err.Error(), "unused") {
		t.Errorf("unused pieces are written: %v", err)
	}
	plain := bpe(slices.Concat(spField(3, 3, 0), spField(3, 4, 0), spField(3, 5, 0)))
	if got := plain.EncodePlain(" a b"); !slices.Equal(got, []int32{0, 4, 0, 5}) || plain.Decode([]int32{9, 4}) != "▁aa" {
		t.Errorf("without dummy prefix and escaping: %v, %q", got, plain.Decode([]int32{9, 4}))
	}
}

// TestGGUFSentencePiece: a GGUF file that holds a model's pieces gives that model's ids.
func TestGGUFSentencePiece(t *testing.T) {
	var p pieces
	fixture(t, "testdata/pieces.json.gz", &p)
	m, err := parseSPModel(p.Models[0].Model)
	if err != nil || p.Models[0].Name != "llama" {
		t.Fatal(p.Models[0].Name, err)
	}
	var tokens []string
	var scores []float32
	var types []int32
	for _, x := range m.pieces {
		tokens, scores, types = append(tokens, x.text), append(scores, x.score), append(types, x.kind)
	}
	meta := map[string]any{"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores,
		"tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": uint32(1), "tokenizer.ggml.eos_token_id": uint32(2)}
	tok, err := FromGGUF(meta)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Texts {
		if got := tok.EncodePlain(s); !slices.Equal(got, p.Models[0].IDs[i]) {
			t.Errorf("EncodePlain(%+q) = %v, want %v", s, got, p.Models[0].IDs[i])
		}
	}
	if got := tok.EncodeWithSpecials("the</s>the"); len(got) < 4 || got[0] != 1 || !tok.AddBOS() || got[1] != got[len(got)-1] {
		t.Errorf("the</s>the is %v", got)
	}
	for key, c := range map[string]struct {
		value any
		want  string
	}{
		"scores":                   {[]float32{1}, "scores is not"},
		"token_type":               {nil, "token_type is missing"},
		"add_space_prefix":         {3, "add_space_prefix is 3, not a bool"},
		"remove_extra_whitespaces": {true, "remove_extra_whitespaces is not supported"},
		"add_eos_token":            {"yes", "add_eos_token is yes"},
	} {
		broken := maps.Clone(meta)
		if broken["tokenizer.ggml."+key] = c.value; c.value == nil {
			delete(broken, "tokenizer.ggml."+key)
		}
		if _, err := FromGGUF(broken); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: %v, want %q", key, c.value, err, c.want)
		}
	}
}

// FuzzSentencePiece: no file makes the reader panic; what it accepts gives ids of its vocabulary.
func FuzzSentencePiece(f *testing.F) {
	var p pieces
	fixture(f, "testdata/pieces.json.gz", &p)
	f.Add(p.Models[0].Model[:2000], "the 42\n")
	f.Add(spProto(spField(2, 3, 2), append(slices.Clone(spBasics), spPiece{"ab", -1, 1}, spPiece{"b", -1, 4})...), "abb</s>")
	f.Add(spProto(spField(2, 35, 1), append(slices.Clone(spBasics), spPiece{"ab", -1, 1}, spPiece{"b", -1, 5})...), "abb</s>")
	f.Fuzz(func(t *testing.T, data []byte, s string) {
		tok, err := FromSentencePiece(data)
		ids, ok := fuzzedIDs(t, tok, err, s)
		if !ok {
			return
		}
		tok.Decode(ids)
		written, err := json.Marshal(tok)
		if err != nil {
			return // unused pieces
		}
		if _, err := FromHF(written); err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
	})
}
