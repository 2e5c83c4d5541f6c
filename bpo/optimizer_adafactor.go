package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

// Adafactor (Shazeer and Stern 2018, arXiv 1804.04235, algorithms 4 to 6) keeps, of a matrix's mean squared gradients,
// only the means of rows and columns. Semantics are those of transformers' Adafactor with relative_step and warmup_init
// off: the schedule is ours, lr is absolute, and scale_parameter makes it relative to each tensor's RMS.
func init() {
	RegisterOptimizer(Optimizer{
		Name: "adafactor",
		Doc:  "squared gradients factored into row and column means, updates clipped by their RMS; lr about as adamw (arXiv 1804.04235, as transformers.Adafactor with relative_step=False)",
		Params: []OptimizerParam{
			{Param: Param{Name: "beta1", Default: 0, Doc: "decay of the mean of updates; 0 keeps none, which is what saves memory"}, Below: 1},
			{Param: Param{Name: "decay_rate", Default: -0.8, Doc: "the mean of squared gradients decays by 1 − t^decay_rate at step t"}, Min: -1, Below: 0},
			{Param: Param{Name: "clip_threshold", Default: 1, Doc: "most RMS of an update before lr"}, Min: 1e-12, Below: math.Inf(1)},
			{Param: Param{Name: "eps1", Default: 1e-30, Doc: "added to squared gradients"}, Below: math.Inf(1)},
			{Param: Param{Name: "eps2", Default: 1e-3, Doc: "least RMS of a tensor under scale_parameter"}, Below: math.Inf(1)},
			{Param: Param{Name: "scale_parameter", Default: 0, Doc: "1: lr times the RMS of each tensor"}, Flag: true},
		},
		State: func(c OptimizerConfig, dims [][]int) map[string][]int {
			rows, columns, rest := 0, 0, 0
			for _, d := range dims {
				if len(d) < 2 {
					rest += product(d)
					continue
				}
				rows += product(d[:len(d)-1])
				columns += product(d) / d[len(d)-2]
			}
			state := map[string][]int{}
			for name, n := range map[string]int{"rows": rows, "columns": columns, "v": rest} {
				if n > 0 {
					state[name] = []int{n}
				}
			}
			if c.Param("beta1") > 0 {
				state["m"] = vector(dims)
			}
			return state
		},
		Scalars: func(c OptimizerConfig, t int) []float64 {
			return []float64{1 - math.Pow(float64(t), c.Param("decay_rate"))}
		},
		Update: adafactor,
	})
}

func adafactor(c OptimizerConfig, s Step) (*Node, models.NodeSet) {
	beta2 := s.Scalars[0]
	old := map[string]*reader{"rows": {flat: s.State["rows"]}, "columns": {flat: s.State["columns"]}, "v": {flat: s.State["v"]}}
	made := map[string][]*Node{}
	// mean moves the next stretch of a state vector, in the shape of x, towards x.
	mean := func(name string, x *Node) *Node {
		now := Add(Mul(old[name].next(x.Shape().Dimensions), beta2), Mul(x, OneMinus(beta2)))
		made[name] = append(made[name], Reshape(now, x.Shape().Size()))
		return now
	}
	rms := func(x *Node) *Node { return Sqrt(ReduceAllMean(Square(x))) }

	var updates, rates []*Node // per tensor, flat
	weights := s.Tensors(s.Weights)
	for i, g := range s.Tensors(s.Grad) {
		square := AddScalar(Square(g), c.Param("eps1"))
		var root *Node // 1/√(estimated mean squared gradient), in the shape of g
		if rank := g.Rank(); rank < 2 {
			root = Rsqrt(mean("v", square))
		} else {
			rows := mean("rows", ReduceMean(square, -1))                          // [.., r]
			columns := mean("columns", ReduceMean(square, rank-2))                // [.., c]
			share := Rsqrt(Div(rows, ReduceAndKeep(rows, ReduceMean, -1)))        // [.., r]
			root = Mul(InsertAxes(share, -1), InsertAxes(Rsqrt(columns), rank-2)) // [.., r, c]
		}
		update := Mul(root, g)
		update = Div(update, MaxScalar(DivScalar(rms(update), c.Param("clip_threshold")), 1))
		lr := s.LR
		if c.Param("scale_parameter") == 1 {
			lr = Mul(lr, MaxScalar(rms(weights[i]), c.Param("eps2")))
		}
		updates = append(updates, Reshape(Mul(update, lr), g.Shape().Size()))
		rates = append(rates, BroadcastToDims(lr, g.Shape().Size()))
	}
	state := models.NodeSet{}
	for name, parts := range made {
		state[name] = Concatenate(parts, 0)
	}
	update := Concatenate(updates, 0)
	if m := s.State["m"]; m != nil {
		update = average(m, update, c.Param("beta1"))
		state["m"] = update
	}
	w := s.Weights
	if decay := s.Decay(c); decay != nil {
		w = Mul(w, OneMinus(Mul(Concatenate(rates, 0), decay)))
	}
	return Sub(w, update), state
}

// reader takes a flat vector apart from its start.
type reader struct {
	flat *Node
	at   int
}

func (r *reader) next(dims []int) *Node {
	from := r.at
	r.at += product(dims)
	return Reshape(SliceAxis(r.flat, 0, AxisRange(from, r.at)), dims...)
}
