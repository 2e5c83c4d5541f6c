package models

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/support/exceptions"

	"gobpo/internal/cmem"
)

// Fn builds a graph over named weight sets and plain inputs. Output sets come back as weight sets of the same names.
// It may return no output sets or no plain outputs, but not neither.
type Fn func(sets []NodeSet, in []*graph.Node) (outSets []NodeSet, out []*graph.Node)

// Arg is a weight set given to a call. A donated set is consumed: its tensors are invalid afterwards, also when the
// call fails, and their memory is free for the outputs.
type Arg struct {
	Set    Weights
	Donate bool
}

// Exec is a compiled function over named weight sets, one executable per signature: the sets' names, shapes and dtypes
// and the inputs' shapes. An adapter of another rank, or an absent one, just compiles another. Constants that Fn takes
// from outside (LoRA.Scale, loss parameters) are part of the executable but not of the signature: use another Exec for
// other constants. Safe for concurrent calls.
type Exec struct {
	backend  compute.Backend
	mesh     Mesh
	name     string
	fn       Fn
	mu       sync.Mutex
	compiled map[string]*program
}

type program struct {
	graph    *graph.Graph
	outNames [][]string     // of each output set, sorted
	outSets  []shapes.Shape // of their tensors, whole
}

// NewExec makes a function ready to compile; name appears in Compilations.
func NewExec(b compute.Backend, name string, fn Fn) *Exec {
	return &Exec{backend: b, name: name, fn: fn, compiled: map[string]*program{}}
}

var sharedExecs sync.Map

// Shared is the process's one Exec of that name and those constants on a backend, made of fn the first time: the trials
// of a sweep, or the layers of a model, compile each graph once. constants must tell apart what fn takes from outside.
func Shared(b compute.Backend, name, constants string, fn Fn) *Exec {
	return SharedOn(b, Mesh{}, name, constants, fn)
}

// SharedOn is Shared for a function that runs on a mesh.
func SharedOn(b compute.Backend, m Mesh, name, constants string, fn Fn) *Exec {
	type key struct {
		backend         compute.Backend
		mesh            Mesh
		name, constants string
	}
	e := NewExec(b, name, fn)
	e.mesh = m
	shared, _ := sharedExecs.LoadOrStore(key{b, m, name, constants}, e)
	return shared.(*Exec)
}

// Compilation is one executable built by this process.
type Compilation struct {
	Name    string  // of the Exec
	Shapes  string  // of the plain inputs
	Seconds float64 // graph building and compilation
}

var compilations struct {
	sync.Mutex
	list []Compilation
}

// Compilations lists every compilation of this process so far, in order.
func Compilations() []Compilation {
	compilations.Lock()
	defer compilations.Unlock()
	return slices.Clone(compilations.list)
}

// Call is CallOn the first device.
func (e *Exec) Call(sets []Arg, in ...*tensors.Tensor) (outSets []Weights, out []*tensors.Tensor, err error) {
	return e.CallOn(0, sets, in...)
}

// CallOn runs the function on one device. Tensors are moved to the device as needed and stay there. The caller finalizes
// the outputs.
func (e *Exec) CallOn(device int, sets []Arg, in ...*tensors.Tensor) (outSets []Weights, out []*tensors.Tensor, err error) {
	sharded := make([]ShardedArg, len(sets))
	for i, s := range sets {
		whole, err := Shard(Mesh{}, s.Set)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", e.name, err)
		}
		sharded[i] = ShardedArg{whole, s.Donate}
	}
	inputs := make([]Input, len(in))
	for i, t := range in {
		inputs[i].Tensor = t
	}
	outs, out, err := e.call(device, sharded, inputs)
	for _, s := range outs {
		outSets = append(outSets, s.on[0])
	}
	return outSets, out, err
}

// ShardedArg is Arg on a mesh.
type ShardedArg struct {
	Set    Sharded
	Donate bool
}

// Input is a plain input. On a mesh every device gets it whole, or its share of the Rows, the first axis.
type Input struct {
	*tensors.Tensor
	Rows bool
}

// CallSharded runs the function on its mesh, of which the sets are. Output sets lie on the mesh as inputs do; plain
// outputs come back whole.
func (e *Exec) CallSharded(sets []ShardedArg, in ...Input) (outSets []Sharded, out []*tensors.Tensor, err error) {
	return e.call(0, sets, in)
}

// call runs on the mesh's devices, counted from first.
func (e *Exec) call(first int, sets []ShardedArg, in []Input) (outSets []Sharded, out []*tensors.Tensor, err error) {
	names := make([][]string, len(sets))
	for i, s := range sets {
		names[i] = s.Set.Names()
	}
	p, err := e.program(sets, names, in)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", e.name, err)
	}
	var buffers []compute.Buffer
	var donate []bool
	var consumed []*tensors.Tensor // freed after the run: donated shared buffers, which XLA cannot reuse, and shares of inputs
	defer func() {
		for _, t := range consumed {
			_ = t.FinalizeAll()
		}
	}()
	var moved int64 // bytes that leave the Go heap
	add := func(device int, what string, t *tensors.Tensor, give bool) error {
		if !t.IsOnAnyDevice() {
			moved += t.ByteSize()
		}
		var buf compute.Buffer
		var err error
		at := compute.DeviceNum(first + device)
		if give && !t.IsShared() {
			if buf, err = t.DonateBuffer(e.backend, at); err == nil {
				err = t.FinalizeAll() // and the host copy, if there is one
			}
		} else {
			if buf, err = t.Buffer(e.backend, at); give {
				consumed, give = append(consumed, t), false
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", e.name, what, err)
		}
		buffers, donate = append(buffers, buf), append(donate, give)
		return nil
	}
	devices := e.mesh.Devices()
	for d := range devices {
		for i, s := range sets {
			for _, name := range names[i] {
				if err := add(d, name, s.Set.on[d][name], s.Donate); err != nil {
					return nil, nil, err
				}
			}
		}
		for i, input := range in {
			t := input.Tensor
			if devices > 1 {
				share, of := 0, 1
				if input.Rows {
					share, of = d, devices
				}
				if t, err = rowsOf(t, share, of); err != nil {
					return nil, nil, fmt.Errorf("%s: input %d: %w", e.name, i, err)
				}
				consumed = append(consumed, t)
			}
			if err := add(d, fmt.Sprintf("input %d", i), t, false); err != nil {
				return nil, nil, err
			}
		}
	}
	if moved > 1<<26 {
		debug.FreeOSMemory() // a model just moved to the device: its host copy should not linger until the next GC
	}
	var all []*tensors.Tensor
	if err = exceptions.TryCatch[error](func() { all = p.graph.RunWithBuffers(buffers, donate, compute.DeviceNum(first)) }); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", e.name, err)
	}
	outSets = make([]Sharded, len(p.outNames))
	for i := range outSets {
		outSets[i] = NewSharded(e.mesh)
	}
	for d, each := 0, len(all)/devices; d < devices; d++ {
		rest, k := all[d*each:(d+1)*each], 0
		for i, set := range p.outNames {
			for _, name := range set {
				outSets[i].shape[name], outSets[i].on[d][name] = p.outSets[k], rest[k]
				k++
			}
		}
		if d == 0 {
			out = rest[k:]
		} else {
			finalize(rest[k:])
		}
	}
	return outSets, out, nil
}

func (e *Exec) program(sets []ShardedArg, names [][]string, in []Input) (*program, error) {
	var sig, inputs strings.Builder
	for i, s := range sets {
		sig.WriteString("|")
		for _, name := range names[i] {
			fmt.Fprintf(&sig, "%s%s", name, s.Set.shape[name])
		}
	}
	for _, t := range in {
		inputs.WriteString(t.Shape().String())
	}
	sig.WriteString("|" + inputs.String())

	e.mu.Lock() // also while compiling: two callers of one signature must not both compile it
	defer e.mu.Unlock()
	if p, ok := e.compiled[sig.String()]; ok {
		return p, nil
	}
	start := time.Now()
	p, err := e.compile(sets, names, in)
	if err != nil {
		return nil, err
	}
	cmem.Trim()
	e.compiled[sig.String()] = p
	compilations.Lock()
	compilations.list = append(compilations.list, Compilation{e.name, inputs.String(), time.Since(start).Seconds()})
	compilations.Unlock()
	return p, nil
}

func (e *Exec) compile(sets []ShardedArg, names [][]string, in []Input) (*program, error) {
	p := &program{graph: graph.NewGraph(e.backend, fmt.Sprintf("%s#%d", e.name, len(e.compiled)))}
	var outputs []*graph.Node
	place, err := e.mesh.placer(p.graph)
	if err != nil {
		return nil, err
	}
	err = exceptions.TryCatch[error](func() {
		nodes := make([]NodeSet, len(sets))
		for i, s := range sets {
			nodes[i] = make(NodeSet, len(names[i]))
			for _, name := range names[i] {
				shape := s.Set.shape[name]
				nodes[i][name] = graph.ShardedParameter(p.graph, fmt.Sprintf("set%d/%s", i, name), shape, place.weight(shape))
			}
		}
		plain := make([]*graph.Node, len(in))
		for i, t := range in {
			plain[i] = graph.ShardedParameter(p.graph, fmt.Sprintf("in%d", i), t.Shape(), place.input(t))
		}
		outSets, out := e.fn(nodes, plain)
		for _, s := range outSets {
			set := Weights{}
			for name := range s {
				set[name] = nil
			}
			p.outNames = append(p.outNames, set.Names())
			for _, name := range set.Names() {
				outputs, p.outSets = append(outputs, s[name]), append(p.outSets, s[name].Shape())
			}
		}
		outputs = append(outputs, out...)
	})
	if err == nil {
		err = p.graph.CompileWithSharding(outputs, place.outputs(outputs, len(p.outSets)))
	}
	if err != nil {
		p.graph.Finalize()
		return nil, err
	}
	return p, nil
}

// Finalize frees the executables. Weights and outputs are not touched.
func (e *Exec) Finalize() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.compiled {
		p.graph.Finalize()
	}
	e.compiled = map[string]*program{}
}
