package models

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/backend/backendtest"
)

// BenchmarkGradient is the learner's work on one batch: 4 pairs of 64 prompt and 64 completion tokens, log-probs and
// their gradient with respect to a LoRA r=16 on every linear layer, SmolLM2 in float32. tokens/s counts every pair as
// 2·(64+64) tokens, as a program that does not share the prompt would compute; matmul-GFLOP/s is the machine's speed
// at that time.
func BenchmarkGradient(b *testing.B) {
	m := smolLM2(b)
	be := backendtest.XLA(b)
	defer m.Base.Finalize()
	adapter := NewAdapter(m.Config, LoRA{Rank: 16, Alpha: 32, Targets: []string{AllLinear}}, 1)
	const pairs, width = 4, 64
	rng := rand.New(rand.NewPCG(1, 2))
	rows := make([]Row, pairs)
	for i := range rows {
		rows[i] = Row{randomTokens(rng, width, 49152), [][]int32{randomTokens(rng, width, 49152), randomTokens(rng, width, 49152)}}
	}
	for _, backward := range []bool{false, true} {
		b.Run(map[bool]string{false: "forward", true: "backward"}[backward], func(b *testing.B) {
			e := NewExec(be, "gradient", func(sets []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
				logp := m.Config.CompletionLogProbs(Params{Base: sets[0], Adapter: sets[1], LoRA: adapter.LoRA}, in[0], in[1], in[2], in[3])
				sums := op.ReduceSum(logp, -1)
				margin := op.Sub(op.SliceAxis(sums, 1, op.AxisElem(0)), op.SliceAxis(sums, 1, op.AxisElem(1)))
				loss := op.ReduceAllSum(op.Softplus(op.Neg(margin)))
				grads := NodeSet{}
				if backward {
					names := adapter.Weights.Names()
					nodes := make([]*op.Node, len(names))
					for i, name := range names {
						nodes[i] = sets[1][name]
					}
					for i, d := range op.Gradient(loss, nodes...) {
						grads[names[i]] = d
					}
				}
				return []NodeSet{grads}, []*op.Node{loss}
			})
			defer e.Finalize()
			step := func() {
				in := PackRows(rows, pairs, width, width, 2, 0)
				sets, out, err := e.Call([]Arg{{Set: m.Base}, {Set: adapter.Weights}}, in...)
				if err != nil {
					b.Fatal(err)
				}
				finalize(in)
				finalize(out)
				sets[0].Finalize()
			}
			start := time.Now()
			step()
			b.Logf("compiled and ran once in %.1f s", time.Since(start).Seconds())
			before := matmulRate(b, be)
			used := cpuSeconds()
			b.ResetTimer()
			for range b.N {
				step()
			}
			b.StopTimer()
			b.ReportMetric((cpuSeconds()-used)/float64(b.N), "cpu-s/op")
			b.ReportMetric(pairs*2*2*width/(b.Elapsed().Seconds()/float64(b.N)), "tokens/s")
			b.ReportMetric((before+matmulRate(b, be))/2, "matmul-GFLOP/s")
			b.ReportMetric(peakRSS(), "peak-MB")
		})
	}
}

// matmulRate is what a 1024³ float32 matmul reaches right now, GFLOP/s.
func matmulRate(b *testing.B, be compute.Backend) float64 {
	const n, runs = 1024, 20
	e := NewExec(be, "matmul", func(_ []NodeSet, in []*op.Node) ([]NodeSet, []*op.Node) {
		return nil, []*op.Node{matmul(in[0], in[0])}
	})
	defer e.Finalize()
	x := tensors.FromShape(shapes.Make(dtypes.Float32, n, n))
	var start time.Time
	for i := range runs + 1 {
		if i == 1 {
			start = time.Now()
		}
		_, out, err := e.Call(nil, x)
		if err != nil {
			b.Fatal(err)
		}
		finalize(out)
	}
	finalize([]*tensors.Tensor{x})
	return 2 * n * n * n * runs / time.Since(start).Seconds() / 1e9
}

// peakRSS is the process's peak resident memory, MB.
func peakRSS() float64 {
	raw, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(raw)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	return 0
}

// cpuSeconds is what the process has used of all cores: unlike the clock, it says the same on a busy machine.
func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
