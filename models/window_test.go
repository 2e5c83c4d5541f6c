package models

import (
	"slices"
	"testing"

	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend/backendtest"
)

// Masks are built once a window; one that holds every position is none.
func TestLayerMasks(t *testing.T) {
	c := Config{NumLayers: 5, Window: 4, Sliding: []bool{true, false, true, true, false}}
	for _, tc := range []struct {
		config  Config
		width   int
		windows []int
	}{
		{c, 5, []int{4, 0, 4, 4, 0}},
		{c, 4, []int{0, 0, 0, 0, 0}},
		{Config{NumLayers: 2, Window: 3}, 9, []int{3, 3}},
		{Config{NumLayers: 2}, 9, []int{0, 0}},
	} {
		built := map[int][]*op.Node{}
		masks := tc.config.LayerMasks(tc.width, func(window int) []*op.Node {
			if built[window] != nil {
				t.Errorf("window %d is built twice", window)
			}
			built[window] = []*op.Node{new(op.Node)}
			return built[window]
		})
		for layer, w := range tc.windows {
			if got := masks(layer); len(got) != 1 || got[0] != built[w][0] {
				t.Errorf("layer %d of %+v does not have the mask of window %d", layer, tc.config, w)
			}
		}
	}
}

// Near and Causal against their definitions, on left-padded rows of different lengths.
func TestWindowsCountPositions(t *testing.T) {
	const n = 6
	lengths := []int32{6, 4, 1}
	positions := make([]int32, 0, len(lengths)*n)
	for _, length := range lengths {
		for place := range int32(n) {
			positions = append(positions, max(place-(n-length), 0))
		}
	}
	for _, window := range []int{0, 1, 3, 6} {
		e := NewExec(backendtest.Go(t), "masks", func(_ []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
			causal := Causal(in[0].Graph(), n, 0)
			wide := op.BroadcastToDims(causal, len(lengths), n, n)
			return nil, []*op.Node{Near(wide, in[0], in[0], window), op.Identity(Causal(in[0].Graph(), n, window))}
		})
		_, out, err := e.Call(nil, tensors.FromFlatDataAndDimensions(positions, len(lengths), n))
		if err != nil {
			t.Fatal(err)
		}
		near, causal := tensors.MustCopyFlatData[bool](out[0]), tensors.MustCopyFlatData[bool](out[1])
		var wantNear, wantCausal []bool
		for row := range lengths {
			for i := range n {
				for j := range n {
					ago := int(positions[row*n+i] - positions[row*n+j])
					wantNear = append(wantNear, j <= i && (window == 0 || ago < window))
					if row == 0 {
						wantCausal = append(wantCausal, j <= i && (window == 0 || i-j < window))
					}
				}
			}
		}
		if !slices.Equal(near, wantNear) || !slices.Equal(causal, wantCausal) {
			t.Errorf("window %d: %v and %v", window, near, causal)
		}
		finalize(out)
		e.Finalize()
	}
}
