package backendtest

import (
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

func TestEachRunsBothBackends(t *testing.T) {
	var names []string
	Each(t, func(t *testing.T, b compute.Backend) {
		names = append(names, b.Name())
		got := graph.MustExecOnce(b, func(x *graph.Node) *graph.Node { return graph.MulScalar(x, 2) }, float32(21))
		if v := tensors.ToScalar[float32](got); v != 42 {
			t.Errorf("2·21 = %v", v)
		}
	})
	if len(names) == 0 || names[len(names)-1] != "Go Backend" {
		t.Errorf("ran on %v, want the Go backend last", names)
	}
}

// The fused softmax of the Go backend fails on bfloat16; opening it must have turned fusion off.
func TestBFloat16Softmax(t *testing.T) {
	Each(t, func(t *testing.T, b compute.Backend) {
		got := graph.MustExecOnce(b, func(x *graph.Node) *graph.Node {
			return graph.ConvertDType(graph.Softmax(graph.ConvertDType(x, dtypes.BFloat16)), dtypes.Float32)
		}, []float32{1, 1, 1, 1})
		for _, v := range tensors.MustCopyFlatData[float32](got) {
			if v != 0.25 {
				t.Errorf("softmax of equal logits: %v, want 0.25", v)
			}
		}
	})
}

func TestOneInstancePerProcess(t *testing.T) {
	if Go(t) != Go(t) || XLA(t) != XLA(t) {
		t.Error("a second call opened a second backend")
	}
	if n := XLA(t).NumDevices(); n != 1 {
		t.Errorf("xla:cpu shows %d devices, want 1", n)
	}
}
