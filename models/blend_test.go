package models

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"
	"pgregory.net/rapid"

	"gobpo/models/backend/backendtest"
)

// from gives float32 weights that are in memory.
func from(w Weights) Reader {
	return func(name string, flat []float32) error {
		t, ok := w[name]
		if !ok {
			return fmt.Errorf("no weight %q", name)
		}
		return tensors.ConstFlatData(t, func(values []float32) { copy(flat, values) })
	}
}

func numbers(x ...float32) Reader {
	return func(_ string, flat []float32) error { copy(flat, x); return nil }
}

func readAll(t interface{ Fatalf(string, ...any) }, r Reader, n int) []float32 {
	flat := make([]float32, n)
	if err := r("w", flat); err != nil {
		t.Fatalf("%v", err)
	}
	return flat
}

// An adapter folded on the host is the adapter folded in the graph, transposed weights (GPT-2) included.
func TestOver(t *testing.T) {
	b := backendtest.Go(t)
	gpt2 := Config{Architecture: "gpt2", VocabSize: 8, HiddenSize: 8, IntermediateSize: 12, NumLayers: 1, NumHeads: 2, NumKVHeads: 2, HeadDim: 4,
		MaxPositions: 8, RMSNormEps: 1e-5, TieEmbeddings: true, Activation: "gelu_new"}
	for _, c := range []Config{tiny, gpt2} {
		base := lively(c, 1)
		a := livelyAdapter(c, LoRA{Rank: 3, Alpha: 5, Targets: []string{AllLinear}, AlphaPattern: map[string]float64{"(c_fc|up_proj)": 2}}, 2)
		folded, err := Fold(b, Policy{Base: base, Adapter: a})
		if err != nil {
			t.Fatal(err)
		}
		want, _ := folded.Sets()
		over := a.Over(from(base))
		for name, w := range want {
			got := make([]float32, w.Size())
			if err := over(name, got); err != nil {
				t.Fatal(err)
			}
			wantClose(t, c.Architecture+" "+name, got, tensors.MustCopyFlatData[float32](w), 1e-5)
		}
		if err := over("nothing.weight", nil); err == nil || !strings.Contains(err.Error(), "nothing.weight") {
			t.Errorf("an unknown weight: %v", err)
		}
	}
}

func TestAverage(t *testing.T) {
	got := readAll(t, Average([]Reader{numbers(1, 2), numbers(3, -6)}, []float64{-0.5, 1.5}), 2)
	if want := []float32{4, -10}; !slices.Equal(got, want) {
		t.Errorf("extrapolation is %v, want %v", got, want)
	}
}

// The steps of TIES by hand, density ½ of 4 numbers: deltas (4, -3, 1, 0), (-1, 5, 6, 0), (2, 1, -9, 8) become
// (4, -3, 0, 0), (0, 5, 6, 0), (0, 0, -9, 8); signs of the sums + + - +; means of those that have them 4, 5, -9, 8.
func TestTIES(t *testing.T) {
	base := numbers(10, 20, 30, 40)
	models := []Reader{numbers(14, 17, 31, 40), numbers(9, 25, 36, 40), numbers(12, 21, 21, 48)}
	got := readAll(t, TIES{Density: 0.5, Weights: []float64{1, 1, 1}, Scale: 1}.Merge(base, models), 4)
	if want := []float32{14, 25, 21, 48}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Weights of 1, 3, 1 elect + for the third number (18 - 9) and -3 + 15 for the second; λ = 2.
	got = readAll(t, TIES{Density: 0.5, Weights: []float64{1, 3, 1}, Scale: 2}.Merge(base, models), 4)
	if want := []float32{18, 30, 42, 56}; !slices.Equal(got, want) {
		t.Errorf("weighted: got %v, want %v", got, want)
	}
	// With density 1, copies merge to themselves.
	got = readAll(t, TIES{Density: 1, Weights: []float64{0.2, 0.3}, Scale: 1}.Merge(base, []Reader{models[0], models[0]}), 4)
	if want := readAll(t, models[0], 4); !slices.Equal(got, want) {
		t.Errorf("copies: got %v, want %v", got, want)
	}
	broken := func(string, []float32) error { return errors.New("cut off") }
	if err := (TIES{Density: 1, Weights: []float64{1}, Scale: 1}).Merge(base, []Reader{broken})("w", make([]float32, 4)); err == nil {
		t.Error("no error")
	}
}

// trim keeps exactly k numbers, the largest, whatever they are.
func TestTrim(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.OneOf(rapid.Float32Range(-10, 10), rapid.SampledFrom([]float32{0, 1, -1, 1e-40, float32(math.Inf(1)), 3e38}))
		x := rapid.SliceOfN(draw, 1, 50).Draw(t, "x")
		k := rapid.IntRange(0, len(x)+1).Draw(t, "k")
		order := make([]int, len(x))
		for i := range order {
			order[i] = i
		}
		abs := func(v float32) float64 { return math.Abs(float64(v)) }
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(abs(x[b]), abs(x[a])) })
		want := make([]float32, len(x))
		for _, i := range order[:min(k, len(x))] {
			want[i] = x[i]
		}
		got := slices.Clone(x)
		if trim(got, k); !slices.Equal(got, want) {
			t.Fatalf("trim(%v, %d) = %v, want %v", x, k, got, want)
		}
	})
}

// Models saved in shards of every dtype come back; the index lists each tensor where it is.
func TestSaveFrom(t *testing.T) {
	w := lively(tiny, 3)
	m := &Model{Config: tiny, EOS: []int32{2, 5}}
	for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
		dir := t.TempDir()
		if err := m.SaveFrom(from(w), dir, dtype, 3000); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "model-*-of-*.safetensors"))
		if len(files) < 3 {
			t.Fatalf("%s: %d files", dtype, len(files))
		}
		var index struct {
			Metadata struct {
				Total int64 `json:"total_size"`
			}
			Map map[string]string `json:"weight_map"`
		}
		readJSON(t, filepath.Join(dir, "model.safetensors.index.json"), &index)
		if want := tiny.NumParams() * int64(dtype.Size()); index.Metadata.Total != want || len(index.Map) != len(w) {
			t.Errorf("%s: %d bytes of %d tensors, want %d of %d", dtype, index.Metadata.Total, len(index.Map), want, len(w))
		}
		c, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if c.DType != dtype || !reflect.DeepEqual(c.Config, tiny) || !slices.Equal(c.EOS, m.EOS) {
			t.Errorf("%s: opened as %s, %+v, stop %v", dtype, c.DType, c.Config, c.EOS)
		}
		eps := map[dtypes.DType]float64{dtypes.Float32: 0, dtypes.BFloat16: 1. / 256, dtypes.Float16: 1. / 2048}[dtype]
		for name, t0 := range w {
			want := tensors.MustCopyFlatData[float32](t0)
			got := make([]float32, len(want))
			if err := c.Read(name, got); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if d := math.Abs(float64(got[i] - want[i])); d > eps*math.Abs(float64(want[i]))+1e-7*float64(min(1, eps*1e9)) {
					t.Fatalf("%s: %s[%d] is %g, was %g", dtype, name, i, got[i], want[i])
				}
			}
		}
		c.Close()
	}
	big := func(name string, flat []float32) error { flat[0] = 1e5; return nil }
	if err := m.SaveFrom(big, t.TempDir(), dtypes.Float16, ShardBytes); err == nil || !strings.Contains(err.Error(), "does not fit float16") {
		t.Errorf("1e5 in float16: %v", err)
	}
	if err := m.SaveFrom(big, t.TempDir(), dtypes.Int8, ShardBytes); err == nil {
		t.Error("int8: no error")
	}
	dir := t.TempDir()
	failing := func(string, []float32) error { return errors.New("cut off") }
	if err := m.SaveFrom(failing, dir, dtypes.Float32, ShardBytes); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a reader that fails: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "model.safetensors")); err == nil {
		t.Error("half a file is left")
	}
}

func BenchmarkTIES(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, 1<<22)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	merge := TIES{Density: 0.2, Weights: []float64{1, 1}, Scale: 1}.Merge(func(string, []float32) error { return nil }, []Reader{numbers(x...), numbers(x...)})
	b.SetBytes(int64(4 * len(x)))
	for b.Loop() {
		readAll(b, merge, len(x))
	}
}
