package sample

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

	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/fetch"
)

// BenchmarkSmolLM2 samples 64 tokens after prompts of 64, float32, LoRA r=16 on every linear layer, and reports tokens/s,
// the bandwidth in weights read, and the rate of a large matmul measured around it (the machine's speed at that time).
func BenchmarkSmolLM2(b *testing.B) {
	path, ok := fetch.SmolLM2Path()
	if !ok {
		b.Skip("SmolLM2 is not here: run `go run ./tools/bpo fetch smollm2` or set GOBPO_SMOLLM2")
	}
	be := backendtest.XLA(b)
	m, err := models.Load(path, dtypes.Float32)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Base.Finalize()
	p := models.Policy{Base: m.Base, Adapter: models.NewAdapter(m.Config, models.LoRA{Rank: 16, Alpha: 32, Targets: []string{models.AllLinear}}, 1)}
	s := New(be, m.Config, nil)
	defer s.Finalize()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, fold := range []bool{false, true} {
		for _, size := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("fold=%v/batch=%d", fold, size), func(b *testing.B) {
				prompts := make([]Prompt, size)
				for i := range prompts {
					prompts[i].Key = uint64(i)
					for range 64 {
						prompts[i].Tokens = append(prompts[i].Tokens, int32(rng.IntN(m.Config.VocabSize)))
					}
				}
				o := Options{Temperature: 1, MaxNewTokens: 64, Batch: size, Fold: fold}
				mustSample(b, s, p, prompts, o)
				before := matmulRate(b, be)
				used := cpuSeconds()
				b.ResetTimer()
				for range b.N {
					mustSample(b, s, p, prompts, o)
				}
				b.StopTimer()
				b.ReportMetric((cpuSeconds()-used)/float64(b.N), "cpu-s/op")
				seconds := b.Elapsed().Seconds() / float64(b.N)
				b.ReportMetric(float64(size*64)/seconds, "tokens/s")
				b.ReportMetric(float64(m.Base.NumParams())*4*64/seconds/1e9, "GB/s")
				b.ReportMetric((before+matmulRate(b, be))/2, "matmul-GFLOP/s")
				b.ReportMetric(rss(), "RSS-MB")
			})
		}
	}
}

// matmulRate is what a 1024³ float32 matmul reaches right now, GFLOP/s.
func matmulRate(b *testing.B, be compute.Backend) float64 {
	const n = 1024
	e := models.NewExec(be, "matmul", func(_ []models.NodeSet, in []*op.Node) ([]models.NodeSet, []*op.Node) {
		return nil, []*op.Node{op.Dot(in[0], in[0]).General([]int{1}, nil, []int{0}, nil)}
	})
	defer e.Finalize()
	x := tensors.FromShape(shapes.Make(dtypes.Float32, n, n))
	defer finalize(x)
	var start time.Time
	const runs = 20
	for i := range runs + 1 {
		if i == 1 {
			start = time.Now()
		}
		_, out, err := e.Call(nil, x)
		if err != nil {
			b.Fatal(err)
		}
		finalize(out...)
	}
	return 2 * n * n * n * runs / time.Since(start).Seconds() / 1e9
}

// rss is the process's peak resident memory, MB.
func rss() float64 {
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
