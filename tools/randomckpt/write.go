package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"

	"gobpo/internal/atomicfile"
	"gobpo/models"
	"gobpo/models/tokenizer"
	"gobpo/models/weights"
)

// likes are the configurations, as their config.json has them.
var likes = map[string]map[string]any{
	"gemma-2b": {
		"model_type": "gemma", "architectures": []string{"GemmaForCausalLM"}, "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384,
		"num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 8192,
		"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true,
	},
	"llama-2b": { // Gemma-2B's sizes, Llama's maths
		"model_type": "llama", "architectures": []string{"LlamaForCausalLM"}, "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384,
		"num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 8192,
		"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
	},
	"llama-100m": {
		"model_type": "llama", "architectures": []string{"LlamaForCausalLM"}, "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048,
		"num_hidden_layers": 10, "num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 2048,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
	},
	"llama-tiny": {
		"model_type": "llama", "architectures": []string{"LlamaForCausalLM"}, "vocab_size": 2000, "hidden_size": 64, "intermediate_size": 128,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
	},
}

func names() string { return strings.Join(slices.Sorted(maps.Keys(likes)), ", ") }

type checkpoint struct {
	like, dir, dtype string
	shardMB          int64
	seed             uint64
}

// write makes the directory and returns the size of the weights in bytes. Tensors are drawn while they are written.
func (c checkpoint) write() (total int64, err error) {
	config, ok := likes[c.like]
	if !ok {
		return 0, fmt.Errorf("--like: %q is unknown, want one of %s", c.like, names())
	}
	dtype, ok := map[string]dtypes.DType{"bfloat16": dtypes.BFloat16, "float16": dtypes.Float16, "float32": dtypes.Float32}[c.dtype]
	if !ok {
		return 0, fmt.Errorf("--dtype: %q is none of bfloat16, float16, float32", c.dtype)
	}
	if err := os.MkdirAll(c.dir, 0o777); err != nil {
		return 0, err
	}
	config = maps.Clone(config)
	config["torch_dtype"] = c.dtype
	if err := c.json("config.json", config); err != nil {
		return 0, err
	}
	parsed, err := models.ReadConfig(c.dir)
	if err != nil {
		return 0, err
	}
	if err := c.tokenizer(parsed.VocabSize); err != nil {
		return 0, err
	}
	all := map[string]shapes.Shape{}
	for name, dims := range parsed.Shapes() {
		all[name] = shapes.Make(dtype, dims...)
	}
	for _, shape := range all {
		total += int64(shape.ByteSize())
	}
	inner, outer, width := draws(dtype, c.seed, 0.02), draws(dtype, c.seed, 0.002), int(dtype.Size())
	return total, weights.WriteDir(c.dir, all, c.shardMB<<20, func(name string, w io.Writer) error {
		dims := all[name].Dimensions
		if len(dims) == 1 { // norms and biases: the value that does nothing
			return constant(w, dims[0], dtype, neutral(name, c.like))
		}
		table := inner
		if strings.Contains(name, "embed") || strings.HasPrefix(name, "lm_head") {
			table = outer // or the most likely next token would be the last one once more, for certain
		}
		return rows(w, dims, table, width, c.seed, name)
	})
}

func (c checkpoint) json(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(c.dir, name), raw)
}

// tokenizer writes one with a few hundred words; the rest of the vocabulary are words that no text is encoded to.
func (c checkpoint) tokenizer(vocab int) error {
	var words []string
	for _, a := range "bdfklmnprst" {
		for _, b := range "aeiou" {
			for _, d := range "klmnst" {
				words = append(words, string([]rune{a, b, d}))
			}
		}
	}
	t, err := tokenizer.FromWords(words)
	if err != nil {
		return err
	}
	raw, err := t.MarshalJSON()
	if err != nil {
		return err
	}
	var file map[string]any
	if err := json.Unmarshal(raw, &file); err != nil {
		return err
	}
	tokens := file["model"].(map[string]any)["vocab"].(map[string]any)
	for id := t.VocabSize(); id < vocab; id++ {
		tokens[fmt.Sprintf("unused%d", id)] = id
	}
	config, err := t.ConfigJSON("")
	if err != nil {
		return err
	}
	if err := c.json("tokenizer.json", file); err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(c.dir, "tokenizer_config.json"), config); err != nil {
		return err
	}
	return c.json("generation_config.json", map[string]any{"eos_token_id": []int32{t.EOS()}})
}

// drawn is how many normal numbers are drawn for a checkpoint.
const drawn = 1 << 20

// draws are these numbers in dtype. Hugging Face's usual initialisation has the deviation 0.02.
func draws(dtype dtypes.DType, seed uint64, deviation float64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, 0, drawn*int(dtype.Size()))
	for range drawn {
		out = appendNumber(out, dtype, float32(rng.NormFloat64()*deviation))
	}
	return out
}

func appendNumber(out []byte, dtype dtypes.DType, x float32) []byte {
	switch dtype {
	case dtypes.BFloat16:
		return binary.LittleEndian.AppendUint16(out, uint16(bfloat16.FromFloat32(x)))
	case dtypes.Float16:
		return binary.LittleEndian.AppendUint16(out, float16.FromFloat32(x).Bits())
	}
	return binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
}

// rows writes a tensor whose rows are stretches of the draws from random places: billions of numbers in seconds, and
// no two rows alike.
func rows(w io.Writer, dims []int, table []byte, width int, seed uint64, name string) error {
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	out := bufio.NewWriterSize(w, 1<<20)
	row, count := dims[len(dims)-1], 1
	for _, d := range dims[:len(dims)-1] {
		count *= d
	}
	for range count {
		for left := row; left > 0; {
			n := min(left, drawn/2)
			at := rng.IntN(drawn - n + 1)
			if _, err := out.Write(table[at*width : (at+n)*width]); err != nil {
				return err
			}
			left -= n
		}
	}
	return out.Flush()
}

func constant(w io.Writer, n int, dtype dtypes.DType, x float32) error {
	var out []byte
	for range n {
		out = appendNumber(out, dtype, x)
	}
	_, err := w.Write(out)
	return err
}

// neutral is 1 for a norm's weight, but 0 where the norm multiplies by 1 + weight, as Gemma's do, and 0 for a bias.
func neutral(name, like string) float32 {
	if strings.HasSuffix(name, "bias") || strings.HasPrefix(like, "gemma") {
		return 0
	}
	return 1
}
