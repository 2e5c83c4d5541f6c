// Package goldentest gives tests checkpoints of every architecture with what transformers computes on them: those of
// ../shared/goldens/hf beside the repository, if it is there, and smaller ones of its own (tools/goldens/hf.py) for
// settings that those do not have.
package goldentest

import (
	"embed"
	"encoding/json"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/weights"
)

//go:embed testdata/hf/*.json
var own embed.FS

// Case is one checkpoint, a Hugging Face directory, and what transformers makes of it in float32.
type Case struct {
	Name, Dir  string
	Adapter    string           // a PEFT directory; empty: none
	Tensors    map[string][]int // dimensions of all weights; nil: not recorded
	Rows       [][]int32
	Logps      [][]float32 `json:"next_token_logps"`      // [row][token], of the second token on
	LoRALogps  [][]float32 `json:"lora_next_token_logps"` // with the adapter
	Greedy     [][]int32
	LastLogits []float32 `json:"last_logits_row0"`
	Config     json.RawMessage
}

// All lists the cases, those of the repository itself first.
func All(t testing.TB) []Case {
	t.Helper()
	files, err := own.ReadDir("testdata/hf")
	check(t, err)
	var all []Case
	for _, f := range files {
		raw, err := own.ReadFile(path.Join("testdata/hf", f.Name()))
		check(t, err)
		c := Case{Name: strings.TrimSuffix(f.Name(), ".json"), Dir: t.TempDir()}
		check(t, json.Unmarshal(raw, &c))
		set := map[string]*tensors.Tensor{}
		for name, dims := range c.Tensors {
			set[name] = numbers(name, dims, strings.HasPrefix(c.Name, "gemma"))
		}
		check(t, os.WriteFile(filepath.Join(c.Dir, "config.json"), c.Config, 0o644))
		check(t, weights.Write(filepath.Join(c.Dir, "model.safetensors"), set, nil))
		all = append(all, c)
	}
	return append(all, Shared(t)...)
}

// Shared lists the cases of ../shared/goldens/hf; none, with a word in the log, where it is absent.
func Shared(t testing.TB) []Case {
	t.Helper()
	dir, err := os.Getwd()
	check(t, err)
	var all []Case
	for ; len(all) == 0 && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		files, err := fs.Glob(os.DirFS(dir), "shared/goldens/hf/*/expected.json")
		check(t, err)
		for _, f := range files {
			c := Case{Dir: filepath.Dir(filepath.Join(dir, f))}
			raw, err := os.ReadFile(filepath.Join(dir, f))
			check(t, err)
			check(t, json.Unmarshal(raw, &c))
			c.Name, c.Adapter = "shared-"+filepath.Base(c.Dir), filepath.Join(c.Dir, "lora")
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		t.Log("no shared/goldens/hf beside the repository")
	}
	return all
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// numbers makes a weight of its name, as tools/goldens/hf.py does: uniform in its places' hash; norms' weights around
// what they start as.
func numbers(name string, dims []int, gemma bool) *tensors.Tensor {
	n := 1
	for _, d := range dims {
		n *= d
	}
	flat, seed := make([]float32, n), crc32.ChecksumIEEE([]byte(name))
	for i := range flat {
		x := uint32(i)*2654435761 + seed
		x = (x ^ x>>16) * 2246822519
		x = (x ^ x>>13) * 3266489917
		x ^= x >> 16
		u := float64(x)/(1<<32) - 0.5
		switch {
		case len(dims) > 1:
			u = u * 4 / math.Sqrt(float64(dims[len(dims)-1]))
		case strings.HasSuffix(name, "weight") && !gemma:
			u++
		}
		flat[i] = float32(u)
	}
	return tensors.FromFlatDataAndDimensions(flat, dims...)
}
