package models

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"gobpo/models/backend/backendtest"
	"gobpo/models/goldentest"
	"gobpo/models/weights"
)

// configs are the config.json files of goldentest, by case.
func configs(t testing.TB) map[string]json.RawMessage {
	t.Helper()
	all := map[string]json.RawMessage{}
	for _, g := range goldentest.All(t) {
		raw, err := os.ReadFile(filepath.Join(g.Dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		all[g.Name] = raw
	}
	return all
}

// edited sets keys of a config.json, or deletes those that are to be absent.
func edited(t testing.TB, raw []byte, keys map[string]any) []byte {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for k, v := range keys {
		if all[k] = v; v == absent {
			delete(all, k)
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const absent = "(absent)"

type object = map[string]any

// Everything in config.json that would change the maths and is not understood is refused by name.
func TestConfigRefuses(t *testing.T) {
	files := configs(t)
	for _, tc := range []struct {
		file, key string
		value     any
		want      string // in the error
	}{
		{"llama-linear", "model_type", "bert", `model_type: "bert" is not supported (one of gemma, gemma2, gpt2, gpt_neox, llama, mistral, phi3, qwen2, qwen3)`},
		{"llama-linear", "sliding_window", 4096, "sliding_window: 4096 is not supported"},
		{"llama-linear", "quantization_config", object{"bits": 4}, `quantization_config: {"bits":4} is not supported`},
		{"llama-linear", "logit_scale", 2, "logit_scale: 2 is not supported"},
		{"llama-linear", "partial_rotary_factor", 0.5, "partial_rotary_factor: 0.5 is not supported"},
		{"llama-linear", "hidden_act", "quick_gelu", `hidden_act: "quick_gelu" is not supported (one of gelu, gelu_fast, gelu_new, gelu_pytorch_tanh, relu, silu)`},
		{"llama-linear", "vocab_size", "many", `vocab_size: "many" is not an integer`},
		{"llama-linear", "hidden_size", 0, "hidden_size is 0, must be positive"},
		{"llama-linear", "num_hidden_layers", absent, "num_hidden_layers is 0, must be positive"},
		{"llama-linear", "num_key_value_heads", 3, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"},
		{"llama-linear", "head_dim", 5, "head_dim: 5 rotary features"},
		{"llama-linear", "rms_norm_eps", 0, "rms_norm_eps is 0, must be positive"},
		{"llama-linear", "mlp_bias", 1, "mlp_bias: 1 is not true or false"},
		{"llama-linear", "rope_theta", -1, "rope_theta is -1, must be positive"},
		{"llama-linear", "rope_scaling", object{"type": "ntk", "factor": 2}, `rope_scaling: rope_type: "ntk" is not supported here (default, linear, dynamic, yarn, llama3)`},
		{"llama-linear", "rope_scaling", object{"type": "linear"}, "rope_scaling: factor is missing, rope_type linear needs it"},
		{"llama-linear", "rope_scaling", object{"type": "linear", "factor": 0}, "factor is 0, must be positive"},
		{"llama-linear", "rope_scaling", object{"type": "linear", "factor": "2"}, `rope_scaling: factor: "2" is not a number`},
		{"llama-linear", "rope_scaling", object{"type": "linear", "factor": 2, "beta_fast": 4}, "rope_scaling: beta_fast: 4 is not supported"},
		{"llama-linear", "rope_scaling", object{"mrope_section": []int{1, 2}}, "rope_scaling: mrope_section: [1,2] is not supported"},
		{"llama-linear", "rope_scaling", 3, "rope_scaling: 3 is not an object"},
		{"llama-linear", "rope_parameters", object{"rope_type": "default"}, "rope_scaling: given beside rope_parameters"},
		{"llama-llama3", "rope_scaling", object{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}, "rope_scaling: high_freq_factor is missing"},
		{"llama-llama3", "rope_scaling", object{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}, "low_freq_factor 4 must be positive and below high_freq_factor 4"},
		{"llama-yarn", "rope_scaling", object{"rope_type": "yarn"}, "factor is missing"},
		{"qwen2-yarn", "rope_parameters", object{"rope_type": "longrope"}, `rope_parameters: rope_type: "longrope" is not supported here`},
		{"qwen2-yarn", "rope_parameters", object{"full_attention": object{}}, "rope_parameters: full_attention: {} is not supported"},
		{"mistral-window", "layer_types", []string{"full_attention"}, "layer_types"},
		{"mistral-window", "sliding_window", 0, "sliding_window is 0, must be positive or null"},
		{"mistral-window", "attention_bias", true, "attention_bias: true is not supported"},
		{"qwen2-window", "layer_types", []string{"full_attention"}, "layer_types has 1 entries, num_hidden_layers is 3"},
		{"qwen3-window", "layer_types", []string{"full_attention", "chunked_attention"}, `layer_types: "chunked_attention" is not supported`},
		{"qwen3-window", "use_sliding_window", false, "layer_types: layer 0 is sliding_attention, but no sliding_window is in use"},
		{"gemma-legacy", "use_bidirectional_attention", true, "use_bidirectional_attention: true is not supported"},
		{"gemma-legacy", "hidden_activation", "silu", `hidden_activation: "silu" is not the "gelu_pytorch_tanh" given elsewhere`},
		{"gemma2-window", "query_pre_attn_scalar", 0, "query_pre_attn_scalar is 0, must be positive"},
		{"gemma2-window", "sliding_window", nil, "sliding_window is null, but without layer_types every other layer slides"},
		{"gpt2-inner", "scale_attn_weights", false, "scale_attn_weights: false is not supported (only true)"},
		{"gpt2-inner", "scale_attn_by_inverse_layer_idx", true, "scale_attn_by_inverse_layer_idx: true is not supported"},
		{"gpt2-inner", "add_cross_attention", true, "add_cross_attention: true is not supported"},
		{"gpt2-inner", "n_head", 3, "n_embd 16 is not a multiple of n_head 3"},
		{"gpt2-inner", "rope_theta", 1000, "rope_theta: 1000 is not supported"},
		{"gpt_neox-sequential", "rotary_pct", 0.75, "3 rotary features of a head, must be even"},
		{"gpt_neox-sequential", "rotary_pct", 0, "rotary_pct: 0 leaves no rotary features"},
		{"gpt_neox-sequential", "num_key_value_heads", 2, "num_key_value_heads: 2 is not supported"},
		{"phi3-window", "rope_scaling", object{"type": "yarn", "factor": 2}, `rope_type: "yarn" is not supported here (default, longrope)`},
		{"phi3-longrope", "rope_scaling", object{"type": "longrope", "short_factor": []int{1}, "long_factor": []int{1}}, "short_factor has 1 numbers, must have 2"},
		{"phi3-longrope", "rope_scaling", object{"type": "longrope", "short_factor": []int{1, 2}}, "long_factor is missing"},
	} {
		_, err := parseHFConfig(edited(t, files[tc.file], object{tc.key: tc.value}))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s with %s = %v: error is %v, want %q", tc.file, tc.key, tc.value, err, tc.want)
		}
	}
	if _, err := parseHFConfig([]byte("[]")); err == nil {
		t.Error("a list passes for a config.json")
	}
}

// What changes nothing passes, what transformers would fill in is filled in, and old and new spellings mean the same.
func TestConfigReads(t *testing.T) {
	files := configs(t)
	for _, tc := range []struct {
		file string
		keys object
		want func(c *Config) // what differs from the case's own
	}{
		{"llama-linear", object{"rope_interleaved": false, "sliding_window": nil, "attention_dropout": 0.1, "torch_dtype": "bfloat16"}, func(*Config) {}},
		{"llama-linear", object{"rope_scaling": nil, "rope_theta": absent, "rope_parameters": object{"rope_type": "linear", "factor": 4, "rope_theta": 10000}}, func(*Config) {}},
		{"llama-linear", object{"rope_scaling": nil}, func(c *Config) { c.Rope = Rope{} }},
		{"llama-linear", object{"num_key_value_heads": nil, "max_position_embeddings": absent, "rms_norm_eps": absent, "hidden_act": absent, "attention_bias": absent},
			func(c *Config) { c.NumKVHeads, c.MaxPositions, c.RMSNormEps, c.AttentionBias = 4, 2048, 1e-6, false }},
		{"llama-yarn", object{"rope_scaling": object{"type": "yarn", "factor": 4, "original_max_position_embeddings": 16, "beta_fast": 2, "beta_slow": 0.25}}, func(*Config) {}},
		{"mistral-window", object{"sliding_window": nil}, func(c *Config) { c.Window = 0 }},
		{"mistral-window", object{"sliding_window": absent}, func(c *Config) { c.Window = 4096 }},
		{"qwen2-window", object{"layer_types": []string{full, sliding, sliding}}, func(*Config) {}},
		{"qwen2-window", object{"max_window_layers": absent}, func(c *Config) { c.Window, c.Sliding = 0, nil }},
		{"qwen2-window", object{"max_window_layers": 0}, func(c *Config) { c.Sliding = nil }},
		{"qwen2-window", object{"use_sliding_window": false}, func(c *Config) { c.Window, c.Sliding = 0, nil }},
		{"gemma-legacy", object{"hidden_act": "gelu_pytorch_tanh", "hidden_activation": nil}, func(*Config) {}},
		{"gemma-legacy", object{"head_dim": absent, "tie_word_embeddings": absent}, func(c *Config) { c.HeadDim = 256 }},
		{"gemma2-window", object{"layer_types": []string{sliding, full, sliding}, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}, func(*Config) {}},
		{"gemma2-window", object{"attn_logit_softcapping": nil, "final_logit_softcapping": absent}, func(c *Config) { c.AttentionCap, c.LogitCap = 0, 30 }},
		{"gpt2-inner", object{"n_inner": nil, "activation_function": absent, "n_ctx": 64, "summary_type": "cls_index", "scale_attn_weights": true},
			func(c *Config) { c.IntermediateSize, c.Activation = 64, "gelu_new" }},
		{"gpt_neox-sequential", object{"rotary_pct": absent, "rotary_emb_base": absent, "use_parallel_residual": absent, "head_dim": nil, "num_attention_heads": 2},
			func(c *Config) {
				c.NumHeads, c.NumKVHeads, c.HeadDim, c.RotaryDim, c.RopeTheta, c.ParallelResidual = 2, 2, 8, 2, 10000, true
			}},
		{"phi3-window", object{"partial_rotary_factor": absent, "auto_map": object{"AutoConfig": "x"}}, func(c *Config) { c.RotaryDim = 0 }},
	} {
		want, err := parseHFConfig(files[tc.file])
		if err != nil {
			t.Fatal(err)
		}
		tc.want(&want)
		got, err := parseHFConfig(edited(t, files[tc.file], tc.keys))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s with %v: %v\n got %+v\nwant %+v", tc.file, tc.keys, err, got, want)
		}
	}
}

// A configuration survives being written; a model that was loaded keeps its own file but for the dtype.
func TestConfigComesBack(t *testing.T) {
	for _, g := range goldentest.All(t) {
		m, err := Load(g.Dir, dtypes.BFloat16)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := m.Config.hfJSON("float32")
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseHFConfig(raw); err != nil || !reflect.DeepEqual(back, m.Config) {
			t.Errorf("%s: %v\n got %+v\nwant %+v\n%s", g.Name, err, back, m.Config, raw)
		}
		dir := t.TempDir()
		if err := m.Save(dir); err != nil {
			t.Fatal(err)
		}
		var was, is object
		readJSON(t, filepath.Join(g.Dir, "config.json"), &was)
		readJSON(t, filepath.Join(dir, "config.json"), &is)
		for _, keys := range []object{was, is} {
			delete(keys, "dtype")
			delete(keys, "torch_dtype")
		}
		if !reflect.DeepEqual(was, is) {
			t.Errorf("%s: config.json became %v, was %v", g.Name, is, was)
		}
		m.Config.RMSNormEps = 0.25 // no longer what the file says
		if raw, err = m.configJSON("bfloat16"); err != nil {
			t.Fatal(err)
		}
		if back, err := parseHFConfig(raw); err != nil || !reflect.DeepEqual(back, m.Config) {
			t.Errorf("%s: %v: a changed configuration came back as %+v", g.Name, err, back)
		}
		m.Base.Finalize()
	}
}

// transformers reads what is written for every family, and computes the same with it.
func TestTransformersReadsConfigs(t *testing.T) {
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		t.Skip("set GOBPO_PYTHON to a Python with torch and transformers")
	}
	if err := exec.Command(python, "-c", "import torch, transformers").Run(); err != nil {
		t.Skipf("%s lacks torch or transformers: %v", python, err)
	}
	var cases []goldentest.Case
	args := []string{filepath.Join("..", "tools", "goldens", "hf.py"), "score", filepath.Join(t.TempDir(), "rows.json")}
	for _, g := range goldentest.All(t) {
		if g.Tensors == nil {
			continue
		}
		m, err := Load(g.Dir, dtypes.Float32)
		if err != nil {
			t.Fatal(err)
		}
		m.configFile = nil // write a new one
		dir := t.TempDir()
		if err := m.Save(dir); err != nil {
			t.Fatal(err)
		}
		cases, args = append(cases, g), append(args, dir)
	}
	rows, err := json.Marshal(cases[0].Rows)
	if err == nil {
		err = os.WriteFile(args[2], rows, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(context.Background(), python, args...).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
	}
	var got [][][]float32
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for i, g := range cases {
		for row := range g.Rows {
			wantClose(t, g.Name, got[i][row], g.Logps[row], 1e-5)
		}
	}
}

// Checkpoints of the bare model (GPT-2's first release) lack the root of the names and have buffers.
func TestTensorNames(t *testing.T) {
	for _, tc := range []struct {
		c     Config
		names []string
		want  map[string]string
	}{
		{Config{Architecture: "gpt2", TieEmbeddings: true}, []string{"wte.weight", "h.0.attn.bias", "h.0.attn.c_attn.bias", "h.0.attn.masked_bias", "lm_head.weight"},
			map[string]string{"wte.weight": "transformer.wte.weight", "h.0.attn.c_attn.bias": "transformer.h.0.attn.c_attn.bias"}},
		{Config{Architecture: "llama"}, []string{"model.norm.weight", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"},
			map[string]string{"model.norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}},
		{Config{Architecture: "llama", TieEmbeddings: true}, []string{"model.norm.weight", "lm_head.weight", "extra"},
			map[string]string{"model.norm.weight": "model.norm.weight", "extra": "extra"}},
		{Config{Architecture: "gpt_neox"}, []string{"embed_out.weight", "gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.dense.bias"},
			map[string]string{"embed_out.weight": "embed_out.weight", "gpt_neox.layers.0.attention.dense.bias": "gpt_neox.layers.0.attention.dense.bias"}},
	} {
		if got := tc.c.tensorNames(tc.names); !maps.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.c.Architecture, got, tc.want)
		}
	}
}

// Missing, unknown and misshapen tensors are listed for every family, before any is read.
func TestFamiliesListTensors(t *testing.T) {
	for _, g := range goldentest.All(t) {
		if g.Tensors == nil {
			continue
		}
		m, err := Load(g.Dir, dtypes.Float32)
		if err != nil {
			t.Fatal(err)
		}
		f := m.Config.family()
		gone, wrong := f.finalName(), f.weight(1, f.out)
		w := maps.Clone(m.Base)
		delete(w, gone)
		w[wrong], w[f.weight(0, "extra")] = w[f.embedName()], w[f.embedName()]
		if err := weights.Write(filepath.Join(g.Dir, "model.safetensors"), w, nil); err != nil {
			t.Fatal(err)
		}
		_, err = Load(g.Dir, dtypes.Float32)
		for _, want := range []string{"missing (1): " + gone, "not used by this architecture (1): " + f.weight(0, "extra"), "wrong shape (1): " + wrong} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v lacks %q", g.Name, err, want)
			}
		}
	}
}

// A fresh model of every family has the right tensors and computes; norms and biases start as transformers starts them.
func TestInitFamilies(t *testing.T) {
	for name, raw := range configs(t) {
		c, err := parseHFConfig(raw)
		if err != nil {
			t.Fatal(err)
		}
		w := InitWeights(c, 1)
		if err := c.Check(w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		row := []Row{{Prompt: []int32{1, 2}, Completions: [][]int32{{3, 4, 5}}}}
		s := NewScorer(backendtest.Go(t), c, func(n int) int { return n })
		got, err := s.LogProbs(context.Background(), Policy{Base: w}, row, 1)
		s.Finalize()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range got[0][0] { // small weights: close to uniform, -ln 32 = -3.47 or -ln 256 = -5.55
			if !(p < -2 && p > -8) {
				t.Errorf("%s: a fresh model says %v", name, got)
			}
		}
	}
}

// Texts that a length-dependent scaling would treat differently are refused with the reason.
func TestLengthLimits(t *testing.T) {
	files := configs(t)
	for name, want := range map[string]string{"llama-dynamic": "exact up to 64: beyond, its rope_type dynamic", "phi3-longrope": "exact up to 64: beyond, its rope_type longrope",
		"llama-linear": "65 tokens, the model takes 64"} {
		c, err := parseHFConfig(files[name])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckLength(64); err != nil {
			t.Error(err)
		}
		if err := c.CheckLength(65); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What parses can be written and means the same again; nothing panics.
func FuzzHFConfig(f *testing.F) {
	for _, raw := range configs(f) {
		f.Add([]byte(raw))
	}
	f.Add([]byte(`{"model_type": "llama", "num_hidden_layers": -1, "layer_types": [1]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseHFConfig(raw)
		if err != nil || c.NumLayers > 64 {
			return
		}
		c.Shapes()
		out, err := c.hfJSON("float32")
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if back, err := parseHFConfig(out); err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%s: %v\n got %+v\nwant %+v", raw, err, back, c)
		}
	})
}
