package weights

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
)

// GGUF is an open GGUF file, version 2 or 3, little-endian. Its methods may be called concurrently.
//
// Tensors come as the file holds them. In particular llama.cpp's converter permutes the rows of attn_q and attn_k for
// its interleaved RoPE; undoing that is the model loader's business, which knows the number of heads.
type GGUF struct {
	// Meta holds the metadata: uint8 … int64, float32, float64, bool, string, or a slice of one of these; []any for
	// an array of arrays.
	Meta map[string]any

	path    string
	src     *source
	tensors map[string]ggufTensor
}

// GGUFInfo describes one tensor.
type GGUFInfo struct {
	Type  string // ggml's name: "F32", "Q4_1", …
	Shape []int  // outermost axis first: a linear layer's weights are [out, in]
}

type ggufTensor struct {
	kind   uint32
	dims   []int // outermost first
	count  int64 // elements
	offset int64 // bytes in the file
}

// OpenGGUF opens a GGUF file and reads everything but the tensors.
func OpenGGUF(path string) (*GGUF, error) {
	src, err := openSource(path)
	if err != nil {
		return nil, fmt.Errorf("gguf: %w", err)
	}
	meta, list, err := parseGGUF(src.r, src.size)
	if err != nil {
		src.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &GGUF{Meta: meta, path: path, src: src, tensors: list}, nil
}

// Names lists the tensors, sorted.
func (g *GGUF) Names() []string { return slices.Sorted(maps.Keys(g.tensors)) }

// Info describes a tensor.
func (g *GGUF) Info(name string) (GGUFInfo, bool) {
	t, ok := g.tensors[name]
	return GGUFInfo{Type: typeName(t.kind), Shape: slices.Clone(t.dims)}, ok
}

// Read fills flat, a []float32 or []bfloat16.BFloat16, with a tensor's numbers, dequantized piece by piece (rounded to
// nearest, ties to even).
func (g *GGUF) Read(name string, flat any) error {
	t, ok := g.tensors[name]
	if !ok {
		return fmt.Errorf("%s: no tensor %q", g.path, name)
	}
	q, ok := quants[t.kind]
	if !ok {
		return fmt.Errorf("%s: tensor %q has type %s, which is not supported (supported: %s)", g.path, name, typeName(t.kind), supportedTypes())
	}
	room := -1
	switch out := flat.(type) {
	case []float32:
		room = len(out)
	case []bfloat16.BFloat16:
		room = len(out)
	default:
		return fmt.Errorf("%s: tensor %q: cannot be read into %T, only []float32 or []bfloat16", g.path, name, flat)
	}
	if int64(room) != t.count {
		return fmt.Errorf("%s: tensor %q: shape %v has %d elements, but there is room for %d", g.path, name, t.dims, t.count, room)
	}
	if err := dequantize(flat, g.src, t, q); err != nil {
		return fmt.Errorf("%s: tensor %q: %w", g.path, name, err)
	}
	return nil
}

// Tensor reads one tensor into host memory of its own, as Read does, in dtype: float32 or bfloat16.
func (g *GGUF) Tensor(name string, dtype dtypes.DType) (*tensors.Tensor, error) {
	if dtype != dtypes.Float32 && dtype != dtypes.BFloat16 {
		return nil, fmt.Errorf("%s: tensor %q: cannot be read as %s, only as float32 or bfloat16", g.path, name, dtype)
	}
	out := tensors.FromShape(shapes.Make(dtype, g.tensors[name].dims...))
	var readErr error
	err := out.MutableFlatData(func(flat any) { readErr = g.Read(name, flat) })
	if err = errors.Join(err, readErr); err != nil {
		out.FinalizeAll()
		return nil, err
	}
	return out, nil
}

// Close closes the file; tensors already read stay valid.
func (g *GGUF) Close() error { return g.src.close() }
