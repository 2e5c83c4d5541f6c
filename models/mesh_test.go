package models

import (
	"slices"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend"
	"gobpo/models/backend/backendtest"
)

// Every device holds its part of what divides and a whole of what doesn't, before and after a call; donated parts are gone.
func TestMeshParts(t *testing.T) {
	backendtest.XLA(t) // skips without a plugin
	b, err := backend.Open(backend.Options{Name: "xla:cpu,devices=4"})
	if err != nil {
		t.Fatal(err)
	}
	mesh := Mesh{Data: 2, Model: 2}
	w := Weights{
		"even": tensors.FromValue([][]float32{{1, 2}, {3, 4}, {5, 6}, {7, 8}}),
		"odd":  tensors.FromValue([]float32{1, 2, 3}),
	}
	s, err := Shard(mesh, w)
	if err != nil {
		t.Fatal(err)
	}
	check := func(s Sharded, factor float32) {
		t.Helper()
		for d, want := range [][]float32{{1, 2, 3, 4}, {5, 6, 7, 8}, {1, 2, 3, 4}, {5, 6, 7, 8}} {
			for name, want := range map[string][]float32{"even": want, "odd": {1, 2, 3}} {
				got := tensors.MustCopyFlatData[float32](s.on[d][name])
				for i := range want {
					want[i] *= factor
				}
				if !slices.Equal(got, want) {
					t.Errorf("device %d has %v of %s, want %v", d, got, name, want)
				}
				for i := range want {
					want[i] /= factor
				}
			}
		}
	}
	check(s, 1)
	e := SharedOn(b, mesh, "mesh-test", "", func(sets []NodeSet, in []*graph.Node) ([]NodeSet, []*graph.Node) {
		out := NodeSet{}
		for name, x := range sets[0] {
			out[name] = graph.MulScalar(x, 2)
		}
		return []NodeSet{out}, []*graph.Node{in[0], graph.ReduceAllSum(graph.Mul(in[0], in[1]))}
	})
	sets, out, err := e.CallSharded([]ShardedArg{{s, true}},
		Input{Tensor: tensors.FromValue([]float32{1, 2, 3, 4}), Rows: true}, Input{Tensor: tensors.FromValue([]float32{1, 10, 100, 1000})})
	if err != nil {
		t.Fatal(err)
	}
	check(sets[0], 2)
	if rows := tensors.MustCopyFlatData[float32](out[0]); !slices.Equal(rows, []float32{1, 2, 3, 4}) {
		t.Errorf("the rows came back as %v", rows)
	}
	if sum := tensors.ToScalar[float32](out[1]); sum != 4321 {
		t.Errorf("sum over devices is %v", sum)
	}
	whole, err := sets[0].Gather()
	if err != nil {
		t.Fatal(err)
	}
	if got := tensors.MustCopyFlatData[float32](whole["even"]); !slices.Equal(got, []float32{2, 4, 6, 8, 10, 12, 14, 16}) {
		t.Errorf("gathered %v", got)
	}
}
