package models

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// family is what an architecture has but for numbers, which are Config's: the names of its tensors, the layout of its
// block, and the keys of its config.json. A new one is a row of families (docs/models.md says how); nothing else in
// the package knows an architecture by name but the GGUF loader.
type family struct {
	class string // transformers' class for causal language models

	// Modules outside the blocks: the token embeddings, learned positions (if any; otherwise positions are rotary), the
	// list of blocks and the final norm, all below root, and the head.
	root, embed, positions, layers, final, head string

	// Modules of a block, below its number. Fused projections stay fused: one name in qkv is all of q, then k, then v
	// (or, byHead, a q, k and v for every head); one in up, with gated, is the gate, then what it gates.
	attnNorm, out, mlpNorm, down string
	qkv, up                      []string
	byHead, gated                bool
	qNorm, kNorm                 string // on each head of q and k, before they turn
	attnPost, mlpPost            string // norms of what the two halves add to the residual stream

	norm                      normKind
	transposed                bool // linear weights are [in, out]
	scaled                    bool // embeddings are multiplied by √hidden
	qkvBias, outBias, mlpBias bool // always there; Config's AttentionBias and MLPBias are what config.json may add
	depthInit                 bool // fresh out and down weights are smaller by √(2·layers)

	// config.json: the keys that name a field of Config, what transformers takes for absent ones, how it spells rotary
	// positions and windows, what else there is to read, values that must be as they are, and keys that change nothing.
	keys     []string
	defaults Config
	rope     ropeKeys
	windows  windowKeys
	special  func(*hfReader, *Config)
	fixed    map[string]string
	ignored  []string
	buffers  []string // ends of the names of tensors in old checkpoints that are no weights
}

// normKind is a norm over features, in float32: x/rms(x)·w, x/rms(x)·(1+w), or (x−mean)/std·w + b.
type normKind int

const (
	rmsNorm normKind = iota
	rmsNormPlusOne
	layerNorm
)

// with is the family with some things changed.
func (f family) with(change func(*family)) family {
	f.qkv, f.up, f.keys = slices.Clone(f.qkv), slices.Clone(f.up), slices.Clone(f.keys)
	change(&f)
	return f
}

var llama = family{
	class: "LlamaForCausalLM",
	root:  "model.", embed: "embed_tokens", layers: "layers", final: "norm", head: "lm_head",
	attnNorm: "input_layernorm", qkv: []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, out: "self_attn.o_proj",
	mlpNorm: "post_attention_layernorm", up: []string{"mlp.gate_proj", "mlp.up_proj"}, gated: true, down: "mlp.down_proj",
	keys: []string{"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
		"max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias"},
	defaults: Config{MaxPositions: 2048, RMSNormEps: 1e-6},
	rope:     ropeKeys{theta: "rope_theta", types: []string{"linear", "dynamic", "yarn", "llama3"}},
	buffers:  []string{".rotary_emb.inv_freq"},
}

var gemma = llama.with(func(f *family) {
	f.class, f.norm, f.scaled = "GemmaForCausalLM", rmsNormPlusOne, true
	f.keys = without(f.keys, "mlp_bias")
	f.defaults = Config{NumKVHeads: 16, HeadDim: 256, MaxPositions: 8192, RMSNormEps: 1e-6, TieEmbeddings: true, Activation: "gelu_pytorch_tanh"}
	f.special = func(r *hfReader, c *Config) {
		if c.Activation == "gelu" {
			c.Activation = "gelu_pytorch_tanh" // what the first releases meant, as transformers knows
		}
		r.agree("hidden_activation", c.Activation)
	}
})

var gptNeoX = family{
	class: "GPTNeoXForCausalLM",
	root:  "gpt_neox.", embed: "embed_in", layers: "layers", final: "final_layer_norm", head: "embed_out",
	attnNorm: "input_layernorm", qkv: []string{"attention.query_key_value"}, byHead: true, out: "attention.dense",
	mlpNorm: "post_attention_layernorm", up: []string{"mlp.dense_h_to_4h"}, down: "mlp.dense_4h_to_h", mlpBias: true,
	norm: layerNorm,
	keys: []string{"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
		"layer_norm_eps", "tie_word_embeddings", "hidden_act", "attention_bias", "use_parallel_residual"},
	defaults: Config{MaxPositions: 2048, RMSNormEps: 1e-5, Activation: "gelu", AttentionBias: true, ParallelResidual: true},
	rope:     ropeKeys{theta: "rotary_emb_base", partial: "rotary_pct", share: 0.25, types: llama.rope.types},
	ignored:  []string{"is_decoder"},
	buffers:  []string{".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"},
}

var gpt2 = family{
	class: "GPT2LMHeadModel",
	root:  "transformer.", embed: "wte", positions: "wpe", layers: "h", final: "ln_f", head: "lm_head",
	attnNorm: "ln_1", qkv: []string{"attn.c_attn"}, out: "attn.c_proj", mlpNorm: "ln_2", up: []string{"mlp.c_fc"}, down: "mlp.c_proj",
	norm: layerNorm, transposed: true, qkvBias: true, outBias: true, mlpBias: true, depthInit: true,
	keys:     []string{"vocab_size", "n_embd", "n_inner", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "tie_word_embeddings", "activation_function"},
	defaults: Config{MaxPositions: 1024, RMSNormEps: 1e-5, TieEmbeddings: true, Activation: "gelu_new"},
	special: func(_ *hfReader, c *Config) {
		if c.IntermediateSize == 0 {
			c.IntermediateSize = 4 * c.HiddenSize
		}
	},
	fixed: map[string]string{"scale_attn_weights": "true"},
	ignored: []string{"n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
		"summary_first_dropout"}, // scores are float32 here in any case
	buffers: []string{".attn.bias", ".attn.masked_bias"},
}

var families = map[string]family{
	"llama": llama,
	"mistral": llama.with(func(f *family) {
		f.class = "MistralForCausalLM"
		f.keys = without(f.keys, "attention_bias", "mlp_bias")
		f.defaults = Config{NumKVHeads: 8, MaxPositions: 131072, RMSNormEps: 1e-6, Window: 4096}
		f.windows = everyLayer
	}),
	"qwen2": llama.with(func(f *family) {
		f.class, f.qkvBias = "Qwen2ForCausalLM", true
		f.keys = without(f.keys, "attention_bias", "mlp_bias")
		f.defaults = Config{NumKVHeads: 32, MaxPositions: 32768, RMSNormEps: 1e-6, Window: 4096}
		f.windows = upperLayers
	}),
	"qwen3": llama.with(func(f *family) {
		f.class = "Qwen3ForCausalLM"
		f.qNorm, f.kNorm = "self_attn.q_norm", "self_attn.k_norm"
		f.keys = without(f.keys, "mlp_bias")
		f.defaults = Config{NumKVHeads: 32, HeadDim: 128, MaxPositions: 32768, RMSNormEps: 1e-6, Window: 4096}
		f.windows = upperLayers
	}),
	"phi3": llama.with(func(f *family) {
		f.class = "Phi3ForCausalLM"
		f.qkv, f.up = []string{"self_attn.qkv_proj"}, []string{"mlp.gate_up_proj"}
		f.keys = without(f.keys, "attention_bias", "mlp_bias")
		f.defaults = Config{MaxPositions: 4096, RMSNormEps: 1e-5}
		f.rope = ropeKeys{theta: "rope_theta", partial: "partial_rotary_factor", types: []string{"longrope"}, original: true}
		f.windows = everyLayer
		f.ignored = []string{"full_attn_mod", "interpolate_factor"}
	}),
	"gemma": gemma,
	"gemma2": gemma.with(func(f *family) {
		f.class = "Gemma2ForCausalLM"
		f.attnPost, f.mlpNorm, f.mlpPost = "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
		f.keys = append(without(f.keys, "hidden_act"), "hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
		f.defaults.NumKVHeads, f.defaults.QueryPreAttnScalar = 4, 256
		f.defaults.AttentionCap, f.defaults.LogitCap, f.defaults.Window = 50, 30, 4096
		f.windows = evenLayers
		f.special = func(r *hfReader, c *Config) { r.agree("hidden_act", c.Activation) }
	}),
	"gpt_neox": gptNeoX,
	"gpt2":     gpt2,
}

func without(keys []string, drop ...string) []string {
	return slices.DeleteFunc(keys, func(k string) bool { return slices.Contains(drop, k) })
}

// Architectures lists the architectures that are understood, by the model_type of their config.json.
func Architectures() []string { return slices.Sorted(maps.Keys(families)) }

// family describes the architecture; an unknown one, which Validate refuses, passes for Llama.
func (c *Config) family() family {
	if f, ok := families[c.Architecture]; ok {
		return f
	}
	return llama
}

func (f family) embedName() string     { return f.root + f.embed + ".weight" }
func (f family) positionsName() string { return f.root + f.positions + ".weight" }
func (f family) finalName() string     { return f.root + f.final + ".weight" }
func (f family) headName() string      { return f.head + ".weight" }

// weight is the name of a module's weight inside a block.
func (f family) weight(layer int, part string) string {
	return fmt.Sprintf("%s%s.%d.%s.weight", f.root, f.layers, layer, part)
}

func biasName(weight string) string { return strings.TrimSuffix(weight, "weight") + "bias" }

// storedTransposed says whether a weight is [in, out], by its name: no two families share names and differ in that.
func storedTransposed(weight string) bool {
	for _, f := range families {
		if f.transposed && strings.HasPrefix(weight, f.root+f.layers+".") {
			return true
		}
	}
	return false
}

// norms lists the norms of a block, with their sizes.
func (c *Config) norms() map[string]int {
	f := c.family()
	sizes := map[string]int{}
	for name, n := range map[string]int{f.attnNorm: c.HiddenSize, f.mlpNorm: c.HiddenSize, f.attnPost: c.HiddenSize, f.mlpPost: c.HiddenSize,
		f.qNorm: c.HeadDim, f.kNorm: c.HeadDim} {
		if name != "" {
			sizes[name] = n
		}
	}
	return sizes
}

// modules lists the linear layers of a block in forward order; Name is the path below the block.
func (c *Config) modules() []Linear {
	f := c.family()
	q, kv := c.NumHeads*c.HeadDim, c.NumKVHeads*c.HeadDim
	var all []Linear
	add := func(path string, out, in int, bias bool) {
		all = append(all, Linear{Module: path[strings.LastIndexByte(path, '.')+1:], Name: path, Out: out, In: in, Bias: bias, Transposed: f.transposed})
	}
	sizes, bias := []int{q, kv, kv}, f.qkvBias || c.AttentionBias
	if len(f.qkv) == 1 {
		sizes = []int{q + 2*kv}
	}
	for i, path := range f.qkv {
		add(path, sizes[i], c.HiddenSize, bias)
	}
	add(f.out, c.HiddenSize, q, f.outBias || c.AttentionBias)
	width, bias := c.IntermediateSize, f.mlpBias || c.MLPBias
	if f.gated && len(f.up) == 1 {
		width *= 2
	}
	for _, path := range f.up {
		add(path, width, c.HiddenSize, bias)
	}
	add(f.down, c.HiddenSize, c.IntermediateSize, bias)
	return all
}

// moduleNames lists the linear layers of all families, by their short names.
func moduleNames() []string {
	names := map[string]bool{}
	for kind := range families {
		for _, m := range (&Config{Architecture: kind}).modules() {
			names[m.Module] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// tensorNames says which weight each of a checkpoint's tensors is. What is no weight of ours is left out: buffers, and a
// head stored again beside the embeddings it is tied to. Checkpoints of the bare model lack the root of the names.
func (c *Config) tensorNames(names []string) map[string]string {
	f := c.family()
	bare := !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, f.root) })
	out := map[string]string{}
	for _, name := range names {
		weight := name
		if bare && name != f.headName() && name != RewardHead {
			weight = f.root + name
		}
		buffer := slices.ContainsFunc(f.buffers, func(end string) bool { return strings.HasSuffix(name, end) })
		if !buffer && !((c.TieEmbeddings || c.Reward) && name == f.headName()) {
			out[name] = weight
		}
	}
	return out
}
