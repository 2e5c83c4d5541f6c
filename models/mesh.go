package models

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Mesh lays Data·Model devices of a backend out in a grid. The rows of a batch are split over all of them; weights and
// what belongs to them are split over the Model devices of a row and repeated Data times, so that each device holds
// one part in Model (fully sharded data parallelism: XLA gathers a weight where it is used). The zero value, like
// {1, 1}, is one device.
type Mesh struct {
	Data  int `mapstructure:"data" yaml:"data"`
	Model int `mapstructure:"model" yaml:"model"`
}

// Devices is the number of devices that the mesh takes, from device 0 on.
func (m Mesh) Devices() int { return max(1, m.Data) * max(1, m.Model) }

// Check says whether a backend has the mesh's devices; the error starts with the configuration's key.
func (m Mesh) Check(b compute.Backend) error {
	n, have := m.Devices(), b.NumDevices()
	if n > have {
		return fmt.Errorf("mesh: data %d × model %d are %d devices, the backend shows %d (a CPU shows more as xla:cpu,devices=%d)", max(1, m.Data), max(1, m.Model), n, have, n)
	}
	return nil
}

// Axes of the mesh in a graph.
const dataAxis, modelAxis = "data", "model"

// splits says whether a weight of these dimensions is split, along its first axis; others are on every device.
func (m Mesh) splits(dims []int) bool { return m.Model > 1 && len(dims) > 0 && dims[0]%m.Model == 0 }

// meshPlacer tells XLA's partitioner (Shardy) where a graph's inputs and outputs lie. Without devices it says nothing.
type meshPlacer struct {
	mesh    Mesh
	devices *distributed.DeviceMesh // nil: one device
}

func (m Mesh) placer(g *graph.Graph) (p meshPlacer, err error) {
	p.mesh = m
	if m.Devices() == 1 {
		return p, nil
	}
	if p.devices, err = distributed.NewDeviceMesh([]int{max(1, m.Data), max(1, m.Model)}, []string{dataAxis, modelAxis}); err != nil {
		return p, err
	}
	return p, g.SetAutoSharding(p.devices)
}

// spec is a tensor of this rank with its first axis split over the named ones, if there are any.
func (p meshPlacer) spec(rank int, axes ...string) *distributed.ShardingSpec {
	if p.devices == nil {
		return nil
	}
	b := distributed.BuildSpec(p.devices)
	for i := range rank {
		if i == 0 && len(axes) > 0 {
			b = b.S(axes...)
		} else {
			b = b.R()
		}
	}
	s, err := b.Done()
	if err != nil {
		panic(err) // axes of the mesh
	}
	return s
}

func (p meshPlacer) weight(s shapes.Shape) *distributed.ShardingSpec {
	if p.mesh.splits(s.Dimensions) {
		return p.spec(s.Rank(), modelAxis)
	}
	return p.spec(s.Rank())
}

func (p meshPlacer) input(in Input) *distributed.ShardingSpec {
	if in.Rows {
		return p.spec(in.Shape().Rank(), dataAxis, modelAxis)
	}
	return p.spec(in.Shape().Rank())
}

// outputs places the tensors of output sets, the first ones, like weights, and gives the others whole to every device.
func (p meshPlacer) outputs(out []*graph.Node, sets int) []*distributed.ShardingSpec {
	if p.devices == nil {
		return nil
	}
	specs := make([]*distributed.ShardingSpec, len(out))
	for i, x := range out {
		if specs[i] = p.spec(x.Rank()); i < sets {
			specs[i] = p.weight(x.Shape())
		}
	}
	return specs
}

// Sharded is a weight set on a mesh.
type Sharded struct {
	mesh  Mesh
	shape map[string]shapes.Shape // of the whole weights
	on    []Weights               // by device: its parts
}

// NewSharded is an empty set.
func NewSharded(m Mesh) Sharded {
	s := Sharded{mesh: m, shape: map[string]shapes.Shape{}, on: make([]Weights, m.Devices())}
	for i := range s.on {
		s.on[i] = Weights{}
	}
	return s
}

// Shard puts copies of weights on a mesh. On one device it takes the weights themselves.
func Shard(m Mesh, w Weights) (Sharded, error) {
	s := NewSharded(m)
	for name, t := range w {
		s.shape[name] = t.Shape()
	}
	if m.Devices() == 1 {
		s.on[0] = w
		return s, nil
	}
	defer w.dropHostCopies()
	for name, t := range w {
		for d := range s.on {
			part, err := s.part(t, d)
			if err != nil {
				s.Finalize()
				return s, fmt.Errorf("put %s on the mesh: %w", name, err)
			}
			s.on[d][name] = part
		}
	}
	return s, nil
}

// part copies what a device has of a weight.
func (s Sharded) part(t *tensors.Tensor, device int) (*tensors.Tensor, error) {
	if s.mesh.splits(t.Shape().Dimensions) {
		return rowsOf(t, device%s.mesh.Model, s.mesh.Model)
	}
	return rowsOf(t, 0, 1)
}

// rowsOf copies the i-th of n equal parts of a tensor's first axis.
func rowsOf(t *tensors.Tensor, i, n int) (*tensors.Tensor, error) {
	shape := t.Shape().Clone()
	if n > 1 {
		shape.Dimensions[0] /= n
	}
	part := tensors.FromShape(shape)
	var inner error
	err := t.ConstBytes(func(from []byte) {
		size := len(from) / n
		inner = part.MutableBytes(func(to []byte) { copy(to, from[i*size:(i+1)*size]) })
	})
	if err == nil {
		err = inner
	}
	return part, err
}

// Gather copies the whole weights to the host. On one device it gives the weights themselves.
func (s Sharded) Gather() (Weights, error) {
	if s.mesh.Devices() == 1 {
		return s.on[0], nil
	}
	w := Weights{}
	for name, shape := range s.shape {
		t := tensors.FromShape(shape)
		w[name] = t
		parts := 1
		if s.mesh.splits(shape.Dimensions) {
			parts = s.mesh.Model
		}
		for i := range parts {
			var inner error
			err := s.on[i][name].ConstBytes(func(from []byte) {
				inner = t.MutableBytes(func(to []byte) { copy(to[i*len(from):], from) })
			})
			if err == nil {
				err = inner
			}
			if err != nil {
				w.Finalize()
				return nil, fmt.Errorf("gather %s from the mesh: %w", name, err)
			}
		}
	}
	for _, on := range s.on {
		on.dropHostCopies()
	}
	return w, nil
}

// Has says whether the set has a weight of this name.
func (s Sharded) Has(name string) bool { _, ok := s.shape[name]; return ok }

// Put takes a weight of another set, under a name; both sets then hold the same tensors.
func (s Sharded) Put(name string, from Sharded, as string) {
	s.shape[name] = from.shape[as]
	for d := range s.on {
		s.on[d][name] = from.on[d][as]
	}
}

// Names lists the names in sorted order.
func (s Sharded) Names() []string { return slices.Sorted(maps.Keys(s.shape)) }

// Finalize frees every tensor.
func (s Sharded) Finalize() {
	for _, w := range s.on {
		w.Finalize()
	}
}
