package models

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomlx/compute"
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
	name     string
	fn       Fn
	mu       sync.Mutex
	compiled map[string]*program
}

type program struct {
	graph    *graph.Graph
	outNames [][]string // of each output set, sorted
}

// NewExec makes a function ready to compile; name appears in Compilations.
func NewExec(b compute.Backend, name string, fn Fn) *Exec {
	return &Exec{backend: b, name: name, fn: fn, compiled: map[string]*program{}}
}

var sharedExecs sync.Map

// Shared is the process's one Exec of that name and those constants on a backend, made of fn the first time: the trials
// of a sweep, or the layers of a model, compile each graph once. constants must tell apart what fn takes from outside.
func Shared(b compute.Backend, name, constants string, fn Fn) *Exec {
	type key struct {
		backend         compute.Backend
		name, constants string
	}
	e, _ := sharedExecs.LoadOrStore(key{b, name, constants}, NewExec(b, name, fn))
	return e.(*Exec)
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

// Call runs the function. Tensors are moved to the device as needed and stay there. The caller finalizes the outputs.
func (e *Exec) Call(sets []Arg, in ...*tensors.Tensor) (outSets []Weights, out []*tensors.Tensor, err error) {
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
	var consumed []*tensors.Tensor // donated shared buffers: XLA cannot reuse them, so they are freed after the run
	var moved int64                // bytes that leave the Go heap
	add := func(what string, t *tensors.Tensor, give bool) error {
		if !t.IsOnAnyDevice() {
			moved += t.ByteSize()
		}
		var buf compute.Buffer
		var err error
		if give && !t.IsShared() {
			if buf, err = t.DonateBuffer(e.backend, 0); err == nil {
				err = t.FinalizeAll() // and the host copy, if there is one
			}
		} else {
			if buf, err = t.Buffer(e.backend, 0); give {
				consumed, give = append(consumed, t), false
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", e.name, what, err)
		}
		buffers, donate = append(buffers, buf), append(donate, give)
		return nil
	}
	for i, s := range sets {
		for _, name := range names[i] {
			if err := add(name, s.Set[name], s.Donate); err != nil {
				return nil, nil, err
			}
		}
	}
	for i, t := range in {
		if err := add(fmt.Sprintf("input %d", i), t, false); err != nil {
			return nil, nil, err
		}
	}
	if moved > 1<<26 {
		debug.FreeOSMemory() // a model just moved to the device: its host copy should not linger until the next GC
	}
	err = exceptions.TryCatch[error](func() { out = p.graph.RunWithBuffers(buffers, donate, 0) })
	for _, t := range consumed {
		_ = t.FinalizeAll()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", e.name, err)
	}
	outSets = make([]Weights, len(p.outNames))
	for i, set := range p.outNames {
		outSets[i] = make(Weights, len(set))
		for _, name := range set {
			outSets[i][name], out = out[0], out[1:]
		}
	}
	return outSets, out, nil
}

func (e *Exec) program(sets []Arg, names [][]string, in []*tensors.Tensor) (*program, error) {
	var sig, inputs strings.Builder
	for i, s := range sets {
		sig.WriteString("|")
		for _, name := range names[i] {
			fmt.Fprintf(&sig, "%s%s", name, s.Set[name].Shape())
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

func (e *Exec) compile(sets []Arg, names [][]string, in []*tensors.Tensor) (*program, error) {
	p := &program{graph: graph.NewGraph(e.backend, fmt.Sprintf("%s#%d", e.name, len(e.compiled)))}
	var outputs []*graph.Node
	err := exceptions.TryCatch[error](func() {
		nodes := make([]NodeSet, len(sets))
		for i, s := range sets {
			nodes[i] = make(NodeSet, len(s.Set))
			for _, name := range names[i] {
				nodes[i][name] = graph.Parameter(p.graph, fmt.Sprintf("set%d/%s", i, name), s.Set[name].Shape())
			}
		}
		plain := make([]*graph.Node, len(in))
		for i, t := range in {
			plain[i] = graph.Parameter(p.graph, fmt.Sprintf("in%d", i), t.Shape())
		}
		outSets, out := e.fn(nodes, plain)
		for _, s := range outSets {
			set := Weights{}
			for name := range s {
				set[name] = nil
			}
			p.outNames = append(p.outNames, set.Names())
			for _, name := range set.Names() {
				outputs = append(outputs, s[name])
			}
		}
		outputs = append(outputs, out...)
	})
	if err == nil {
		err = p.graph.Compile(outputs...)
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
