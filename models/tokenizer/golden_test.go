package tokenizer

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"
)

type golden struct {
	Name      string
	Tokenizer json.RawMessage
	WithBOS   []int32
	Cases     []struct {
		Text, Decoded, Raw string
		IDs, Plain         []int32
	}
	Broken []struct {
		IDs     []int32
		Decoded string
	}
}

// goldens are answers of Hugging Face tokenizers, made by testdata/make_goldens.py.
func goldens(t testing.TB) []golden {
	t.Helper()
	data, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []golden
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	if len(out) != 4 {
		t.Fatalf("goldens.json has %d tokenizers, want 4", len(out))
	}
	return out
}

func mustHF(t testing.TB, data []byte) *Tokenizer {
	t.Helper()
	tok, err := FromHF(data)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGoldens(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			tok := mustHF(t, g.Tokenizer)
			if tok.PreTokenizer() != g.Name {
				t.Errorf("PreTokenizer() = %q", tok.PreTokenizer())
			}
			checkGolden(t, tok, g)

			again, err := json.Marshal(tok)
			if err != nil {
				t.Fatal(err)
			}
			back := mustHF(t, again)
			checkGolden(t, back, g)
			if third, _ := json.Marshal(back); !bytes.Equal(again, third) {
				t.Error("writing what was read back gives another file")
			}
		})
	}
}

func checkGolden(t *testing.T, tok *Tokenizer, g golden) {
	t.Helper()
	for _, c := range g.Cases {
		ids := tok.Encode(c.Text)
		if !slices.Equal(ids, c.IDs) {
			t.Errorf("Encode(%q) = %v, want %v", c.Text, ids, c.IDs)
		}
		if plain := tok.EncodePlain(c.Text); !slices.Equal(plain, c.Plain) {
			t.Errorf("EncodePlain(%q) = %v, want %v", c.Text, plain, c.Plain)
		}
		if s := tok.Decode(c.IDs); s != c.Decoded {
			t.Errorf("Decode(%v) = %q, want %q", c.IDs, s, c.Decoded)
		}
		if s := tok.DecodeRaw(c.IDs); s != c.Raw {
			t.Errorf("DecodeRaw(%v) = %q, want %q", c.IDs, s, c.Raw)
		}
	}
	for _, c := range g.Broken {
		if s := tok.Decode(c.IDs); s != c.Decoded {
			t.Errorf("Decode(%v) = %q, want %q", c.IDs, s, c.Decoded)
		}
	}
	withBOS := tok.Encode("a")
	if bos, _ := tok.BOS(); tok.AddBOS() {
		withBOS = append([]int32{bos}, withBOS...)
	}
	if !slices.Equal(withBOS, g.WithBOS) {
		t.Errorf("with BOS: %v, want %v", withBOS, g.WithBOS)
	}
}
