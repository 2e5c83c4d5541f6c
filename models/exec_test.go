package models

import (
	"testing"

	"github.com/gomlx/compute"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/support/exceptions"

	"gobpo/models/backend/backendtest"
)

func TestExec(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		e := NewExec(b, "test-exec", func(sets []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
			if len(sets[0]) == 0 {
				exceptions.Panicf("an empty set")
			}
			out, sum := NodeSet{}, in[0]
			for name, x := range sets[0] {
				out[name] = op.Add(x, in[0])
				sum = op.Add(sum, op.ReduceAllSum(x))
			}
			return []NodeSet{out}, []*op.Node{sum}
		})
		defer e.Finalize()
		count := func() int {
			n := 0
			for _, c := range Compilations() {
				if c.Name == "test-exec" {
					n++
				}
			}
			return n
		}
		start := count()
		vec := func(v ...float32) *tensors.Tensor { return tensors.FromFlatDataAndDimensions(v, len(v)) }
		state := Weights{"a": vec(1, 2), "b": vec(3)}
		for i := range 3 {
			old := state
			sets, out, err := e.Call([]Arg{{Set: state, Donate: true}}, tensors.FromScalar(float32(1)))
			if err != nil {
				t.Fatal(err)
			}
			if state = sets[0]; i == 0 {
				wantClose(t, "sum", []float32{tensors.ToScalar[float32](out[0])}, []float32{7}, 0)
			}
			for name, x := range old {
				if x.CheckValid() == nil {
					t.Errorf("%s is still valid after it was donated", name)
				}
			}
		}
		wantClose(t, "a", tensors.MustCopyFlatData[float32](state["a"]), []float32{4, 5}, 0)
		if n := count() - start; n != 1 {
			t.Errorf("%d compilations for one signature", n)
		}
		kept := Weights{"a": vec(1)}
		if _, _, err := e.Call([]Arg{{Set: kept}}, tensors.FromScalar(float32(1))); err != nil {
			t.Fatal(err)
		}
		if n := count() - start; n != 2 || kept["a"].CheckValid() != nil {
			t.Errorf("%d compilations for two signatures; kept set valid: %v", n, kept["a"].CheckValid())
		}
		if _, _, err := e.Call([]Arg{{Set: Weights{}}}, tensors.FromScalar(float32(1))); err == nil {
			t.Error("a panic in the graph function is no error")
		}
	})
}
