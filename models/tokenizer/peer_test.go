package tokenizer

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// classes is what testdata/classes.py prints: tokenizers of every class built by Hugging Face tokenizers, and what it
// makes of random texts.
type classes struct {
	Texts      []string
	Tokenizers []struct {
		Name       string
		JSON       json.RawMessage
		IDs, Plain [][]int32
		Whole      [][]int32
		Decode     []decoded
	}
}

type decoded struct {
	ids       []int32
	text, raw string
}

func (d *decoded) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &[]any{&d.ids, &d.text, &d.raw})
}

// python is an interpreter that can import a module.
func python(t testing.TB, module string) string {
	t.Helper()
	name := os.Getenv("GOBPO_PYTHON")
	if name == "" {
		name = "python3"
	}
	if err := exec.Command(name, "-c", "import "+module).Run(); err != nil {
		t.Skipf("%s cannot import %s (pip install %s, or set GOBPO_PYTHON)", name, module, module)
	}
	return name
}

// script runs a Python script of testdata and returns what it prints.
func script(t testing.TB, module string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(python(t, module), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %.2000s", args, err, stderr.String())
	}
	return out
}

// TestClassesPeer asks Hugging Face tokenizers, as it is installed, about thousands of random texts.
func TestClassesPeer(t *testing.T) {
	raw := script(t, "tokenizers", "testdata/classes.py", "1200", "7")
	var c classes
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	compareClasses(t, &c)
}

// TestClassesFixture holds the answers of Hugging Face tokenizers 0.23.3.
func TestClassesFixture(t *testing.T) { compareClasses(t, committedClasses(t)) }

func committedClasses(t testing.TB) *classes {
	t.Helper()
	var c classes
	fixture(t, "testdata/classes.json.gz", &c)
	return &c
}

// fixture reads compressed JSON.
func fixture(t testing.TB, path string, into any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatal(err)
	}
}

func compareClasses(t *testing.T, c *classes) {
	t.Helper()
	if len(c.Tokenizers) < 50 || len(c.Texts) < 50 {
		t.Fatalf("%d tokenizers, %d texts", len(c.Tokenizers), len(c.Texts))
	}
	compared := 0
	for _, class := range c.Tokenizers {
		t.Run(class.Name, func(t *testing.T) {
			tok, err := FromHF(class.JSON)
			if err != nil {
				t.Fatal(err)
			}
			wrong := 0
			differ := func(what string, in, got, want any) {
				compared++
				if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); g != w {
					if wrong++; wrong <= 4 {
						t.Errorf("%s(%+q) = %v, Hugging Face says %v", what, in, got, want)
					}
				}
			}
			for i, s := range c.Texts {
				differ("Encode", s, tok.Encode(s), class.IDs[i])
				// Where a user's text is itself a control token in the model's vocabulary, the model may make that token
				// of it in Hugging Face; here never.
				if plain := class.Plain[i]; plain != nil && !slices.ContainsFunc(plain, func(id int32) bool { return tok.kind[id].special }) {
					differ("EncodePlain", s, tok.EncodePlain(s), plain)
				}
			}
			for i, ids := range class.Whole {
				differ("EncodeWithSpecials", c.Texts[i], tok.EncodeWithSpecials(c.Texts[i]), ids)
			}
			for _, d := range class.Decode {
				differ("Decode", d.ids, tok.Decode(d.ids), d.text)
				differ("DecodeRaw", d.ids, tok.DecodeRaw(d.ids), d.raw)
				stream, b := tok.NewDecoder(), strings.Builder{}
				for _, id := range d.ids {
					b.WriteString(stream.Push(id))
				}
				b.WriteString(stream.Flush())
				differ("Decoder", d.ids, b.String(), d.text)
			}
			if wrong > 0 {
				t.Errorf("%d mismatches", wrong)
			}
		})
	}
	t.Logf("%d tokenizers, %d texts: %d answers compared", len(c.Tokenizers), len(c.Texts), compared)
}
