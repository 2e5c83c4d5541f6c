package bpo

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
)

// layout says where the tensors of a weight set stand in one flat float32 vector, a block: matrices first, then norms and
// biases, each in the order of their names. An adapter is one block: one clip, one update and one accumulation, whatever
// the number of its tensors. A full model has a block for each tensor, so that an update needs room for one at a time.
type layout struct {
	name     string // of the block
	names    []string
	dims     [][]int
	dtypes   []dtypes.DType // in which a policy holds the tensors
	at       []int          // where each tensor starts; one more entry: the whole size
	matrices int            // the first so many numbers are those of tensors of two axes or more
}

// layoutOf lays out tensors of a weight set.
func layoutOf(block string, w models.Weights, names []string) layout {
	matrix := func(name string) bool { return w[name].Rank() > 1 }
	l := layout{name: block, at: []int{0}}
	for _, matrices := range []bool{true, false} {
		for _, name := range names {
			if matrix(name) == matrices {
				l.names = append(l.names, name)
				l.dims = append(l.dims, w[name].Shape().Dimensions)
				l.dtypes = append(l.dtypes, w[name].DType())
				l.at = append(l.at, l.size()+w[name].Size())
			}
		}
		if matrices {
			l.matrices = l.size()
		}
	}
	return l
}

func (l layout) size() int { return l.at[len(l.at)-1] }

// cut gives the tensors of a flat vector [n].
func (l layout) cut(flat *Node) []*Node {
	out := make([]*Node, len(l.dims))
	for i := range l.dims {
		out[i] = Reshape(SliceAxis(flat, 0, AxisRange(l.at[i], l.at[i+1])), l.dims[i]...)
	}
	return out
}

// join is the inverse of cut: tensors of the block to [n].
func (l layout) join(parts []*Node) *Node {
	flat := make([]*Node, len(parts))
	for i, p := range parts {
		flat[i] = Reshape(p, p.Shape().Size())
	}
	return Concatenate(flat, 0)
}

// pack copies the block's tensors of a weight set, float32 or bfloat16, into one vector.
func (l layout) pack(w models.Weights) (*tensors.Tensor, error) {
	defer dropHostCopies(w)
	flat := make([]float32, 0, l.size())
	for i, name := range l.names {
		t, ok := w[name]
		if !ok || !slices.Equal(t.Shape().Dimensions, l.dims[i]) {
			return nil, fmt.Errorf("weight %s: missing or not %v", name, l.dims[i])
		}
		var err error
		switch t.DType() {
		case dtypes.Float32:
			err = tensors.ConstFlatData(t, func(values []float32) { flat = append(flat, values...) })
		case dtypes.BFloat16:
			err = tensors.ConstFlatData(t, func(values []bfloat16.BFloat16) {
				for _, v := range values {
					flat = append(flat, v.Float32())
				}
			})
		default:
			err = fmt.Errorf("dtype %s cannot be trained", t.DType())
		}
		if err != nil {
			return nil, fmt.Errorf("weight %s: %w", name, err)
		}
	}
	return tensors.FromFlatDataAndDimensions(flat, len(flat)), nil
}

// unpack copies a block's vector into tensors of their own, which join set, in the layout's dtypes.
// It goes through the host for an adapter, whose many small tensors would take a backend long to compile.
func (l layout) unpack(b compute.Backend, flat *tensors.Tensor, set models.Weights) error {
	if len(l.names) > 1 {
		values, err := tensors.CopyFlatData[float32](flat)
		if err != nil {
			return fmt.Errorf("unpack weights: %w", err)
		}
		for i, name := range l.names {
			set[name] = tensors.FromFlatDataAndDimensions(slices.Clone(values[l.at[i]:l.at[i+1]]), l.dims[i]...)
		}
		return nil
	}
	unpack := models.Shared(b, "unpack", fmt.Sprint(l.dims, l.dtypes), func(sets []models.NodeSet, _ []*Node) ([]models.NodeSet, []*Node) {
		return []models.NodeSet{{"w": ConvertDType(Reshape(sets[0]["w"], l.dims[0]...), l.dtypes[0])}}, nil
	})
	sets, _, err := unpack.Call([]models.Arg{{Set: models.Weights{"w": flat}}})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", l.names[0], err)
	}
	set[l.names[0]] = sets[0]["w"]
	return nil
}

// dropHostCopies frees the copies that reading device tensors leaves on the host.
func dropHostCopies(w models.Weights) {
	for _, t := range w {
		if t.IsOnAnyDevice() && !t.IsShared() {
			t.FinalizeLocal()
		}
	}
}

func zeros(dims ...int) *tensors.Tensor {
	return tensors.FromFlatDataAndDimensions(make([]float32, product(dims)), dims...)
}
