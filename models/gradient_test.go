package models

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend/backendtest"
)

// Gradients by backpropagation against central differences, for every base tensor and every adapter tensor, each along
// its gradient, where the difference stands out most from float32 noise.
func TestGradients(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) { checkGradients(t, b, tiny) })
	files := configs(t)
	for _, name := range []string{"gemma2-window", "gpt2-inner", "gpt_neox-nobias", "phi3-window", "qwen3-window"} {
		t.Run(name, func(t *testing.T) {
			c, err := parseHFConfig(files[name])
			if err != nil {
				t.Fatal(err)
			}
			if c.Activation == "relu" {
				c.Activation = "gelu" // differences go wrong over kinks
			}
			checkGradients(t, backendtest.Go(t), c)
		})
	}
}

func checkGradients(t *testing.T, b compute.Backend, c Config) {
	rng := rand.New(rand.NewPCG(8, 9))
	sets := []Weights{InitWeights(c, 1), livelyAdapter(c, tinyLoRA, 2).Weights}
	for _, name := range sets[0].Names() {
		sets[0][name].MustMutableFlatData(func(flat any) {
			for i := range flat.([]float32) {
				flat.([]float32)[i] = flat.([]float32)[i]*5 + float32(rng.NormFloat64()*0.2)
			}
		})
	}
	in := PackRows(randomRows(rng, 3, 2, c.VocabSize), 3, 9, 8, 2, 0)
	e := NewExec(b, "loss", func(sets []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
		logp := c.CompletionLogProbs(Params{Base: sets[0], Adapter: sets[1], LoRA: tinyLoRA}, in[0], in[1], in[2], in[3])
		weight := op.Sin(op.AddScalar(op.Iota(logp.Graph(), logp.Shape(), 2), 1))
		loss := op.ReduceAllSum(op.Mul(logp, weight))
		grads := []NodeSet{{}, {}}
		var names []string
		var nodes []*op.Node
		for i, set := range sets {
			for name, x := range set {
				names, nodes = append(names, fmt.Sprint(i, name)), append(nodes, x)
			}
		}
		for i, d := range op.Gradient(loss, nodes...) {
			grads[names[i][0]-'0'][names[i][1:]] = d
		}
		return grads, []*op.Node{loss}
	})
	defer e.Finalize()
	loss := func() ([]Weights, float64) {
		grads, out, err := e.Call([]Arg{{Set: sets[0]}, {Set: sets[1]}}, in...)
		if err != nil {
			t.Fatal(err)
		}
		return grads, float64(tensors.ToScalar[float32](out[0]))
	}
	grads, _ := loss()
	for which, set := range sets {
		for _, name := range set.Names() {
			g := tensors.MustCopyFlatData[float32](grads[which][name])
			norm := 0.0
			for _, v := range g {
				norm += float64(v) * float64(v)
			}
			norm = math.Sqrt(norm)
			at := func(by float64) float64 {
				shift := func(by float64) {
					set[name].MustMutableFlatData(func(flat any) {
						for i := range flat.([]float32) {
							flat.([]float32)[i] += float32(by * float64(g[i]) / norm)
						}
					})
				}
				shift(by)
				defer shift(-by)
				_, l := loss()
				return l
			}
			h := 0.05 / norm // moves the loss by 0.1
			if slope := (at(h) - at(-h)) / (2 * h); math.Abs(slope-norm) > 0.01*norm {
				t.Errorf("%s: slope %g along the gradient, its norm is %g", name, slope, norm)
			}
		}
	}
}

// Dropout: the same for the same state, different for another, unbiased in the mean, absent without a state.
func TestDropout(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		const in, n, rate = 8, 4000, 0.25
		l := LoRA{Rank: 1, Alpha: 1, Dropout: rate, Targets: []string{"q_proj"}}
		base := Weights{"x.weight": tensors.FromShape(shapes.Make(dtypes.Float32, 1, in))}
		ones := func(dims ...int) *tensors.Tensor { return fillWeights(dims, func() float32 { return 1 }) }
		adapter := Weights{"x.lora_A.weight": ones(1, in), "x.lora_B.weight": ones(1, 1)}
		e := NewExec(b, "dropout", func(sets []NodeSet, args []*op.Node) ([]NodeSet, []*op.Node) {
			p := &Params{Base: sets[0], Adapter: sets[1], LoRA: l}
			x := op.Ones(args[0].Graph(), shapes.Make(dtypes.Float32, in, n))
			plain := p.linear(Linear{Name: "x.weight"}, x)
			p.RNG = args[0]
			return nil, []*op.Node{plain, p.linear(Linear{Name: "x.weight"}, x)}
		})
		defer e.Finalize()
		call := func(seed int64) (plain, dropped []float32) {
			state, err := op.RNGStateFromSeed(seed)
			if err != nil {
				t.Fatal(err)
			}
			_, out, err := e.Call([]Arg{{Set: base}, {Set: adapter}}, state)
			if err != nil {
				t.Fatal(err)
			}
			return tensors.MustCopyFlatData[float32](out[0]), tensors.MustCopyFlatData[float32](out[1])
		}
		plain, a := call(1)
		_, again := call(1)
		_, other := call(2)
		mean := 0.0
		for i := range a {
			if plain[i] != in {
				t.Fatalf("without a state: %g, want %d", plain[i], in)
			}
			mean += float64(a[i]) / n
		}
		// one output is Σ of 8 Bernoulli(0.75)/0.75: variance 8·(1/0.75−1) = 2.67, standard error 0.026 at n = 4000
		if math.Abs(mean-in) > 4*0.026 {
			t.Errorf("mean %g, want %d", mean, in)
		}
		wantClose(t, "same state", again, a, 0)
		if maxDiff(a, other) == 0 {
			t.Errorf("another state gave the same mask")
		}
	})
}
