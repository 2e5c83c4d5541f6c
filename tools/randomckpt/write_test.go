package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models"
)

func TestCheckpointLoads(t *testing.T) {
	hashes := map[string]string{}
	for _, c := range []checkpoint{
		{like: "llama-tiny", dtype: "float32", shardMB: 1 << 10, seed: 1},
		{like: "llama-tiny", dtype: "float32", shardMB: 0, seed: 1}, // a shard for every tensor
		{like: "llama-tiny", dtype: "float32", shardMB: 1 << 10, seed: 2},
		{like: "llama-tiny", dtype: "bfloat16", shardMB: 1 << 10, seed: 1},
		{like: "llama-tiny", dtype: "float16", shardMB: 1 << 10, seed: 1},
	} {
		c.dir = t.TempDir()
		total, err := c.write()
		if err != nil {
			t.Fatal(err)
		}
		m, err := models.Load(c.dir, dtypes.Float32)
		if err != nil {
			t.Fatal(err)
		}
		width := map[string]int64{"float32": 4, "bfloat16": 2, "float16": 2}[c.dtype]
		if n := int64(m.Base.NumParams()); n*width != total {
			t.Errorf("%+v: %d bytes for %d numbers", c, total, n)
		}
		if m.Tokenizer == nil || m.Tokenizer.VocabSize() != m.Config.VocabSize || m.Tokenizer.Token(1999) != "unused1999" || len(m.Stop()) != 1 || m.Stop()[0] != m.Tokenizer.EOS() {
			t.Errorf("%+v: stops at %v", c, m.Stop())
		}
		hashes[c.dtype+string(rune('0'+c.seed))+map[bool]string{true: "sharded"}[c.shardMB == 0]] = m.Base.Hash()
		for name, want := range map[string]float64{"model.embed_tokens.weight": 0.002, "model.layers.1.mlp.up_proj.weight": 0.02} {
			var sum, squares float64
			values := tensors.MustCopyFlatData[float32](m.Base[name])
			for _, x := range values {
				sum, squares = sum+float64(x), squares+float64(x*x)
			}
			n := float64(len(values))
			if mean, std := sum/n, math.Sqrt(squares/n); math.Abs(mean) > want/20 || math.Abs(std-want) > want/20 {
				t.Errorf("%+v: %s: mean %g, deviation %g, want 0 and %g", c, name, mean, std, want)
			}
		}
		if norm := tensors.MustCopyFlatData[float32](m.Base["model.norm.weight"]); norm[0] != 1 {
			t.Errorf("%+v: a norm of %g", c, norm[0])
		}
	}
	if hashes["float321"] != hashes["float321sharded"] {
		t.Error("shards change the weights")
	}
	if hashes["float321"] == hashes["float322"] {
		t.Error("the seed does not")
	}
}

func TestCheckpointIsReproducible(t *testing.T) {
	var files [2][]byte
	for i := range files {
		c := checkpoint{like: "llama-tiny", dtype: "bfloat16", shardMB: 1, dir: t.TempDir()}
		if _, err := c.write(); err != nil {
			t.Fatal(err)
		}
		var err error
		if files[i], err = os.ReadFile(filepath.Join(c.dir, "model.safetensors")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("two runs differ")
	}
}

func TestRefuses(t *testing.T) {
	for want, c := range map[string]checkpoint{
		`--like: "x"`:  {like: "x", dtype: "float32"},
		`--dtype: "y"`: {like: "llama-tiny", dtype: "y"},
	} {
		c.dir = t.TempDir()
		if _, err := c.write(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
