// Package models is a decoder-only transformer as gomlx graphs over named weight sets: one forward pass for the families
// of family.go, LoRA adapters and their merges, completion scoring, and loading from Hugging Face directories and GGUF
// files.
//
// Weights keep their Hugging Face names and layout everywhere: linear weights are [out, in] (GPT-2's are [in, out]),
// fused projections stay fused.
package models

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	op "github.com/gomlx/gomlx/core/graph"
)

// Config is the numbers of a model; its Architecture says what they are numbers of. The zero value of everything below
// TieEmbeddings is what a plain Llama has.
type Config struct {
	Architecture string // Hugging Face's model_type, one of Architectures
	VocabSize, HiddenSize, IntermediateSize,
	NumLayers, NumHeads, NumKVHeads, HeadDim,
	MaxPositions int // the longest text, tokens
	RopeTheta, RMSNormEps float64 // the rotary base; the epsilon of all norms, LayerNorm too
	TieEmbeddings         bool

	Activation             string // of the MLP: silu (or empty), gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, relu
	AttentionBias, MLPBias bool   // where the architecture leaves it open
	Rope                   Rope
	RotaryDim              int     // features of a head that turn with the position; 0: all
	Window                 int     // positions a sliding layer sees, its own included; 0: nothing slides
	Sliding                []bool  // which layers slide; nil: all, if Window > 0
	QueryPreAttnScalar     float64 // scores are q·k/√this; 0: HeadDim
	AttentionCap, LogitCap float64 // scores and logits become cap·tanh(x/cap); 0: no cap
	ParallelResidual       bool    // attention and MLP read the same stream (GPT-NeoX)
	Reward                 bool    // a reward model: a scalar head stands in place of the vocabulary's, see Rewards
}

// Validate reports the first impossible setting, naming it as config.json does.
func (c Config) Validate() error {
	f, ok := families[c.Architecture]
	if !ok {
		return fmt.Errorf("architecture %q is not supported (one of %s)", c.Architecture, strings.Join(Architectures(), ", "))
	}
	for _, key := range f.keys {
		switch p := c.field(key).(type) {
		case *int:
			if *p <= 0 {
				return fmt.Errorf("%s is %d, must be positive", key, *p)
			}
		case *float64:
			if *p < 0 || *p == 0 && !slices.Contains(nullable, key) {
				return fmt.Errorf("%s is %g, must be positive", key, *p)
			}
		case *string:
			if activations[*p] == nil {
				return fmt.Errorf("%s: %q is not supported (one of %s)", key, *p, strings.Join(slices.Sorted(maps.Keys(activations))[1:], ", "))
			}
		}
	}
	switch {
	case c.NumKVHeads <= 0 || c.NumHeads%c.NumKVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.NumHeads, c.NumKVHeads)
	case f.byHead && c.NumKVHeads != c.NumHeads:
		return fmt.Errorf("num_key_value_heads %d: %s has as many as num_attention_heads, %d", c.NumKVHeads, c.Architecture, c.NumHeads)
	case c.HeadDim <= 0:
		return fmt.Errorf("head_dim is %d, must be positive", c.HeadDim)
	case f.rope.theta == "" && c.HeadDim*c.NumHeads != c.HiddenSize:
		return fmt.Errorf("n_embd %d is not a multiple of n_head %d", c.HiddenSize, c.NumHeads)
	}
	if f.positions == "" {
		if err := c.validateRope(); err != nil {
			return err
		}
	}
	return c.validateWindows()
}

// CheckLength refuses a text of n tokens that is longer than the model takes, saying why.
func (c Config) CheckLength(n int) error {
	if n <= c.MaxPositions {
		return nil
	}
	if t := c.Rope.Type; t == "dynamic" || t == "longrope" {
		return fmt.Errorf("%d tokens, but this model is exact up to %d: beyond, its rope_type %s turns every position by the text's length, which is not supported", n, c.MaxPositions, t)
	}
	return fmt.Errorf("%d tokens, the model takes %d", n, c.MaxPositions)
}

// Linear is one linear layer of a transformer block: Module is its short name ("q_proj"), Name its weight's, which is
// [out, in], or [in, out] if it is Transposed (GPT-2's Conv1D). A bias is named like the weight.
type Linear struct {
	Module, Name     string
	Out, In          int
	Bias, Transposed bool
}

// apply is the weight times x [in, N], in x's dtype: [out, N].
func (l Linear) apply(w, x *op.Node) *op.Node {
	if l.Transposed {
		return op.Dot(op.ConvertDType(w, x.DType()), x).General([]int{0}, nil, []int{0}, nil)
	}
	return matmul(w, x)
}

// Linears lists every linear layer inside the blocks (not the head), which are the layers an adapter can sit on.
func (c Config) Linears() []Linear {
	f := c.family()
	modules := c.modules()
	all := make([]Linear, 0, len(modules)*max(c.NumLayers, 0))
	for layer := range c.NumLayers {
		for _, m := range modules {
			m.Name = f.weight(layer, m.Name)
			all = append(all, m)
		}
	}
	return all
}

// Shapes gives the dimensions of every weight of the model, by name.
func (c Config) Shapes() map[string][]int {
	f := c.family()
	dims := map[string][]int{f.embedName(): {c.VocabSize, c.HiddenSize}}
	switch {
	case c.Reward:
		dims[RewardHead] = []int{1, c.HiddenSize}
	case !c.TieEmbeddings:
		dims[f.headName()] = []int{c.VocabSize, c.HiddenSize}
	}
	if f.positions != "" {
		dims[f.positionsName()] = []int{c.MaxPositions, c.HiddenSize}
	}
	norm := func(name string, n int) {
		dims[name] = []int{n}
		if f.norm == layerNorm {
			dims[biasName(name)] = []int{n}
		}
	}
	norm(f.finalName(), c.HiddenSize)
	norms := c.norms()
	for layer := range c.NumLayers {
		for name, n := range norms {
			norm(f.weight(layer, name), n)
		}
	}
	for _, l := range c.Linears() {
		dims[l.Name] = []int{l.Out, l.In}
		if l.Transposed {
			dims[l.Name] = []int{l.In, l.Out}
		}
		if l.Bias {
			dims[biasName(l.Name)] = []int{l.Out}
		}
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
