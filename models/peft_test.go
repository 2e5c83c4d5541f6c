package models

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"gobpo/models/backend/backendtest"
)

// The rules of PEFT 0.21's get_pattern_key and LoraLayer.update_layer, by hand.
func TestRankAndScale(t *testing.T) {
	l := LoRA{Rank: 8, Alpha: 16, Targets: []string{AllLinear},
		RankPattern:  map[string]int{"k_proj": 4, `model\.layers\.1\..*_proj`: 2, "model(?!.*q_proj).*self_attn.*": 32},
		AlphaPattern: map[string]float64{"layers.0.mlp.up_proj": 1, "proj": 99}} // the last fits no whole part of a path
	for _, c := range []struct {
		layer string
		rank  int
		alpha float64
	}{
		{"model.layers.0.self_attn.q_proj", 8, 16},
		{"model.layers.0.self_attn.k_proj", 4, 16}, // the first in sorted order of two
		{"model.layers.0.self_attn.v_proj", 32, 16},
		{"model.layers.1.self_attn.q_proj", 2, 16},
		{"model.layers.1.self_attn.v_proj", 32, 16},
		{"model.layers.0.mlp.up_proj", 8, 1},
		{"model.layers.10.mlp.up_proj", 8, 16},
	} {
		rank, scale := l.At(c.layer + ".weight")
		if rank != c.rank || scale != c.alpha/float64(c.rank) {
			t.Errorf("%s: rank %d, scale %g; want %d, %g", c.layer, rank, scale, c.rank, c.alpha/float64(c.rank))
		}
	}
	plain := LoRA{Rank: 4, Alpha: 6, RSLoRA: true}
	if _, scale := plain.At("q_proj"); scale != 3 {
		t.Errorf("rank-stabilised scale is %g, want 6/√4", scale)
	}
	other := plain
	other.AlphaPattern = map[string]float64{"q_proj": 7}
	if plain.Key() == other.Key() || plain.Key() == (LoRA{Rank: 4, Alpha: 6}).Key() {
		t.Error("adapters of other scales share their compiled functions")
	}
}

func TestLoRACheck(t *testing.T) {
	gpt2 := Config{Architecture: "gpt2", VocabSize: 8, HiddenSize: 8, IntermediateSize: 8, NumLayers: 1, NumHeads: 2, NumKVHeads: 2, HeadDim: 4, MaxPositions: 8}
	for _, c := range []struct {
		config Config
		change func(*LoRA)
		want   string
	}{
		{tiny, func(l *LoRA) {}, ""},
		{tiny, func(l *LoRA) { l.Targets = []string{"c_attn"} }, `targets: "c_attn" is no layer of this llama model, whose layers are q_proj, `},
		{gpt2, func(l *LoRA) { l.Targets = []string{"c_attn"} }, ""},
		{tiny, func(l *LoRA) { l.Targets = []string{"q_prj"} }, `targets: "q_prj" is not one of`},
		{tiny, func(l *LoRA) { l.RankPattern = map[string]int{"q_proj": 3, "lm_head": 3} }, `rank_pattern: "lm_head" fits none`},
		{tiny, func(l *LoRA) { l.Targets, l.AlphaPattern = []string{"q_proj"}, map[string]float64{"k_proj": 3} }, `alpha_pattern: "k_proj" fits none`},
		{tiny, func(l *LoRA) { l.RankPattern = map[string]int{"q_proj": 0} }, `rank_pattern: "q_proj" is 0, must be at least 1`},
		{tiny, func(l *LoRA) { l.AlphaPattern = map[string]float64{"q_proj": 0} }, `alpha_pattern: "q_proj" is 0, must be positive`},
		{tiny, func(l *LoRA) { l.RankPattern = map[string]int{"(": 1} }, `rank_pattern: "(" is not a regular expression`},
	} {
		l := LoRA{Rank: 2, Alpha: 4, Targets: []string{AllLinear}}
		c.change(&l)
		err := l.Check(c.config)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", l, err, c.want)
		}
	}
}

// Which layers PEFT's check_target_module_exists picks.
func TestPEFTTargets(t *testing.T) {
	var all []string
	for _, lin := range tiny.Linears() {
		all = append(all, moduleOf(lin.Name))
	}
	in := func(parts ...string) (out []string) {
		for _, path := range all {
			if slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(path, p) }) {
				out = append(out, path)
			}
		}
		return out
	}
	for _, c := range []struct {
		keys string
		want []string
	}{
		{`"target_modules": ["q_proj", "mlp.up_proj", "query"]`, in("q_proj", "up_proj")},
		{`"target_modules": "all-linear"`, all},
		{`"target_modules": "ALL-LINEAR", "exclude_modules": ["down_proj"]`, in("self_attn", "gate_proj", "up_proj")},
		{`"target_modules": "model\\.layers\\.1\\..*_proj"`, in("layers.1.")},
		{`"target_modules": "(?!.*mlp).*_proj"`, in("self_attn")},
		{`"target_modules": ".*(q|v)_proj", "exclude_modules": ".*layers\\.0.*"`, []string{"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}},
		{`"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1]`, []string{"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj"}},
		{`"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"`, []string{"model.layers.0.self_attn.q_proj"}},
		{`"target_modules": ["q_proj", "model.layers.1.mlp.up_proj"], "layers_to_transform": [0], "layers_pattern": ["layers"]`,
			[]string{"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"}}, // a whole path counts in any layer
		{`"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h"]`, nil},
		{`"target_modules": "q_proj"`, nil}, // an expression is for the whole path
	} {
		p, err := parsePEFT([]byte(`{"peft_type": "LORA", "r": 2, "lora_alpha": 4, ` + c.keys + `}`))
		if err != nil {
			t.Fatalf("%s: %v", c.keys, err)
		}
		l, err := p.lora(tiny)
		if (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v", c.keys, err)
			continue
		}
		var got []string
		for _, lin := range tiny.Linears() {
			if err == nil && l.on(lin) {
				got = append(got, moduleOf(lin.Name))
			}
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s: %v, want %v", c.keys, got, c.want)
		}
	}
}

func TestPEFTRefuses(t *testing.T) {
	for keys, want := range map[string]string{
		`"use_dora": true`:                                    "use_dora: true is not supported",
		`"peft_type": "LOHA"`:                                 `peft_type: "LOHA" is not supported`,
		`"bias": "lora_only"`:                                 `bias: "lora_only" is not supported`,
		`"modules_to_save": ["lm_head"]`:                      `modules_to_save: ["lm_head"] is not supported`,
		`"target_parameters": ["x"]`:                          "target_parameters",
		`"trainable_token_indices": [1]`:                      "trainable_token_indices",
		`"layer_replication": [[0, 1]]`:                       "layer_replication",
		`"target_modules": ["lm_head"]`:                       "target_modules: none of the llama model's layers is meant by lm_head",
		`"target_modules": null`:                              "target_modules: empty",
		`"target_modules": "("`:                               "is not a regular expression",
		`"r": 0`:                                              "rank: 0",
		`"target_modules": "x.*", "layers_to_transform": [1]`: "layers_to_transform: target_modules must be a list",
		`"alpha_pattern": {"q_proj": 1, "k_proj": 2}`:         "alpha_pattern: its keys are not in sorted order",
	} {
		all := map[string]json.RawMessage{}
		for _, text := range []string{`{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}`, "{" + keys + "}"} {
			if err := json.Unmarshal([]byte(text), &all); err != nil {
				t.Fatal(err)
			}
		}
		raw, _ := json.Marshal(all)
		p, err := parsePEFT(raw)
		if err == nil {
			_, err = p.lora(tiny)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", keys, err, want)
		}
	}
}

func TestLoadAdapterRefusesFiles(t *testing.T) {
	for _, name := range []string{"adapter_model.bin", "adapter_model.safetensors.index.json"} {
		dir := t.TempDir()
		if err := livelyAdapter(tiny, tinyLoRA, 1).Save(dir, "base"); err != nil {
			t.Fatal(err)
		}
		if base, _, err := AdapterBase(dir); base != "base" || err != nil {
			t.Errorf("base %q, %v", base, err)
		}
		if err := os.Rename(filepath.Join(dir, adapterWeightsFile), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadAdapter(dir, tiny); err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Patterns and rank stabilisation survive being saved, and score, fold and merge with each layer's own scale.
func TestPatternsEverywhere(t *testing.T) {
	l := LoRA{Rank: 2, Alpha: 4, Targets: []string{AllLinear}, RSLoRA: true,
		RankPattern: map[string]int{"q_proj": 3, "layers.1.mlp.down_proj": 1}, AlphaPattern: map[string]float64{"up_proj": 9}}
	a := livelyAdapter(tiny, l, 1)
	dir := t.TempDir()
	if err := a.Save(dir, ""); err != nil {
		t.Fatal(err)
	}
	back, err := LoadAdapter(dir, tiny)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.LoRA, l) || back.Weights.Hash() != a.Weights.Hash() {
		t.Errorf("came back as %+v", back.LoRA)
	}
	b := backendtest.Go(t)
	base := lively(tiny, 1)
	tokens := []int32{3, 1, 4, 1, 5, 9, 2, 6}
	p := Policy{Base: base, Adapter: a}
	want := lastLogits(t, b, tiny, p, tokens)
	folded, err := Fold(b, p)
	if err != nil {
		t.Fatal(err)
	}
	wantClose(t, "fold", lastLogits(t, b, tiny, folded, tokens), want, 1e-3)
	mean, err := Merge("mean_delta", []*Adapter{a, back}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := mean.Check(tiny); err != nil {
		t.Fatal(err)
	}
	wantClose(t, "mean_delta of copies", lastLogits(t, b, tiny, Policy{Base: base, Adapter: mean}, tokens), want, 1e-3)
	// One delta by hand: the dense weight is W + 9/√2·BA for up_proj, W + 4/√3·BA for q_proj.
	for module, scale := range map[string]float64{"mlp.up_proj": 9 / math.Sqrt2, "self_attn.q_proj": 4 / math.Sqrt(3), "mlp.down_proj": 4} {
		name := fmt.Sprintf("model.layers.1.%s.weight", module)
		if _, got := a.LoRA.At(name); math.Abs(got-scale) > 1e-12 {
			t.Errorf("%s: scale %g, want %g", name, got, scale)
		}
	}
	if got := a.Weights["model.layers.1.mlp.down_proj.lora_A.weight"].Shape(); got.DType != dtypes.Float32 || got.Dim(0) != 1 {
		t.Errorf("down_proj's A is %s", got)
	}
}

func FuzzPEFTConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "rank_pattern": {"k": 3}}`))
	f.Add([]byte(`{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "(?!x).*", "layers_to_transform": null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := parsePEFT(raw)
		if err != nil {
			return
		}
		if l, err := p.lora(tiny); err == nil && l.Validate() != nil {
			t.Errorf("accepted %+v: %v", l, l.Validate())
		}
	})
}
