package models

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// hfConfig is the part of config.json that is understood. Pointers tell absent (transformers' default) from zero.
type hfConfig struct {
	Architectures    []string  `json:"architectures,omitempty"`
	ModelType        string    `json:"model_type"`
	VocabSize        int       `json:"vocab_size"`
	HiddenSize       int       `json:"hidden_size"`
	IntermediateSize int       `json:"intermediate_size"`
	NumLayers        int       `json:"num_hidden_layers"`
	NumHeads         int       `json:"num_attention_heads"`
	NumKVHeads       *int      `json:"num_key_value_heads"`
	HeadDim          *int      `json:"head_dim"`
	MaxPositions     *int      `json:"max_position_embeddings"`
	RMSNormEps       *float64  `json:"rms_norm_eps"`
	RopeTheta        *float64  `json:"rope_theta"`
	RopeScaling      *ropeSpec `json:"rope_scaling,omitempty"`
	RopeParameters   *ropeSpec `json:"rope_parameters,omitempty"`
	Tie              *bool     `json:"tie_word_embeddings"`
	HiddenAct        *string   `json:"hidden_act"`
	AttentionBias    bool      `json:"attention_bias"`
	MLPBias          bool      `json:"mlp_bias"`
	DType            string    `json:"torch_dtype,omitempty"`
}

type ropeSpec struct {
	Theta   *float64 `json:"rope_theta"`
	Type    string   `json:"rope_type"`
	OldType string   `json:"type"`
}

// understood are the keys of hfConfig; harmless ones change nothing of what is computed here.
var (
	understood = []string{"architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
		"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
		"tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias", "torch_dtype"}
	harmless = []string{"dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
		"attention_dropout", "pretraining_tp", "_name_or_path", "_attn_implementation_autoset", "transformers.js_config", "is_llama_config",
		"output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward"}
)

// parseHFConfig reads a config.json. A key that is neither understood nor known to be harmless is refused, unless it
// is null or false.
func parseHFConfig(raw []byte) (Config, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return Config{}, err
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		v := string(bytes.TrimSpace(keys[key]))
		if !slices.Contains(understood, key) && !slices.Contains(harmless, key) && v != "null" && v != "false" {
			return Config{}, fmt.Errorf("%s: %.60s is not supported", key, v)
		}
	}
	var h hfConfig
	if err := json.Unmarshal(raw, &h); err != nil {
		return Config{}, err
	}
	switch {
	case h.ModelType != "llama":
		return Config{}, fmt.Errorf("model_type: %q is not supported (only llama)", h.ModelType)
	case h.AttentionBias:
		return Config{}, fmt.Errorf("attention_bias: true is not supported")
	case h.MLPBias:
		return Config{}, fmt.Errorf("mlp_bias: true is not supported")
	case h.HiddenAct != nil && *h.HiddenAct != "silu":
		return Config{}, fmt.Errorf("hidden_act: %q is not supported (only silu)", *h.HiddenAct)
	}
	theta := h.RopeTheta
	for key, spec := range map[string]*ropeSpec{"rope_scaling": h.RopeScaling, "rope_parameters": h.RopeParameters} {
		if spec == nil {
			continue
		}
		if kind := cmp.Or(spec.Type, spec.OldType, "default"); kind != "default" {
			return Config{}, fmt.Errorf("%s: rope_type %q is not supported (only default)", key, kind)
		}
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(keys[key], &inner); err != nil {
			return Config{}, fmt.Errorf("%s: %w", key, err)
		}
		for k := range inner {
			if k != "rope_type" && k != "type" && k != "rope_theta" {
				return Config{}, fmt.Errorf("%s: %s is not supported", key, k)
			}
		}
		if spec.Theta != nil {
			theta = spec.Theta
		}
	}
	c := Config{Architecture: "llama", VocabSize: h.VocabSize, HiddenSize: h.HiddenSize, IntermediateSize: h.IntermediateSize,
		NumLayers: h.NumLayers, NumHeads: h.NumHeads, NumKVHeads: or(h.NumKVHeads, h.NumHeads),
		MaxPositions: or(h.MaxPositions, 2048), RopeTheta: or(theta, 10000), RMSNormEps: or(h.RMSNormEps, 1e-6), TieEmbeddings: or(h.Tie, false)}
	if h.HeadDim != nil {
		c.HeadDim = *h.HeadDim
	} else if c.NumHeads > 0 {
		c.HeadDim = c.HiddenSize / c.NumHeads
	}
	return c, c.Validate()
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// hfJSON writes the configuration as a config.json that transformers and parseHFConfig read.
func (c Config) hfJSON(dtype string) ([]byte, error) {
	act := "silu"
	return json.MarshalIndent(hfConfig{Architectures: []string{"LlamaForCausalLM"}, ModelType: "llama", VocabSize: c.VocabSize,
		HiddenSize: c.HiddenSize, IntermediateSize: c.IntermediateSize, NumLayers: c.NumLayers, NumHeads: c.NumHeads,
		NumKVHeads: &c.NumKVHeads, HeadDim: &c.HeadDim, MaxPositions: &c.MaxPositions, RMSNormEps: &c.RMSNormEps,
		RopeTheta: &c.RopeTheta, Tie: &c.TieEmbeddings, HiddenAct: &act, DType: dtype}, "", "  ")
}
