package weights

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
)

var (
	inf = float32(math.Inf(1))
	nan = float32(math.NaN())
)

// Each dtype to each, on numbers whose conversions are known: exact ones, ties both ways, overflow, subnormals.
func TestReadConverts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	set := map[string]*tensors.Tensor{
		"f32":  tensors.FromFlatDataAndDimensions([]float32{1, -2.5, inf, nan, 1 + 1./256, 1 + 3./256, 1 + 1./256 + 1./(1<<20), 3e-40}, 8),
		"f64":  tensors.FromFlatDataAndDimensions([]float64{math.Pi, -1, 1e300, 5e-324}, 2, 2),
		"f16":  tensors.FromFlatDataAndDimensions([]float16.Float16{float16.FromBits(0x3c00), float16.FromBits(0xc100), float16.FromBits(0x0001), float16.FromBits(0x7c00)}, 4),
		"bf16": tensors.FromFlatDataAndDimensions([]bfloat16.BFloat16{0x3f80, 0xc020, 0x0001, 0x7fc0}, 4),
		"i32":  tensors.FromScalar(int32(7)),
	}
	if err := Write(path, set, nil); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	for name, want := range map[string]struct {
		full []float32
		half []float32 // as bfloat16
	}{
		"f32":  {[]float32{1, -2.5, inf, nan, 1 + 1./256, 1 + 3./256, 1 + 1./256 + 1./(1<<20), 3e-40}, []float32{1, -2.5, inf, nan, 1, 1 + 4./256, 1 + 2./256, 2.75506e-40}},
		"f64":  {[]float32{math.Pi, -1, inf, 0}, []float32{3.140625, -1, inf, 0}},
		"f16":  {[]float32{1, -2.5, 1. / (1 << 24), inf}, []float32{1, -2.5, 1. / (1 << 24), inf}},
		"bf16": {[]float32{1, -2.5, 9.1835e-41, nan}, []float32{1, -2.5, 9.1835e-41, nan}},
	} {
		full, half := make([]float32, len(want.full)), make([]bfloat16.BFloat16, len(want.half))
		if err := errors.Join(f.Read(name, full), f.Read(name, half)); err != nil {
			t.Error(err)
			continue
		}
		for i := range full {
			if !near(full[i], want.full[i]) || !near(half[i].Float32(), want.half[i]) {
				t.Errorf("%s[%d] is read as %g and %g, want %g and %g", name, i, full[i], half[i].Float32(), want.full[i], want.half[i])
			}
		}
	}
	for want, err := range map[string]error{
		`tensor "i32": dtype I32 cannot be weights`: f.Read("i32", make([]float32, 1)),
		`has 8 elements, but there is room for 7`:   f.Read("f32", make([]float32, 7)),
		`cannot be read into []float64`:             f.Read("f32", make([]float64, 8)),
		`no tensor "none"`:                          f.Read("none", make([]float32, 1)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want %q and the path", err, want)
		}
	}
}

// near allows float32's own rounding of the literals above.
func near(a, b float32) bool {
	return a == b || a != a && b != b || math.Abs(float64(a-b)) < 1e-4*math.Abs(float64(b))
}

// big is a file of tensors that take several pieces, at odd places: another writer need not align.
func big(t *testing.T) (path string, want []float32) {
	t.Helper()
	want = make([]float32, 3*pieceBytes/4+5)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range want {
		want[i] = rng.Float32()
	}
	x := tensors.FromFlatDataAndDimensions(want, len(want))
	path = filepath.Join(t.TempDir(), "x.safetensors")
	set := map[string]*tensors.Tensor{"a": x, "b": x}
	if err := Write(path, set, map[string]string{"pad": ""}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[0]++ // a header one byte longer
	end := bytes.LastIndexByte(raw[:8+int(raw[0])], '}') + 1
	raw = append(raw[:end:end], append([]byte{' '}, raw[end:]...)...)
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, want
}

func TestReadInPieces(t *testing.T) {
	path, want := big(t)
	for _, mapped := range []bool{true, false} {
		f := open(t, path)
		if s := f.sources[0]; !mapped && s.data != nil { // as on a file system that cannot map
			if err := unmapFile(s.data); err != nil {
				t.Fatal(err)
			}
			s.data = nil
		}
		got := make([]float32, len(want))
		if err := f.Read("b", got); err != nil {
			t.Fatal(err)
		}
		x, err := f.Tensor("b")
		if err != nil {
			t.Fatal(err)
		}
		own := tensors.MustCopyFlatData[float32](x)
		for i := range want {
			if got[i] != want[i] || own[i] != want[i] {
				t.Fatalf("mapped %v: element %d is %g and %g, want %g", mapped, i, got[i], own[i], want[i])
			}
		}
	}
}

// Of a file that shrinks while it is open, what was cut off is an error, neither zeros nor a crash.
func TestCutWhileOpen(t *testing.T) {
	path, want := big(t)
	f := open(t, path)
	if err := f.Read("b", make([]float32, len(want))); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{info.Size() - 1, info.Size() / 2, 0} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		err := f.Read("b", make([]float32, len(want)))
		if err == nil || !strings.Contains(err.Error(), "cut") || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `"b"`) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
		if _, err := f.Tensor("b"); err == nil {
			t.Errorf("cut to %d bytes: Tensor reads on", size)
		}
	}
}

func TestWriteFunc(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	all := map[string]shapes.Shape{"a": shapes.Make(dtypes.BFloat16, 2, 2), "empty": shapes.Make(dtypes.Float32, 0)}
	err := WriteFunc(path, all, nil, func(name string, w io.Writer) error {
		_, err := w.Write([]byte{0x80, 0x3f, 0, 0xc0, 0, 0, 0x80, 0xbf})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, 4)
	if err := open(t, path).Read("a", got); err != nil || got[0] != 1 || got[1] != -2 || got[2] != 0 || got[3] != -1 {
		t.Errorf("read %v, %v", got, err)
	}
	for want, fill := range map[string]func(string, io.Writer) error{
		"7 bytes were written": func(_ string, w io.Writer) error { _, err := w.Write(make([]byte, 7)); return err },
		"no more":              func(string, io.Writer) error { return errors.New("no more") },
	} {
		if err := WriteFunc(path, all, nil, fill); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestIndexRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                                 "cannot unmarshal",
		`{}`:                                 "no weight_map",
		`{"weight_map":[]}`:                  "object is expected",
		`{"weight_map":{}}`:                  "lists no tensors",
		`{"weight_map":{"a":1}}`:             `"a"`,
		`{"weight_map":{"a":""}}`:            "not a file name",
		`{"weight_map":{"a":"/etc/x"}}`:      "outside",
		`{"weight_map":{"a":"../x"}}`:        "outside",
		`{"weight_map":{"a":"x","a":"y"}}`:   `"a" is listed twice`,
		`{"weight_map":{"a":"x"}`:            "unexpected end",
		`{"weight_map":{"a":"x"},"b":}`:      "invalid character",
		`{"weight_map":{"a":["x"],"b":"y"}}`: `"a"`,
	} {
		if _, err := parseIndex([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	shards, err := parseIndex([]byte(`{"metadata":{"total_size":1},"weight_map":{"a":"./x","b":"d/y"}}`))
	if err != nil || shards["a"] != "x" || shards["b"] != filepath.Join("d", "y") {
		t.Errorf("got %v, %v", shards, err)
	}
}

func BenchmarkRead(b *testing.B) {
	const n = 1 << 24
	for _, from := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
		path := filepath.Join(b.TempDir(), "x.safetensors")
		if err := Write(path, map[string]*tensors.Tensor{"x": tensors.FromShape(shapes.Make(from, n))}, nil); err != nil {
			b.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		for to, flat := range map[string]any{"float32": make([]float32, n), "bfloat16": make([]bfloat16.BFloat16, n)} {
			b.Run(from.String()+"-"+to, func(b *testing.B) {
				b.SetBytes(n * int64(from.Size()))
				for b.Loop() {
					if err := f.Read("x", flat); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
