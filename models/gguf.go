package models

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"gobpo/models/tokenizer"
	"gobpo/models/weights"
)

// ggufParts maps llama.cpp's tensor names inside a block to Hugging Face's.
var ggufParts = map[string]string{
	"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
	"attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
	"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}

func ggufName(name string) (string, bool) {
	switch name {
	case "token_embd.weight":
		return llama.embedName(), true
	case "output_norm.weight":
		return llama.finalName(), true
	case "output.weight":
		return llama.headName(), true
	}
	var layer int
	var part string
	if _, err := fmt.Sscanf(name, "blk.%d.%s", &layer, &part); err != nil {
		return "", false
	}
	hf, ok := ggufParts[strings.TrimSuffix(part, ".weight")]
	return llama.weight(layer, hf), ok && strings.HasSuffix(part, ".weight")
}

func (c *Checkpoint) openGGUF(path string) error {
	g, err := weights.OpenGGUF(path)
	if err != nil {
		return err
	}
	c.file = g
	if c.Config, err = ggufConfig(g); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if c.Tokenizer, err = tokenizer.FromGGUF(g.Meta); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	c.ChatTemplate, _ = g.Meta["tokenizer.chat_template"].(string)
	for _, key := range []string{"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"} {
		if id, ok := g.Meta[key].(uint32); ok {
			c.EOS = append(c.EOS, int32(id))
		}
	}
	var unread []string
	theirs, found := map[string]string{}, map[string][]int{}
	for _, name := range g.Names() {
		hf, ok := ggufName(name)
		if !ok {
			unread = append(unread, name)
			continue
		}
		info, _ := g.Info(name)
		theirs[hf], found[hf] = name, info.Shape
	}
	if len(unread) > 0 {
		return fmt.Errorf("%s: tensors not used by this architecture (%d): %s", path, len(unread), abbreviate(unread))
	}
	if err := c.Config.checkShapes(found); err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	c.read = func(hf string, flat any) error {
		heads := 0
		switch {
		case strings.HasSuffix(hf, "q_proj.weight"):
			heads = c.Config.NumHeads
		case strings.HasSuffix(hf, "k_proj.weight"):
			heads = c.Config.NumKVHeads
		}
		if err := g.Read(theirs[hf], flat); err != nil || heads == 0 {
			return err
		}
		if err := unpermute(dtypes.UnsafeByteSliceFromAny(flat), found[hf], heads); err != nil {
			return fmt.Errorf("%s: tensor %q: %w", path, theirs[hf], err)
		}
		return nil
	}
	return nil
}

// ggufConfig reads the llama.* metadata; a key of that family that is not understood is refused.
func ggufConfig(g *weights.GGUF) (Config, error) {
	if arch := g.Meta["general.architecture"]; arch != "llama" {
		return Config{}, fmt.Errorf("general.architecture: %v is not supported (only llama)", arch)
	}
	left := map[string]any{}
	for k, v := range g.Meta {
		if rest, ok := strings.CutPrefix(k, "llama."); ok {
			left[rest] = v
		}
	}
	var err error
	number := func(key string, otherwise float64) float64 {
		v, ok := left[key]
		delete(left, key)
		if !ok {
			if otherwise < 0 && err == nil {
				err = fmt.Errorf("llama.%s is missing", key)
			}
			return otherwise
		}
		switch r := reflect.ValueOf(v); {
		case r.CanInt():
			return float64(r.Int())
		case r.CanUint():
			return float64(r.Uint())
		case r.CanFloat():
			return r.Float()
		}
		if err == nil {
			err = fmt.Errorf("llama.%s is a %T, not a number", key, v)
		}
		return 0
	}
	const required = -1
	c := Config{Architecture: "llama", Activation: "silu",
		NumLayers: int(number("block_count", required)), HiddenSize: int(number("embedding_length", required)),
		IntermediateSize: int(number("feed_forward_length", required)), NumHeads: int(number("attention.head_count", required)),
		MaxPositions: int(number("context_length", required)), RMSNormEps: number("attention.layer_norm_rms_epsilon", required),
		RopeTheta: number("rope.freq_base", 10000)}
	if err != nil {
		return c, err
	}
	c.NumKVHeads = int(number("attention.head_count_kv", float64(c.NumHeads)))
	headDim := 0.0
	if c.NumHeads > 0 {
		headDim = float64(c.HiddenSize / c.NumHeads)
	}
	headDim = number("attention.key_length", headDim)
	c.HeadDim = int(headDim)
	for _, key := range []string{"attention.value_length", "rope.dimension_count"} {
		if n := number(key, headDim); n != headDim {
			return c, fmt.Errorf("llama.%s: %g differs from the head dimension %g, which is not supported", key, n, headDim)
		}
	}
	if n := number("expert_count", 0); n != 0 {
		return c, fmt.Errorf("llama.expert_count: %g experts are not supported", n)
	}
	if kind, ok := left["rope.scaling.type"]; ok && kind == "none" {
		delete(left, "rope.scaling.type")
	}
	embed, ok := g.Info("token_embd.weight")
	if !ok || len(embed.Shape) != 2 {
		return c, fmt.Errorf("tensor token_embd.weight is missing or not a matrix")
	}
	c.VocabSize = embed.Shape[0]
	if n := int(number("vocab_size", float64(c.VocabSize))); n != c.VocabSize {
		return c, fmt.Errorf("llama.vocab_size: %d, but token_embd.weight has %d rows", n, c.VocabSize)
	}
	_, untied := g.Info("output.weight")
	c.TieEmbeddings = !untied
	if err == nil && len(left) > 0 {
		keys := slices.Sorted(maps.Keys(left))
		err = fmt.Errorf("llama.%s: %v is not supported", keys[0], left[keys[0]])
	}
	if err != nil {
		return c, err
	}
	return c, c.Validate()
}

// unpermute turns q or k rows from llama.cpp's order (each head's pairs side by side, for interleaved rotation) into
// Hugging Face's (first halves, then second halves), in place: b holds [heads·dim, in] numbers.
func unpermute(b []byte, dims []int, heads int) error {
	if len(dims) != 2 || dims[0] == 0 || dims[0]%(2*heads) != 0 {
		return fmt.Errorf("shape %v does not split into %d heads", dims, heads)
	}
	dim, row := dims[0]/heads, len(b)/dims[0]
	scratch := make([]byte, dim*row)
	for h := range heads {
		head := b[h*dim*row : (h+1)*dim*row]
		copy(scratch, head)
		for i := range dim { // pair i/2, member i%2
			to := i%2*dim/2 + i/2
			copy(head[to*row:(to+1)*row], scratch[i*row:(i+1)*row])
		}
	}
	return nil
}
