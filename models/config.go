// Package models is a decoder-only transformer (Llama family) as gomlx graphs over named weight sets: the forward pass,
// LoRA adapters and their merges, completion scoring, and loading from Hugging Face directories and GGUF files.
//
// Weights keep their Hugging Face names and layout everywhere: linear weights are [out, in].
package models

import (
	"fmt"
	"slices"
	"strings"

	op "github.com/gomlx/gomlx/core/graph"
)

// Config is the shape of a model. Architecture "llama" is pre-norm RMSNorm, grouped-query attention with rotary
// positions (half-split, as Hugging Face), SwiGLU MLP, no biases, tied or untied head.
type Config struct {
	Architecture string // "llama"
	VocabSize, HiddenSize, IntermediateSize,
	NumLayers, NumHeads, NumKVHeads, HeadDim,
	MaxPositions int
	RopeTheta, RMSNormEps float64
	TieEmbeddings         bool
}

// Validate reports the first impossible setting, naming it.
func (c Config) Validate() error {
	for _, f := range []struct {
		name string
		n    int
	}{{"vocab_size", c.VocabSize}, {"hidden_size", c.HiddenSize}, {"intermediate_size", c.IntermediateSize}, {"num_hidden_layers", c.NumLayers},
		{"num_attention_heads", c.NumHeads}, {"num_key_value_heads", c.NumKVHeads}, {"head_dim", c.HeadDim}, {"max_position_embeddings", c.MaxPositions}} {
		if f.n <= 0 {
			return fmt.Errorf("%s is %d, must be positive", f.name, f.n)
		}
	}
	switch {
	case c.Architecture != "llama":
		return fmt.Errorf("architecture %q is not supported (only llama)", c.Architecture)
	case c.NumHeads%c.NumKVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.NumHeads, c.NumKVHeads)
	case c.HeadDim%2 != 0:
		return fmt.Errorf("head_dim %d is odd: rotary positions need pairs", c.HeadDim)
	case c.RopeTheta <= 0:
		return fmt.Errorf("rope_theta is %g, must be positive", c.RopeTheta)
	case c.RMSNormEps <= 0:
		return fmt.Errorf("rms_norm_eps is %g, must be positive", c.RMSNormEps)
	}
	return nil
}

const (
	embedName = "model.embed_tokens.weight"
	normName  = "model.norm.weight"
	headName  = "lm_head.weight"
)

func layerName(layer int, part string) string {
	return fmt.Sprintf("model.layers.%d.%s.weight", layer, part)
}

// Linear is one linear layer of a transformer block: Module is its short name ("q_proj"), Name its weight's, which is
// [out, in], or [in, out] if it is Transposed (GPT-2's Conv1D). A bias is named like the weight.
type Linear struct {
	Module, Name string
	Out, In      int
	Transposed   bool
}

func (l Linear) bias() string { return strings.TrimSuffix(l.Name, "weight") + "bias" }

// apply is the weight times x [in, N], in x's dtype: [out, N].
func (l Linear) apply(w, x *op.Node) *op.Node {
	if l.Transposed {
		return op.Dot(op.ConvertDType(w, x.DType()), x).General([]int{0}, nil, []int{0}, nil)
	}
	return matmul(w, x)
}

// modules lists the linear layers of a block in forward order, as (path below the layer, out, in).
func (c Config) modules() []Linear {
	q, kv := c.NumHeads*c.HeadDim, c.NumKVHeads*c.HeadDim
	return []Linear{
		{Module: "q_proj", Name: "self_attn.q_proj", Out: q, In: c.HiddenSize},
		{Module: "k_proj", Name: "self_attn.k_proj", Out: kv, In: c.HiddenSize},
		{Module: "v_proj", Name: "self_attn.v_proj", Out: kv, In: c.HiddenSize},
		{Module: "o_proj", Name: "self_attn.o_proj", Out: c.HiddenSize, In: q},
		{Module: "gate_proj", Name: "mlp.gate_proj", Out: c.IntermediateSize, In: c.HiddenSize},
		{Module: "up_proj", Name: "mlp.up_proj", Out: c.IntermediateSize, In: c.HiddenSize},
		{Module: "down_proj", Name: "mlp.down_proj", Out: c.HiddenSize, In: c.IntermediateSize},
	}
}

// Linears lists every linear layer inside the blocks (not the head), which are the layers an adapter can sit on.
func (c Config) Linears() []Linear {
	all := make([]Linear, 0, 7*c.NumLayers)
	for layer := range c.NumLayers {
		for _, m := range c.modules() {
			m.Name = layerName(layer, m.Name)
			all = append(all, m)
		}
	}
	return all
}

// Shapes gives the dimensions of every weight of the model, by name.
func (c Config) Shapes() map[string][]int {
	dims := map[string][]int{embedName: {c.VocabSize, c.HiddenSize}, normName: {c.HiddenSize}}
	if !c.TieEmbeddings {
		dims[headName] = []int{c.VocabSize, c.HiddenSize}
	}
	for layer := range c.NumLayers {
		dims[layerName(layer, "input_layernorm")] = []int{c.HiddenSize}
		dims[layerName(layer, "post_attention_layernorm")] = []int{c.HiddenSize}
	}
	for _, l := range c.Linears() {
		dims[l.Name] = []int{l.Out, l.In}
	}
	return dims
}

// Check compares a weight set with the configuration and lists everything missing, unknown or of another shape.
func (c Config) Check(w Weights) error {
	found := make(map[string][]int, len(w))
	for name, t := range w {
		found[name] = t.Shape().Dimensions
	}
	return c.checkShapes(found)
}

func (c Config) checkShapes(found map[string][]int) error {
	var missing, unknown, wrong []string
	dims := c.Shapes()
	for name, d := range dims {
		if f, ok := found[name]; !ok {
			missing = append(missing, name)
		} else if !slices.Equal(f, d) {
			wrong = append(wrong, fmt.Sprintf("%s is %v, the config says %v", name, f, d))
		}
	}
	for name := range found {
		if _, ok := dims[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	var problems []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"missing", missing}, {"not used by this architecture", unknown}, {"wrong shape", wrong}} {
		if len(p.names) > 0 {
			slices.Sort(p.names)
			problems = append(problems, fmt.Sprintf("%s (%d): %s", p.what, len(p.names), abbreviate(p.names)))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("tensors %s", strings.Join(problems, "; "))
	}
	return nil
}

func abbreviate(names []string) string {
	const most = 12
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(", … and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
