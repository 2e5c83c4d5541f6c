package models

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
)

// Weights is a named weight set, by Hugging Face names; linear weights are [out, in].
// Tensors may live on the host or on a device; a set belongs to the one backend it was first used with.
type Weights map[string]*tensors.Tensor

// Names lists the names in sorted order: the order weights take in a compiled function and in a hash.
func (w Weights) Names() []string { return slices.Sorted(maps.Keys(w)) }

// Finalize frees every tensor at once. Sets that share tensors with this one (Policy.Sets) become invalid.
func (w Weights) Finalize() {
	for _, t := range w {
		if t != nil {
			_ = t.FinalizeAll() // nothing useful can be done about a failed free
		}
	}
}

// Clone copies every tensor, on the device where it lives.
func (w Weights) Clone() Weights {
	c := make(Weights, len(w))
	for name, t := range w {
		d, err := t.Clone()
		if err != nil {
			panic(fmt.Errorf("clone %s: %w", name, err))
		}
		c[name] = d
	}
	return c
}

// NumParams counts the numbers in the set.
func (w Weights) NumParams() int {
	n := 0
	for _, t := range w {
		n += t.Size()
	}
	return n
}

// Hash is the SHA-256 of names, dtypes, shapes and contents, in hex: equal sets have equal hashes on every backend.
func (w Weights) Hash() string {
	h := sha256.New()
	for _, name := range w.Names() {
		t := w[name]
		fmt.Fprintf(h, "%s %s\n", name, t.Shape())
		if err := t.ConstBytes(func(b []byte) { h.Write(b) }); err != nil {
			panic(fmt.Errorf("hash %s: %w", name, err))
		}
		Weights{name: t}.dropHostCopies() // each at once: together they would be the model once more
	}
	return hex.EncodeToString(h.Sum(nil))
}

// dropHostCopies frees the host copies that reading device tensors leaves behind, so that weights are held once.
func (w Weights) dropHostCopies() {
	for _, t := range w {
		if t.IsOnAnyDevice() && !t.IsShared() {
			t.FinalizeLocal()
		}
	}
}

// rngFor gives each tensor its own stream, so that adding or renaming one tensor leaves the others' values alone.
func rngFor(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

func fillWeights(dims []int, f func() float32) *tensors.Tensor {
	flat := make([]float32, shapes.Make(dtypes.Float32, dims...).Size())
	for i := range flat {
		flat[i] = f()
	}
	return tensors.FromFlatDataAndDimensions(flat, dims...)
}

// initStd is Hugging Face's initializer_range, the same for all families.
const initStd = 0.02

// InitWeights draws a model from scratch, float32: N(0, 0.02²) matrices, norms that scale by one, biases zero. It runs on
// the host, so a seed gives the same weights on every backend.
func InitWeights(c Config, seed uint64) Weights {
	w, f := Weights{}, c.family()
	unit := float32(1)
	if f.norm == rmsNormPlusOne {
		unit = 0
	}
	for name, dims := range c.Shapes() {
		std := initStd
		switch {
		case strings.HasSuffix(name, ".bias"):
			w[name] = fillWeights(dims, func() float32 { return 0 })
			continue
		case len(dims) == 1:
			w[name] = fillWeights(dims, func() float32 { return unit })
			continue
		case f.depthInit && (strings.HasSuffix(name, "."+f.out+".weight") || strings.HasSuffix(name, "."+f.down+".weight")):
			std /= math.Sqrt(2 * float64(c.NumLayers))
		}
		rng := rngFor(seed, name)
		w[name] = fillWeights(dims, func() float32 { return float32(rng.NormFloat64() * std) })
	}
	return w
}
