package bpo

import (
	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

func init() {
	RegisterOptimizer(Optimizer{
		Name: "lion",
		Doc:  "w = w·(1 − lr·λ) − lr·sign(β1·m + (1−β1)·g), m = β2·m + (1−β2)·g; wants 3 to 10 times less lr and more λ than adamw (arXiv 2302.06675)",
		Params: []OptimizerParam{
			{Param: Param{Name: "beta1", Default: 0.9, Doc: "of the direction that is taken"}, Below: 1},
			{Param: Param{Name: "beta2", Default: 0.99, Doc: "of the mean that is kept"}, Below: 1},
		},
		State: func(_ OptimizerConfig, dims [][]int) map[string][]int { return map[string][]int{"m": vector(dims)} },
		Update: func(c OptimizerConfig, s Step) (*Node, models.NodeSet) {
			direction := Sign(average(s.State["m"], s.Grad, c.Param("beta1")))
			return Sub(s.Decayed(c), Mul(s.LR, direction)),
				models.NodeSet{"m": average(s.State["m"], s.Grad, c.Param("beta2"))}
		},
	})
}
