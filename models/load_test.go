package models

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/weights"
)

func TestSaveAndLoad(t *testing.T) {
	for _, tied := range []bool{false, true} {
		c := tiny
		c.TieEmbeddings = tied
		m := &Model{Config: c, Base: lively(c, 3)}
		dir := t.TempDir()
		if err := m.Save(dir); err != nil {
			t.Fatal(err)
		}
		back, err := Load(dir, dtypes.Float32)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back.Config, c) || back.Base.Hash() != m.Base.Hash() || back.Tokenizer != nil {
			t.Errorf("came back as %+v", back.Config)
		}
		half, err := Load(dir, dtypes.BFloat16)
		if err != nil {
			t.Fatal(err)
		}
		again := t.TempDir()
		if err := half.Save(again); err != nil {
			t.Fatal(err)
		}
		if both, err := Load(again, dtypes.BFloat16); err != nil || both.Base.Hash() != half.Base.Hash() {
			t.Errorf("bfloat16: %v", err)
		}
	}
	a := livelyAdapter(tiny, LoRA{Rank: 2, Alpha: 3, Dropout: 0.1, Targets: []string{"k_proj", "model.layers.1.mlp.up_proj"}}, 1)
	if len(a.Weights) != 6 {
		t.Errorf("%d adapter tensors, want 6: %v", len(a.Weights), a.Weights.Names())
	}
	dir := t.TempDir()
	if err := a.Save(dir, ""); err != nil {
		t.Fatal(err)
	}
	back, err := LoadAdapter(dir, tiny)
	if err != nil {
		t.Fatal(err)
	}
	if back.Weights.Hash() != a.Weights.Hash() || !reflect.DeepEqual(back.LoRA, a.LoRA) {
		t.Errorf("adapter came back as %+v", back.LoRA)
	}
}

func TestLoadListsTensors(t *testing.T) {
	dir := t.TempDir()
	if err := (&Model{Config: tiny, Base: lively(tiny, 3)}).Save(dir); err != nil {
		t.Fatal(err)
	}
	w := maps.Clone(lively(tiny, 3))
	delete(w, "model.norm.weight")
	w["model.layers.0.self_attn.q_proj.bias"] = tensors.FromScalarAndDimensions(float32(0), 16)
	w["model.embed_tokens.weight"] = tensors.FromScalarAndDimensions(float32(0), 36, 16)
	if err := weights.Write(filepath.Join(dir, "model.safetensors"), w, nil); err != nil {
		t.Fatal(err)
	}
	_, err := Load(dir, dtypes.Float32)
	for _, want := range []string{"missing (1): model.norm.weight", "q_proj.bias", "[36 16]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not have %q", err, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "nowhere"), dtypes.Float32); err == nil {
		t.Error("no error for a path that does not exist")
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, dtypes.Float32); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("broken config.json: %v", err)
	}
	if _, err := Load(dir, dtypes.Int32); err == nil {
		t.Error("no error for int32 weights")
	}
}

func TestLoRAValidate(t *testing.T) {
	for _, l := range []LoRA{{Rank: 0, Alpha: 1, Targets: []string{AllLinear}}, {Rank: 1, Targets: []string{AllLinear}}, {Rank: 1, Alpha: 1},
		{Rank: 1, Alpha: 1, Targets: []string{"qproj"}}, {Rank: 1, Alpha: 1, Dropout: 1, Targets: []string{AllLinear}}} {
		if l.Validate() == nil {
			t.Errorf("%+v is accepted", l)
		}
	}
	if err := tinyLoRA.Validate(); err != nil {
		t.Error(err)
	}
}

// unpermute undoes what llama.cpp's converter does: reshape(heads, 2, dim/2, in).swapaxes(1, 2).
func TestUnpermute(t *testing.T) {
	const heads, dim, in = 3, 8, 5
	rng := rand.New(rand.NewPCG(1, 1))
	hf := make([]float32, heads*dim*in)
	gguf := make([]float32, len(hf))
	for i := range hf {
		hf[i] = rng.Float32()
	}
	for h := range heads {
		for part := range 2 {
			for j := range dim / 2 {
				for i := range in {
					gguf[((h*dim/2+j)*2+part)*in+i] = hf[((h*2+part)*dim/2+j)*in+i]
				}
			}
		}
	}
	raw := dtypes.UnsafeByteSliceFromAny(gguf)
	if err := unpermute(raw, []int{heads * dim, in}, heads); err != nil {
		t.Fatal(err)
	}
	wantClose(t, "rows", gguf, hf, 0)
	if err := unpermute(raw, []int{heads * dim, in}, 5); err == nil {
		t.Error("24 rows do not split into 5 heads")
	}
}

func TestInitIsReproducible(t *testing.T) {
	a, b := InitWeights(tiny, 1), InitWeights(tiny, 1)
	if a.Hash() != b.Hash() || a.Hash() == InitWeights(tiny, 2).Hash() {
		t.Error("the seed does not decide the weights")
	}
	if a.NumParams() != 2*37*16+16+2*(2*16+16*16*2+8*16*2+3*16*24) {
		t.Errorf("%d parameters", a.NumParams())
	}
}

// What says that a model or an adapter is there comes last: a kill while weights are written leaves neither.
func TestSavesItsConfigLast(t *testing.T) {
	for file, save := range map[string]func(dir string) error{
		"model.safetensors":         (&Model{Config: tiny, Base: lively(tiny, 3)}).Save,
		"adapter_model.safetensors": func(dir string) error { return livelyAdapter(tiny, tinyLoRA, 1).Save(dir, "base") },
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, file, "in the way"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := save(dir); err == nil {
			t.Errorf("%s: written over a directory", file)
		}
		if _, err := ReadConfig(dir); err == nil || IsAdapter(dir) {
			t.Errorf("%s: %s holds a model", file, dir)
		}
	}
}
