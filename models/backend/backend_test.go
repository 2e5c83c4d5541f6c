package backend

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/fetch"
)

func TestParseName(t *testing.T) {
	abs, err := filepath.Abs("x_cpu.so")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]spec{
		"":                              {kind: "auto", devices: 1},
		"auto":                          {kind: "auto", devices: 1},
		"go":                            {kind: "go", devices: 1},
		"xla":                           {kind: "xla", devices: 1},
		"xla:":                          {kind: "xla", devices: 1},
		"xla,devices=2":                 {kind: "xla", devices: 2},
		"xla:cpu":                       {kind: "xla", plugin: "cpu", devices: 1},
		"xla:cpu,devices=4":             {kind: "xla", plugin: "cpu", devices: 4},
		"xla:cuda,tf32=false,devices=2": {kind: "xla", plugin: "cuda", options: "tf32=false", devices: 2},
		"xla:" + abs:                    {kind: "xla", plugin: abs, devices: 1},
	} {
		if got, err := parseName(name); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, name := range []string{"tpu", "go:1", "XLA", "xla:cpu,devices=0", "xla:cpu,devices=two", "xla:./plugin.so", "gpu:xla"} {
		err := Check(name)
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, want one line naming it", name, err)
		}
	}
}

// alone makes a machine without plugins, pip or network, and returns the only directory plugins are looked for in
// besides the cache.
func alone(t *testing.T) (plugins string) {
	t.Helper()
	plugins = t.TempDir()
	t.Setenv("PJRT_PLUGIN_LIBRARY_PATH", plugins)
	t.Setenv("GOBPO_CACHE", t.TempDir())
	t.Setenv("GOBPO_OFFLINE", "")
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvName, "")
	return plugins
}

func TestAutoFallsBackToGoInOneLine(t *testing.T) {
	alone(t)
	var log bytes.Buffer
	b, err := Open(Options{Offline: true, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	if b.Name() == "xla" {
		t.Errorf("opened %s", b.Description())
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "pure-Go") {
		t.Errorf("notice %q, want one line", got)
	}
}

func TestNamedXLAIsNeverReplaced(t *testing.T) {
	alone(t)
	for _, name := range []string{"xla", "xla:cpu", "xla:cuda", "xla:" + filepath.Join(t.TempDir(), "pjrt_cpu.so")} {
		if b, err := Open(Options{Name: name, Offline: true}); err == nil {
			t.Errorf("%s: opened %s", name, b.Description())
		}
	}
	t.Setenv(EnvName, "xla:cpu") // the environment names it just as well
	if b, err := Open(Options{Name: "auto", Offline: true}); err == nil {
		t.Errorf("opened %s", b.Description())
	}
	t.Setenv(EnvName, "go")
	b, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.Finalize()
	t.Setenv(EnvName, "nonsense")
	if _, err := Open(Options{}); err == nil {
		t.Error("an unknown name was accepted")
	}
}

// library copies a real shared library or program of this machine, cut to n bytes if n ≥ 0.
func library(t *testing.T, path string, n int) {
	t.Helper()
	data, err := os.ReadFile(os.Args[0]) // the test binary is an ELF file like any other
	if err != nil {
		t.Fatal(err)
	}
	if n >= 0 {
		data = data[:n]
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFindPlugins(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the test's plugins are ELF files")
	}
	first, second := alone(t), t.TempDir()
	cache, err := fetch.CacheDir("pjrt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PJRT_PLUGIN_LIBRARY_PATH", strings.Join([]string{first, second, "/nowhere"}, string(os.PathListSeparator)))
	library(t, filepath.Join(first, "pjrt_c_api_cpu_v0.114.0_plugin.so"), -1)
	library(t, filepath.Join(first, "libother.so"), -1)
	library(t, filepath.Join(second, "pjrt-plugin-cuda.so"), -1)
	library(t, filepath.Join(second, "pjrt_c_api_tpu_plugin.so"), 4096)
	library(t, filepath.Join(cache, "pjrt_plugin_cpu.so"), -1)
	found, bad := FindPlugins()
	want := []Plugin{
		{"cpu_v0.114.0", filepath.Join(first, "pjrt_c_api_cpu_v0.114.0_plugin.so")},
		{"cuda", filepath.Join(second, "pjrt-plugin-cuda.so")},
		{"cpu", filepath.Join(cache, "pjrt_plugin_cpu.so")},
	}
	if len(found) != len(want) {
		t.Fatalf("found %v, want %v", found, want)
	}
	for i := range want {
		if found[i] != want[i] {
			t.Errorf("plugin %d is %v, want %v", i, found[i], want[i])
		}
	}
	if bad == nil || !strings.Contains(bad.Error(), "pjrt_c_api_tpu_plugin.so is damaged") {
		t.Errorf("the truncated file is reported as %v", bad)
	}
	if !found[0].matches("cpu") || found[1].matches("cpu") || found[2].matches("cp") {
		t.Error("matches is wrong")
	}
	if checked, err := found[0].Verify(); checked || err != nil {
		t.Errorf("a plugin that is not ours was verified: %v, %v", checked, err)
	}
}

// Wherever a plugin is cut, it is refused before anything loads it.
func TestCheckPluginTruncated(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only ELF files are checked")
	}
	info, err := os.Stat(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	size := int(info.Size())
	path := filepath.Join(t.TempDir(), "pjrt_c_api_cpu_plugin.so")
	for _, n := range []int{0, 3, 16, 63, 64, 4096, size / 2, size - 1000} {
		library(t, path, n)
		if err := checkPlugin(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("cut to %d of %d bytes: %v", n, size, err)
		}
		if _, err := Open(Options{Name: "xla:" + path, Offline: true}); err == nil {
			t.Errorf("cut to %d of %d bytes: opened", n, size)
		}
	}
	library(t, path, -1)
	if err := checkPlugin(path); err != nil {
		t.Errorf("whole: %v", err)
	}
	if err := checkPlugin(filepath.Join(t.TempDir(), "none.so")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestLdConfDirs(t *testing.T) {
	dir := t.TempDir()
	main, sub := filepath.Join(dir, "ld.so.conf"), filepath.Join(dir, "a.conf")
	err := errors.Join(
		os.WriteFile(main, []byte("# comment\n/one # two\n\ninclude "+dir+"/*.conf\nrelative\n"), 0o644),
		os.WriteFile(sub, []byte("/three\ninclude "+main+"\n"), 0o644)) // a loop must end
	if err != nil {
		t.Fatal(err)
	}
	got := ldConfDirs(main, 0)
	if len(got) < 2 || got[0] != "/one" || got[1] != "/three" || len(got) > 1000 {
		t.Errorf("got %v", got)
	}
}

// Many matmuls ready at once, each batched and so asking for workers of its own: gomlx's default waits for ever here.
func TestGoBackendRunsMatmulsThatAreReadyTogether(t *testing.T) {
	b, err := Open(Options{Name: "go"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := graph.NewExec(b, func(x *graph.Node) *graph.Node {
		sum := graph.Scalar(x.Graph(), dtypes.Float32, 0)
		for i := range 64 {
			y := graph.AddScalar(x, float64(i))                                          // [batch, rows, width]
			sum = graph.Add(sum, graph.ReduceAllSum(graph.Einsum("bik,bjk->bij", y, y))) // [batch, rows, rows]
		}
		return sum
	})
	if err != nil {
		t.Fatal(err)
	}
	const batch, rows, width = 64, 24, 64
	done := make(chan float32, 1)
	go func() {
		for range 10 {
			x := tensors.FromFlatDataAndDimensions(make([]float32, batch*rows*width), batch, rows, width)
			out := e.MustCall(x)[0]
			done <- tensors.ToScalar[float32](out)
		}
		close(done)
	}()
	want := float32(0)
	for i := range 64 {
		want += float32(batch * rows * rows * width * i * i)
	}
	for {
		select {
		case got, open := <-done:
			if !open {
				return
			}
			if math.Abs(float64(got/want-1)) > 1e-3 {
				t.Fatalf("sum %v, want %v", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatal("waits for ever")
		}
	}
}
