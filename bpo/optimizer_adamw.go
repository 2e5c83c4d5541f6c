package bpo

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

func init() {
	RegisterOptimizer(Optimizer{
		Name: "adamw",
		Doc:  "m = β1·m + (1−β1)·g, v = β2·v + (1−β2)·g², w = w·(1 − lr·λ) − lr·m̂/(√v̂ + eps) (arXiv 1711.05101, as torch.optim.AdamW)",
		Params: []OptimizerParam{
			{Param: Param{Name: "beta1", Default: 0.9, Doc: "decay of the mean of gradients"}, Below: 1},
			{Param: Param{Name: "beta2", Default: 0.999, Doc: "decay of the mean of squared gradients"}, Below: 1},
			{Param: Param{Name: "eps", Default: 1e-8, Doc: "added to the root"}, Below: math.Inf(1)},
		},
		State: func(_ OptimizerConfig, dims [][]int) map[string][]int {
			return map[string][]int{"m": vector(dims), "v": vector(dims)}
		},
		Scalars: func(c OptimizerConfig, t int) []float64 {
			c2 := 1 - math.Pow(c.Param("beta2"), float64(t))
			return []float64{1 - math.Pow(c.Param("beta1"), float64(t)), math.Sqrt(c2)}
		},
		Update: func(c OptimizerConfig, s Step) (*Node, models.NodeSet) {
			m := average(s.State["m"], s.Grad, c.Param("beta1"))
			v := average(s.State["v"], Square(s.Grad), c.Param("beta2"))
			root := AddScalar(Div(Sqrt(v), s.Scalars[1]), c.Param("eps"))
			return Sub(s.Decayed(c), Mul(Div(s.LR, s.Scalars[0]), Div(m, root))), models.NodeSet{"m": m, "v": v}
		},
	})
}

// average is β·old + (1−β)·x.
func average(old, x *Node, beta float64) *Node {
	return Add(MulScalar(old, beta), MulScalar(x, 1-beta))
}

// vector is the dimensions of one number a weight.
func vector(dims [][]int) []int {
	n := 0
	for _, d := range dims {
		n += product(d)
	}
	return []int{n}
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}
