package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

func init() {
	RegisterOptimizer(Optimizer{
		Name: "rmsprop",
		Doc:  "g = g + λ·w, v = α·v + (1−α)·g², w = w − lr·g/(√v + eps) (as torch.optim.RMSprop; λ is part of the gradient, not apart from it)",
		Params: []OptimizerParam{
			{Param: Param{Name: "alpha", Default: 0.99, Doc: "decay of the mean of squared gradients"}, Below: 1},
			{Param: Param{Name: "eps", Default: 1e-8, Doc: "added to the root"}, Below: math.Inf(1)},
			{Param: Param{Name: "momentum", Default: 0, Doc: "decay of the sum of updates"}, Below: 1},
			{Param: Param{Name: "centered", Default: 0, Doc: "1: v less the square of the mean gradient, the gradient's variance"}, Flag: true},
		},
		State: func(c OptimizerConfig, dims [][]int) map[string][]int {
			state := map[string][]int{"v": vector(dims)}
			if c.Param("centered") == 1 {
				state["mean"] = vector(dims)
			}
			if c.Param("momentum") > 0 {
				state["momentum"] = vector(dims)
			}
			return state
		},
		Update: func(c OptimizerConfig, s Step) (*Node, models.NodeSet) {
			grad, alpha := s.Grad, c.Param("alpha")
			if decay := s.Decay(c); decay != nil {
				grad = Add(grad, Mul(decay, s.Weights))
			}
			v := average(s.State["v"], Square(grad), alpha)
			state, variance := models.NodeSet{"v": v}, v
			if s.State["mean"] != nil {
				state["mean"] = average(s.State["mean"], grad, alpha)
				variance = MaxScalar(Sub(v, Square(state["mean"])), 0) // rounding must not make it negative
			}
			update := Div(grad, AddScalar(Sqrt(variance), c.Param("eps")))
			if s.State["momentum"] != nil {
				update = Add(MulScalar(s.State["momentum"], c.Param("momentum")), update)
				state["momentum"] = update
			}
			return Sub(s.Weights, Mul(s.LR, update)), state
		},
	})
}
