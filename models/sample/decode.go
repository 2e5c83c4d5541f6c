package sample

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"

	"gobpo/models"
)

// A batch is B prompts with n samples each. A prompt's keys and values are computed once and shared by its samples
// ("prefix", read only); each sample has a cache of its own for what follows ("own"). To the transformer, the n samples
// of a prompt are one batch entry with n queries, each of which looks at the prefix and at its own cache.

func prefixName(kv string, layer int) string { return fmt.Sprintf("prefix.%s.%d", kv, layer) }
func ownName(kv string, layer int) string    { return fmt.Sprintf("own.%s.%d", kv, layer) }

// prefill runs the prompts: prompt [B, P] int32 left-padded, mask [B, P] bool. Returns the prefix set, a layer's keys
// [B, kvHeads, 1, dim, P] and values [B, kvHeads, 1, P, dim]. The last token's place is never looked at: it is the first
// token that decoding feeds.
func prefill(c models.Config, p *models.Params, prompt, mask *op.Node) models.NodeSet {
	out := models.NodeSet{}
	positions, seen := models.PrefixPositions(mask)
	width := mask.Shape().Dim(1)
	masks := c.LayerMasks(width, func(window int) []*op.Node {
		return []*op.Node{op.LogicalAnd(op.InsertAxes(seen, 1), models.Causal(mask.Graph(), width, window))}
	})
	c.Hidden(p, prompt, positions, func(layer int, q, k, v *op.Node) *op.Node {
		s := models.Span{K: models.Keys(k, 1), V: models.Values(v, 1), Mask: masks(layer)[0]}
		out[prefixName("k", layer)], out[prefixName("v", layer)] = s.K, s.V
		return c.Attention(q, s)
	})
	return out
}

// decoder builds the decoding loop. State, all in one set:
//
//	own.k.<layer> [B, kvHeads, n, dim, R]       keys of the fed tokens
//	own.v.<layer> [B, kvHeads, n, R, dim]       and their values
//	step []                                     tokens chosen so far
//	last [B, n] int32, finished [B, n] bool     the token to feed, rows that have stopped
//	done [] bool                                all rows have
//	tokens [B, n, R] int32, sampled, policy [B, n, R] float32   the results
type decoder struct {
	config  models.Config
	options Options
	lora    models.LoRA
	slices  bool // the backend can update a slice in place, and loop
}

// run decodes until step reaches the limit or every row has finished, or a single step (see slices). mask [B, P] bool and uniforms [B, n, R] float32
// are inputs.
func (d decoder) run(sets []models.NodeSet, mask, uniforms, limit *op.Node) models.NodeSet {
	const base, adapter, prefix, state = "0/", "1/", "2/", "3/"
	all := models.NodeSet{"mask": mask, "uniforms": uniforms, "limit": limit}
	if !d.slices { // a backend without the ops for it: one step a call
		return d.step(&models.Params{Base: sets[0], Adapter: sets[1], LoRA: d.lora}, sets[2], sets[3], mask, uniforms)
	}
	for i, tag := range []string{base, adapter, prefix, state} {
		for name, x := range sets[i] {
			all[tag+name] = x
		}
	}
	end := while(all, func(s models.NodeSet) *op.Node {
		return op.LogicalAnd(op.LessThan(s[state+"step"], s["limit"]), op.LogicalNot(s[state+"done"]))
	}, func(s models.NodeSet) models.NodeSet {
		part := func(tag string) models.NodeSet {
			set := models.NodeSet{}
			for name, x := range s {
				if len(name) > 2 && name[:2] == tag {
					set[name[2:]] = x
				}
			}
			return set
		}
		p := &models.Params{Base: part(base), Adapter: part(adapter), LoRA: d.lora}
		next := models.NodeSet{}
		for name, x := range d.step(p, part(prefix), part(state), s["mask"], s["uniforms"]) {
			next[state+name] = x
		}
		return next
	})
	out := models.NodeSet{}
	for name := range sets[3] {
		out[name] = end[state+name]
	}
	return out
}

// step feeds the last tokens and chooses the next ones.
func (d decoder) step(p *models.Params, prefix, s models.NodeSet, mask, uniforms *op.Node) models.NodeSet {
	c, next, g := d.config, models.NodeSet{}, mask.Graph()
	step, finished := s["step"], s["finished"]
	batch, n := finished.Shape().Dim(0), finished.Shape().Dim(1)
	size, width := uniforms.Shape().Dim(2), mask.Shape().Dim(1)

	length := op.ReduceAndKeep(op.ConvertDType(mask, dtypes.Int32), op.ReduceSum, -1) // [B, 1]
	positions := op.BroadcastToDims(op.Add(op.MinusOne(length), step), batch, n)
	slots := shapes.Make(dtypes.Int32, batch, n, size)
	itself := op.BroadcastToDims(op.Equal(step, step), batch, n, 1)
	before, seen := models.PrefixPositions(mask)
	masks := c.LayerMasks(width+size, func(window int) []*op.Node {
		written := op.LessThan(op.Iota(g, slots, 2), step) // [B, n, R]
		if window > 0 {                                    // slots lie where tokens do, step positions after the first
			written = op.LogicalAnd(written, op.GreaterThan(op.Iota(g, slots, 2), op.SubScalar(step, window)))
		}
		return []*op.Node{models.Near(op.BroadcastToDims(op.InsertAxes(seen, 1), batch, n, width), positions, before, window), written}
	})
	hidden := c.Hidden(p, s["last"], positions, func(layer int, q, k, v *op.Node) *op.Node {
		// Attention reads the caches as they were, and the fed token as a span of its own: reading the updated ones
		// instead makes XLA copy them several times.
		fed := models.Span{K: models.Keys(k, n), V: models.Values(v, n), Mask: itself}
		kName, vName := ownName("k", layer), ownName("v", layer)
		next[kName], next[vName] = d.write(s[kName], fed.K, step, 4), d.write(s[vName], fed.V, step, 3)
		return c.Attention(q, models.Span{K: prefix[prefixName("k", layer)], V: prefix[prefixName("v", layer)], Mask: masks(layer)[0]},
			models.Span{K: s[kName], V: s[vName], Mask: masks(layer)[1]}, fed)
	}) // [hidden, B·n]

	here := op.Equal(op.Iota(g, slots, 2), step) // [B, n, R]: the position being chosen
	open := op.LogicalAnd(here, op.LogicalNot(op.BroadcastToDims(op.InsertAxes(finished, -1), batch, n, size)))
	u := op.ReduceSum(op.Where(here, uniforms, op.ZerosLike(uniforms)), -1)
	token, sampled, policy := d.options.draw(c.Logits(p, hidden), op.Reshape(u, batch*n))
	put := func(name string, x *op.Node) {
		x = op.BroadcastToDims(op.InsertAxes(op.Reshape(x, batch, n), -1), batch, n, size)
		next[name] = op.Where(open, x, s[name])
	}
	put("tokens", token)
	put("sampled", sampled)
	put("policy", policy)
	token = op.Reshape(token, batch, n)
	next["last"] = token
	for _, stop := range d.options.Stop {
		finished = op.LogicalOr(finished, op.Equal(token, op.Scalar(g, dtypes.Int32, stop)))
	}
	next["finished"], next["done"] = finished, op.LogicalAll(finished)
	next["step"] = op.OnePlus(step)
	return next
}

// write puts x into a cache at one slot of an axis, the same for every row.
func (d decoder) write(cache, x, slot *op.Node, axis int) *op.Node {
	if d.slices {
		at := make([]*op.Node, cache.Rank())
		for i := range at {
			at[i] = op.ZerosLike(slot)
		}
		at[axis] = slot
		return op.DynamicUpdateSlice(cache, x, at)
	}
	return op.Where(op.Equal(op.Iota(cache.Graph(), shapes.Make(dtypes.Int32, cache.Shape().Dimensions...), axis), slot),
		op.BroadcastToDims(x, cache.Shape().Dimensions...), cache)
}

// while runs body while cond holds. body returns the entries it changes. Everything used inside must come in through
// the state: XLA's closures cannot reach outside. For the same reason cond, and the graph around the loop, must not use
// scalar constants or reductions: gomlx and go-xla keep one of each kind, in the function that needed it first.
func while(state models.NodeSet, cond func(models.NodeSet) *op.Node, body func(models.NodeSet) models.NodeSet) models.NodeSet {
	names := slices.Sorted(maps.Keys(state))
	var g *op.Graph
	initial := make([]*op.Node, len(names))
	for i, name := range names {
		initial[i], g = state[name], state[name].Graph()
	}
	parameters := func(g *op.Graph) models.NodeSet {
		s := models.NodeSet{}
		for i, name := range names {
			s[name] = op.Parameter(g, fmt.Sprintf("state%d", i), initial[i].Shape())
		}
		return s
	}
	end := op.While(op.NewClosure(g, func(g *op.Graph) []*op.Node {
		return []*op.Node{cond(parameters(g))}
	}), op.NewClosure(g, func(g *op.Graph) []*op.Node {
		s := parameters(g)
		next := maps.Clone(s)
		maps.Copy(next, body(s))
		out := make([]*op.Node, len(names))
		for i, name := range names {
			out[i] = next[name]
		}
		return out
	}), initial...)
	out := models.NodeSet{}
	for i, name := range names {
		out[name] = end[i]
	}
	return out
}

func hasSlices(b compute.Backend) bool {
	return b.Capabilities().Operations[compute.OpTypeDynamicUpdateSlice]
}
