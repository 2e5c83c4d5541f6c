package models

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	op "github.com/gomlx/gomlx/core/graph"
)

// window is how many positions back a layer sees, itself included; 0: everything.
func (c *Config) window(layer int) int {
	if c.Sliding != nil && !c.Sliding[layer] {
		return 0
	}
	return c.Window
}

// LayerMasks gives every layer's masks, building them once for each window among the layers. width is the most
// positions there can be: a window that holds them all is none, 0, and costs nothing.
func (c *Config) LayerMasks(width int, build func(window int) []*op.Node) func(layer int) []*op.Node {
	masks, windows := map[int][]*op.Node{}, make([]int, c.NumLayers)
	for layer := range windows {
		w := c.window(layer)
		if w >= width {
			w = 0
		}
		if windows[layer] = w; masks[w] == nil {
			masks[w] = build(w)
		}
	}
	return func(layer int) []*op.Node { return masks[windows[layer]] }
}

// Near narrows a mask [B, S, T] of which keys each query may see to those less than window positions before it: queries
// [B, S] and keys [B, T] are positions, int32, counted without padding. Window 0 leaves the mask alone.
func Near(mask, queries, keys *op.Node, window int) *op.Node {
	if window == 0 {
		return mask
	}
	ago := op.Sub(op.InsertAxes(queries, -1), op.InsertAxes(keys, 1)) // [B, S, T]
	return op.LogicalAnd(mask, op.LessThan(ago, op.Scalar(mask.Graph(), dtypes.Int32, window)))
}

// windowKeys is how a family's config.json spells its windows.
type windowKeys int

const (
	noWindows   windowKeys = iota
	everyLayer             // sliding_window
	upperLayers            // use_sliding_window, sliding_window and max_window_layers or layer_types (Qwen)
	evenLayers             // sliding_window, on every other layer or by layer_types (Gemma 2)
)

const full, sliding = "full_attention", "sliding_attention"

func (r *hfReader) readWindows(k windowKeys, c *Config) {
	if k == noWindows {
		return
	}
	if r.present("sliding_window") && !r.has("sliding_window") {
		c.Window = 0
	} else if r.read("sliding_window", &c.Window) && c.Window <= 0 {
		r.fail("sliding_window is %d, must be positive or null", c.Window)
	}
	if k == everyLayer || c.NumLayers < 0 || c.NumLayers > 1<<16 {
		return
	}
	slides := func(layer int) bool { return layer%2 == 0 }
	if k == upperLayers {
		use, first := false, 28
		r.read("use_sliding_window", &use)
		r.read("max_window_layers", &first)
		if slides = func(layer int) bool { return layer >= first }; !use {
			c.Window = 0
		}
	}
	c.Sliding = make([]bool, c.NumLayers)
	var types []string
	byType := r.read("layer_types", &types)
	if byType && len(types) != c.NumLayers {
		r.fail("layer_types has %d entries, num_hidden_layers is %d", len(types), c.NumLayers)
		return
	}
	if k == evenLayers && !byType && c.Window == 0 {
		r.fail("sliding_window is null, but without layer_types every other layer slides")
	}
	for layer := range c.Sliding {
		switch {
		case !byType:
			c.Sliding[layer] = c.Window > 0 && slides(layer)
		case types[layer] == sliding && c.Window == 0:
			r.fail("layer_types: layer %d is %s, but no sliding_window is in use", layer, sliding)
		case types[layer] == sliding, types[layer] == full:
			c.Sliding[layer] = types[layer] == sliding
		default:
			r.fail("layer_types: %q is not supported (%s or %s)", types[layer], full, sliding)
		}
	}
	if !slices.Contains(c.Sliding, true) {
		c.Window = 0
	}
	if c.Window == 0 || !slices.Contains(c.Sliding, false) {
		c.Sliding = nil
	}
}

func (c *Config) writeWindows(k windowKeys, out map[string]any) {
	if k == noWindows {
		return
	}
	out["sliding_window"] = c.Window
	if c.Window == 0 {
		out["sliding_window"] = nil
	}
	if k == everyLayer {
		return
	}
	types := make([]string, c.NumLayers)
	for layer := range types {
		if types[layer] = full; c.window(layer) > 0 {
			types[layer] = sliding
		}
	}
	out["layer_types"] = types
	if k == upperLayers {
		out["use_sliding_window"] = c.Window > 0
	}
}

func (c *Config) validateWindows() error {
	switch {
	case c.Window < 0:
		return fmt.Errorf("sliding_window is %d, must be positive", c.Window)
	case c.Sliding != nil && len(c.Sliding) != c.NumLayers:
		return fmt.Errorf("layer_types has %d entries, num_hidden_layers is %d", len(c.Sliding), c.NumLayers)
	}
	return nil
}
