package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"gobpo/models/fetch"
	"gobpo/models/weights"
)

// smolLM2 is the metadata of the real model, where it is installed.
func smolLM2(t testing.TB) map[string]any {
	t.Helper()
	path, ok := fetch.SmolLM2Path()
	if !ok {
		t.Skip("SmolLM2 is not installed; `go run ./tools/bpo fetch smollm2` or GOBPO_SMOLLM2=<gguf>")
	}
	f, err := weights.OpenGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f.Meta
}

// shared finds a file of the project's shared data beside the repository.
func shared(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "..", "shared", name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skipf("../shared/%s is not here", name)
	return ""
}

func TestSmolLM2Goldens(t *testing.T) {
	data, err := os.ReadFile(shared(t, "goldens/smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Tokenizer []struct {
			Text, Decoded string
			IDs           []int32
		}
		Logps []struct {
			Prompt, Completion string
			PromptIDs          []int32 `json:"prompt_ids"`
			CompletionIDs      []int32 `json:"completion_ids"`
		}
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	tok, err := FromGGUF(smolLM2(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range g.Tokenizer {
		if ids := tok.Encode(c.Text); !slices.Equal(ids, c.IDs) {
			t.Errorf("Encode(%q) = %v, want %v", c.Text, ids, c.IDs)
		}
		if s := tok.DecodeRaw(c.IDs); s != c.Decoded {
			t.Errorf("DecodeRaw(%v) = %q, want %q", c.IDs, s, c.Decoded)
		}
	}
	for _, c := range g.Logps {
		if ids := tok.Encode(c.Prompt); !slices.Equal(ids, c.PromptIDs) {
			t.Errorf("Encode(%q) = %v, want %v", c.Prompt, ids, c.PromptIDs)
		}
		if ids := tok.Encode(c.Completion); !slices.Equal(ids, c.CompletionIDs) {
			t.Errorf("Encode(%q) = %v, want %v", c.Completion, ids, c.CompletionIDs)
		}
	}
	if len(g.Tokenizer) == 0 || len(g.Logps) == 0 {
		t.Error("the golden file is empty")
	}
	bos, _ := tok.BOS()
	if tok.VocabSize() != 49152 || tok.EOS() != 2 || bos != 1 || tok.AddBOS() || tok.Pad() != 2 {
		t.Errorf("vocab %d, EOS %d, BOS %d (added: %t), pad %d", tok.VocabSize(), tok.EOS(), bos, tok.AddBOS(), tok.Pad())
	}
}

type peerAnswer struct {
	Encode, Plain [][]int32
	Decode, Raw   []string
	WithBOS       []int32
}

// peer asks Hugging Face tokenizers, which reads the file tok writes.
func peer(t *testing.T, tok *Tokenizer, texts []string, ids [][]int32) peerAnswer {
	t.Helper()
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import tokenizers").Run(); err != nil {
		t.Skipf("%s cannot import tokenizers (pip install tokenizers, or set GOBPO_PYTHON)", python)
	}
	in, err := json.Marshal(map[string]any{"tokenizer": tok, "texts": texts, "ids": ids})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/peer.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("peer.py: %v: %s", err, stderr.String())
	}
	var a peerAnswer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestPeer compares random texts and random ids with Hugging Face tokenizers, for each
// splitting rule, over SmolLM2's vocabulary (which lacks some bytes) and a small one.
func TestPeer(t *testing.T) {
	for i, rule := range []string{"gpt-2", "smollm", "llama-bpe", "qwen2"} {
		t.Run("small/"+rule, func(t *testing.T) {
			g := goldens(t)[i]
			comparePeer(t, mustHF(t, g.Tokenizer), 3000, uint64(i))
		})
		t.Run("SmolLM2/"+rule, func(t *testing.T) {
			meta := smolLM2(t)
			meta["tokenizer.ggml.pre"] = rule
			tok, err := FromGGUF(meta)
			if err != nil {
				t.Fatal(err)
			}
			comparePeer(t, tok, 3000, uint64(i))
			real := realText(t, 300<<10)
			for k, ids := range peer(t, tok, real, [][]int32{}).Encode {
				if got := tok.Encode(real[k]); !slices.Equal(got, ids) {
					t.Errorf("Encode(%q) = %v, Hugging Face says %v", real[k], got, ids)
				}
			}
			t.Logf("%d texts of ../shared/data compared", len(real))
		})
	}
	t.Run("words", func(t *testing.T) {
		tok, err := FromWords(strings.Fields("the quick brown fox doesn't jump over 12 lazy dogs é 東京 hel hello lo"))
		if err != nil {
			t.Fatal(err)
		}
		comparePeer(t, tok, 3000, 7)
	})
}

func comparePeer(t *testing.T, tok *Tokenizer, n int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	texts, ids := make([]string, n), make([][]int32, n)
	for i := range n {
		texts[i] = randomText(rng)
		ids[i] = make([]int32, rng.IntN(12))
		for j := range ids[i] {
			ids[i][j] = int32(rng.IntN(tok.VocabSize()))
			if rng.IntN(2) == 0 { // single bytes, to break characters
				ids[i][j] = max(0, tok.model.(*bpe).byteID[rng.IntN(256)])
			}
		}
	}
	a := peer(t, tok, texts, ids)
	wrong := 0
	check := func(what string, in any, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			if wrong++; wrong <= 5 {
				t.Errorf("%s(%q) = %q, Hugging Face says %q", what, in, fmt.Sprint(got), fmt.Sprint(want))
			}
		}
	}
	for i, s := range texts {
		check("Encode", s, tok.Encode(s), a.Encode[i])
		check("EncodePlain", s, tok.EncodePlain(s), a.Plain[i])
		check("Decode", ids[i], tok.Decode(ids[i]), a.Decode[i])
		check("DecodeRaw", ids[i], tok.DecodeRaw(ids[i]), a.Raw[i])
	}
	if bos, _ := tok.BOS(); tok.AddBOS() != (len(a.WithBOS) > 0 && a.WithBOS[0] == bos && len(tok.Encode("a")) < len(a.WithBOS)) {
		t.Errorf("AddBOS() = %t, Hugging Face encodes \"a\" as %v", tok.AddBOS(), a.WithBOS)
	}
	t.Logf("%d strings and %d id sequences: %d mismatches", n, n, wrong)
}

var fragments = strings.Split("the|The| the|hello|naïve|Straße|東京|مرحبا|नमस्ते|e\u0301|d\u0323|\u1100\u1161|'s|'S|'ll|'LL|'t|'re|'Ve|'m|'d|'ſ|'x|'"+
	"| |  |   |\n|\r\n|\n\n|\t|\u00a0|\u3000|\u2028|\u0085|\x0b|\x1c|\u200b|0|7|42|123|12345|½|٣|ⅷ|\U0001d7ce|.|,|!|?!|--|$|(|)|{}|_|#|\"|://"+
	"|🙂|👩\u200d👩\u200d👧|\ufffd|\u00ad|\x00|\x04|<|>|<|endoftext|>", "|")

// randomText mixes what splitting rules look at with characters from anywhere.
func randomText(rng *rand.Rand) string {
	var b strings.Builder
	specials := []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "<|im_"}
	for range rng.IntN(14) {
		switch rng.IntN(12) {
		case 0:
			r := rune(rng.IntN(utf8.MaxRune + 1))
			if utf8.ValidRune(r) {
				b.WriteRune(r)
			}
		case 1:
			b.WriteRune(rune(rng.IntN(0x3000)))
		case 2:
			b.WriteRune(rune(rng.IntN(128)))
		case 3:
			b.WriteString(specials[rng.IntN(len(specials))])
		default:
			b.WriteString(fragments[rng.IntN(len(fragments))])
		}
	}
	return b.String()
}
