package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/internal/atomicfile"
	"gobpo/models/backend/backendtest"
)

// sample has a tensor of every dtype, a scalar and an empty one.
func sample() map[string]*tensors.Tensor {
	return map[string]*tensors.Tensor{
		"f32":    tensors.FromFlatDataAndDimensions([]float32{1, -2.5, float32(math.Inf(1)), 0, 3e-40, 7}, 2, 3),
		"f64":    tensors.FromFlatDataAndDimensions([]float64{math.Pi, -1}, 2),
		"f16":    tensors.FromFlatDataAndDimensions([]float16.Float16{float16.FromBits(0x3c00), float16.FromBits(0x0001)}, 1, 2),
		"bf16":   tensors.FromFlatDataAndDimensions([]bfloat16.BFloat16{bfloat16.FromFloat32(1.5)}, 1, 1, 1),
		"i64":    tensors.FromFlatDataAndDimensions([]int64{math.MinInt64, math.MaxInt64}, 2),
		"i32":    tensors.FromFlatDataAndDimensions([]int32{-1, 2, 3}, 3, 1),
		"i16":    tensors.FromFlatDataAndDimensions([]int16{-300}, 1),
		"i8":     tensors.FromFlatDataAndDimensions([]int8{-1, 2, 3}, 3),
		"u64":    tensors.FromFlatDataAndDimensions([]uint64{math.MaxUint64}, 1),
		"u32":    tensors.FromFlatDataAndDimensions([]uint32{1 << 31}, 1),
		"u16":    tensors.FromFlatDataAndDimensions([]uint16{1 << 15, 5, 6}, 3),
		"u8":     tensors.FromFlatDataAndDimensions([]uint8{255, 0, 7}, 3),
		"bool":   tensors.FromFlatDataAndDimensions([]bool{true, false, true}, 3),
		"scalar": tensors.FromScalar(float32(42)),
		"empty":  tensors.FromShape(shapes.Make(dtypes.Float32, 0, 5)),
	}
}

func bytesOf(t *testing.T, x *tensors.Tensor) []byte {
	t.Helper()
	var out []byte
	if x.Size() == 0 {
		return nil
	}
	if err := x.ConstBytes(func(b []byte) { out = bytes.Clone(b) }); err != nil {
		t.Fatal(err)
	}
	return out
}

func checkSame(t *testing.T, f *File, want map[string]*tensors.Tensor) {
	t.Helper()
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(f.Names(), names) {
		t.Fatalf("tensors %v, want %v", f.Names(), names)
	}
	for name, w := range want {
		got, err := f.Tensor(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if info, ok := f.Info(name); !ok || !info.Equal(w.Shape()) || !got.Shape().Equal(w.Shape()) {
			t.Errorf("%s: shape %v, info %v, want %v", name, got.Shape(), info, w.Shape())
		}
		if !bytes.Equal(bytesOf(t, got), bytesOf(t, w)) {
			t.Errorf("%s: other values", name)
		}
	}
}

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSafetensorsRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.safetensors")
	meta := map[string]string{"format": "pt", "ü": "line\nbreak"}
	if err := Write(path, sample(), meta); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	checkSame(t, f, sample())
	if !maps.Equal(f.Metadata(), meta) {
		t.Errorf("metadata %v, want %v", f.Metadata(), meta)
	}
	checkSame(t, open(t, dir), sample()) // found by its directory

	// The same content gives the same bytes; every tensor is aligned to its element.
	again := filepath.Join(dir, "again.safetensors")
	if err := Write(again, sample(), meta); err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(path)
	b, errB := os.ReadFile(again)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two writes differ (%v, %v)", errA, errB)
	}
	for name, e := range f.entries {
		if e.begin%int64(e.shape.DType.Size()) != 0 {
			t.Errorf("%s begins at %d, unaligned", name, e.begin)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// The bytes of a small file, spelled out: what other programs must be able to read.
func TestSafetensorsBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	set := map[string]*tensors.Tensor{
		"a": tensors.FromFlatDataAndDimensions([]uint8{1, 2}, 2),
		"b": tensors.FromFlatDataAndDimensions([]float32{1}, 1, 1),
	}
	if err := Write(path, set, map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	header := `{"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},"b":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}`
	for len(header)%8 != 0 {
		header += " "
	}
	want := string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header + "\x00\x00\x80\x3f\x01\x02"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func TestSafetensorsFromDevice(t *testing.T) {
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		x := graph.MustExecOnce(b, func(x *graph.Node) *graph.Node { return graph.MulScalar(x, 3) }, []float32{1, 2})
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := Write(path, map[string]*tensors.Tensor{"x": x}, nil); err != nil {
			t.Fatal(err)
		}
		got, err := open(t, path).Tensor("x")
		if err != nil {
			t.Fatal(err)
		}
		if v := tensors.MustCopyFlatData[float32](got); !slices.Equal(v, []float32{3, 6}) {
			t.Errorf("got %v", v)
		}
	})
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.safetensors")
	if err := os.WriteFile(path, []byte("what was there"), 0o644); err != nil {
		t.Fatal(err)
	}
	gone := tensors.FromScalar(float32(1))
	gone.MustFinalizeAll()
	for what, set := range map[string]map[string]*tensors.Tensor{
		"nil":       {"bad": nil},
		"finalized": {"bad": gone},
		"complex":   {"bad": tensors.FromScalar(complex64(1))},
		"reserved":  {"__metadata__": tensors.FromScalar(float32(1))},
	} {
		if err := Write(path, set, nil); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A write that fails in the middle, as on a full disk, leaves the old file and nothing else.
	err := atomicfile.Write(path, func(w io.Writer) error {
		_, err := w.Write([]byte("half"))
		return errors.Join(err, errors.New("disk full"))
	})
	if err == nil {
		t.Error("no error")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "what was there" {
		t.Errorf("the old file is now %q (%v)", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := Write(filepath.Join(dir, "none", "x.safetensors"), sample(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// file makes the bytes of a safetensors file from its header and data.
func file(header string, data int) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), make([]byte, data)...)
}

func TestSafetensorsRefuses(t *testing.T) {
	const f32 = `"dtype":"F32","shape":[2]`
	huge := binary.LittleEndian.AppendUint64(nil, math.MaxUint64)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":             {nil, "0 bytes"},
		"short prefix":      {[]byte("1234567"), "7 bytes"},
		"huge header":       {append(huge, "{}"...), "at most"},
		"header past end":   {file("{}", 0)[:9], "truncated"},
		"not json":          {file("{]", 0), "header"},
		"not an object":     {file("[]", 0), "object"},
		"cut json":          {file(`{"a":{`, 0), "unexpected EOF"},
		"trailing":          {file("{} x", 0), "follow the JSON object"},
		"listed twice":      {file(`{"a":{`+f32+`,"data_offsets":[0,8]},"a":{`+f32+`,"data_offsets":[0,8]}}`, 8), `"a" is listed twice`},
		"metadata":          {file(`{"__metadata__":{"a":1}}`, 0), "__metadata__"},
		"dtype":             {file(`{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}`, 2), `"F8_E4M3" is not supported`},
		"no shape":          {file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), "no shape"},
		"negative":          {file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), "out of range"},
		"fraction":          {file(`{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}`, 4), `"a"`},
		"overflow":          {file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}`, 4), "too many"},
		"overflow in bytes": {file(`{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}`, 0), "bytes"},
		"one offset":        {file(`{"a":{`+f32+`,"data_offsets":[8]}}`, 8), "data_offsets"},
		"backwards":         {file(`{"a":{`+f32+`,"data_offsets":[8,0]}}`, 8), "data_offsets"},
		"negative offset":   {file(`{"a":{`+f32+`,"data_offsets":[-8,0]}}`, 8), `"a"`},
		"past end":          {file(`{"a":{`+f32+`,"data_offsets":[0,8]}}`, 7), "truncated"},
		"too long":          {file(`{"a":{`+f32+`,"data_offsets":[0,12]}}`, 12), "F32 [2] has 2 elements of 4 bytes, but its data are 12 bytes"},
		"unused tail":       {file(`{"a":{`+f32+`,"data_offsets":[0,8]}}`, 9), "there are 9"},
		"gap":               {file(`{"a":{`+f32+`,"data_offsets":[4,12]}}`, 12), "begins at byte 4"},
		"overlap":           {file(`{"a":{`+f32+`,"data_offsets":[0,8]},"b":{`+f32+`,"data_offsets":[4,12]}}`, 12), "inside the tensor before it"},
		"same place":        {file(`{"a":{`+f32+`,"data_offsets":[0,8]},"b":{`+f32+`,"data_offsets":[0,8]}}`, 8), "inside the tensor before it"},
	} {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with the path and %q", name, err, c.want)
		}
	}
}

func TestSafetensorsBadBool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	data := file(`{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}`, 2)
	data[len(data)-1] = 2
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path).Tensor("a"); err == nil || !strings.Contains(err.Error(), "neither 0 nor 1") {
		t.Errorf("got %v", err)
	}
}

// A file cut anywhere is refused, whether the cut falls in the prefix, the header or a tensor.
func TestSafetensorsTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := Write(path, sample(), map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if _, _, err := parseSafetensors(bytes.NewReader(data[:n]), int64(n)); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(data))
		}
	}
	// Cut after it was opened: the read fails, and names the tensor.
	f := open(t, path)
	if err := os.Truncate(path, int64(len(data)-1)); err != nil {
		t.Fatal(err)
	}
	var failed []string
	for _, name := range f.Names() {
		if _, err := f.Tensor(name); err != nil {
			failed = append(failed, name)
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v", err)
			}
		}
	}
	if len(failed) != 1 {
		t.Errorf("tensors %v failed, want the last one", failed)
	}
}

func TestSafetensorsShards(t *testing.T) {
	dir := t.TempDir()
	one := map[string]*tensors.Tensor{"a": tensors.FromScalar(float32(1)), "b": tensors.FromScalar(float32(2))}
	two := map[string]*tensors.Tensor{"c": tensors.FromFlatDataAndDimensions([]int32{3, 4}, 2)}
	if err := errors.Join(Write(filepath.Join(dir, "m-1.safetensors"), one, nil), Write(filepath.Join(dir, "m-2.safetensors"), two, nil)); err != nil {
		t.Fatal(err)
	}
	index := func(m map[string]string) {
		data, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 16}, "weight_map": m})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	index(map[string]string{"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"})
	checkSame(t, open(t, dir), map[string]*tensors.Tensor{"a": one["a"], "b": one["b"], "c": two["c"]})

	for want, m := range map[string]map[string]string{
		"lists no tensors": {},
		`shard m-3.safetensors is missing, with 1 tensors, the first of them "a"`: {"a": "m-3.safetensors"},
		"outside":                 {"a": "../m-1.safetensors"},
		`"c" is not in`:           {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-1.safetensors"},
		`holds tensor "b", which`: {"a": "m-1.safetensors", "c": "m-2.safetensors"},
	} {
		index(m)
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", m, err, want)
		}
	}
	index(map[string]string{"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"})
	if err := Write(filepath.Join(dir, "m-2.safetensors"), map[string]*tensors.Tensor{"c": two["c"], "a": one["a"]}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), `"a" is also in`) {
		t.Errorf("a tensor in two shards: %v", err)
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("an empty directory: %v", err)
	}
}

// shared finds a file of the shared data, or skips the test.
func shared(t *testing.T, parts ...string) string {
	t.Helper()
	for _, up := range []string{"../../../shared", "../../shared"} {
		path := filepath.Join(append([]string{up}, parts...)...)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skipf("%s is not on this machine", filepath.Join(parts...))
	return ""
}

// A file another program wrote, against facts about it that hold whatever the values.
func TestSafetensorsOfOthers(t *testing.T) {
	f := open(t, shared(t, "goldens", "hf", "llama", "model.safetensors"))
	for name, want := range map[string]string{"model.embed_tokens.weight": "[256 64]", "model.norm.weight": "[64]"} {
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(x.Shape().Dimensions); got != want || x.DType() != dtypes.Float32 {
			t.Errorf("%s: %s %s, want float32 %s", name, x.DType(), got, want)
		}
		for i, v := range tensors.MustCopyFlatData[float32](x) {
			if v != v || math.Abs(float64(v)) > 100 {
				t.Fatalf("%s[%d] = %v: not a weight", name, i, v)
			}
		}
	}
	if f.Metadata()["format"] != "pt" {
		t.Errorf("metadata %v", f.Metadata())
	}
	if _, err := f.Tensor("none"); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}
