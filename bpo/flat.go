package bpo

import (
	"fmt"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
)

// layout says where the tensors of a weight set stand in one flat vector, in the order of their names.
// A learner trains on the vector: one clip, one update and one accumulation, whatever the number of tensors.
type layout struct {
	names []string
	dims  [][]int
	at    []int // where each tensor starts; one more entry: the whole size
}

func layoutOf(w models.Weights) layout {
	l := layout{names: w.Names(), at: []int{0}}
	for _, name := range l.names {
		shape := w[name].Shape()
		l.dims = append(l.dims, shape.Dimensions)
		l.at = append(l.at, l.size()+shape.Size())
	}
	return l
}

func (l layout) size() int { return l.at[len(l.at)-1] }

// nodes cuts a flat vector [n] into named tensors.
func (l layout) nodes(flat *Node) models.NodeSet {
	set := models.NodeSet{}
	for i, name := range l.names {
		set[name] = Reshape(SliceAxis(flat, 0, AxisRange(l.at[i], l.at[i+1])), l.dims[i]...)
	}
	return set
}

// gradient is the flat gradient [n] of a scalar by the named tensors.
func (l layout) gradient(scalar *Node, set models.NodeSet) *Node {
	by := make([]*Node, len(l.names))
	for i, name := range l.names {
		by[i] = set[name]
	}
	parts := Gradient(scalar, by...)
	for i, g := range parts {
		parts[i] = Reshape(g, l.at[i+1]-l.at[i])
	}
	return Concatenate(parts, 0)
}

// decays is 1 [n] on tensors of two axes or more and 0 on norms and biases.
func (l layout) decays() *tensors.Tensor {
	mask := make([]float32, l.size())
	for i, dims := range l.dims {
		if len(dims) > 1 {
			for j := l.at[i]; j < l.at[i+1]; j++ {
				mask[j] = 1
			}
		}
	}
	return tensors.FromFlatDataAndDimensions(mask, len(mask))
}

// pack copies a weight set, float32, into one vector.
func (l layout) pack(w models.Weights) (*tensors.Tensor, error) {
	flat := make([]float32, 0, l.size())
	for i, name := range l.names {
		t, ok := w[name]
		if !ok || !slices.Equal(t.Shape().Dimensions, l.dims[i]) {
			return nil, fmt.Errorf("weight %s: missing or not %v", name, l.dims[i])
		}
		err := tensors.ConstFlatData(t, func(values []float32) { flat = append(flat, values...) })
		if err != nil {
			return nil, fmt.Errorf("weight %s: %w", name, err)
		}
	}
	return tensors.FromFlatDataAndDimensions(flat, len(flat)), nil
}

// unpack copies a vector into a weight set of its own tensors.
func (l layout) unpack(flat *tensors.Tensor) (models.Weights, error) {
	set := models.Weights{}
	values, err := tensors.CopyFlatData[float32](flat)
	if err != nil {
		return nil, fmt.Errorf("unpack weights: %w", err)
	}
	for i, name := range l.names {
		set[name] = tensors.FromFlatDataAndDimensions(slices.Clone(values[l.at[i]:l.at[i+1]]), l.dims[i]...)
	}
	return set, nil
}

func zeros(n int) *tensors.Tensor { return tensors.FromFlatDataAndDimensions(make([]float32, n), n) }
