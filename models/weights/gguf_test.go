package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/fetch"
)

// ggufFile writes GGUF files for the tests, correct ones and others.
type ggufFile struct{ bytes.Buffer }

func (w *ggufFile) put(values ...any) *ggufFile {
	for _, v := range values {
		switch v := v.(type) {
		case string:
			w.put(uint64(len(v)))
			w.WriteString(v)
		case int:
			w.put(uint32(v))
		case []byte:
			w.Write(v)
		default:
			if err := binary.Write(&w.Buffer, binary.LittleEndian, v); err != nil {
				panic(err)
			}
		}
	}
	return w
}

func newGGUF(version uint32, tensors, metas uint64) *ggufFile {
	return new(ggufFile).put([]byte("GGUF"), version, tensors, metas)
}

// tensor lists a tensor; dims as GGUF lists them, fastest axis first.
func (w *ggufFile) tensor(name string, kind uint32, offset uint64, dims ...uint64) *ggufFile {
	return w.put(name, uint32(len(dims)), dims, kind, offset)
}

func (w *ggufFile) align(n int) *ggufFile {
	for w.Len()%n != 0 {
		w.WriteByte(0)
	}
	return w
}

func (w *ggufFile) open(t *testing.T) (*GGUF, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, w.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := OpenGGUF(path)
	if err == nil {
		t.Cleanup(func() { g.Close() })
	}
	return g, err
}

// sampleGGUF has every metadata type and every tensor type we read, each block worked out by hand below.
func sampleGGUF() *ggufFile {
	w := newGGUF(3, 8, 16)
	w.put("u8", ggufUint8, uint8(200), "i8", ggufInt8, int8(-100), "u16", ggufUint16, uint16(60000), "i16", ggufInt16, int16(-30000))
	w.put("u32", ggufUint32, uint32(4e9), "i32", ggufInt32, int32(-2e9), "u64", ggufUint64, uint64(math.MaxUint64), "i64", ggufInt64, int64(math.MinInt64))
	w.put("f32", ggufFloat32, float32(1e-5), "f64", ggufFloat64, math.Pi, "yes", ggufBool, uint8(1), "text", ggufString, "añb")
	w.put("words", ggufArray, ggufString, uint64(3), "a", "", "ccc", "ints", ggufArray, ggufInt32, uint64(2), int32(-1), int32(7))
	w.put("nested", ggufArray, ggufArray, uint64(2), ggufUint8, uint64(1), uint8(9), ggufFloat32, uint64(0))
	w.put("general.alignment", ggufUint32, uint32(64))
	w.tensor("f32", ggmlF32, 0, 3, 2)     // 24 bytes
	w.tensor("f16", ggmlF16, 64, 2)       // 4
	w.tensor("bf16", ggmlBF16, 128, 2)    // 4
	w.tensor("q8", ggmlQ8_0, 192, 32, 2)  // 2 blocks of 34
	w.tensor("q40", ggmlQ4_0, 320, 32)    // 18
	w.tensor("q41", ggmlQ4_1, 384, 32, 1) // 20
	w.tensor("q4k", 12, 448, 256)         // Q4_K: listed, not read
	w.tensor("scalar", ggmlF32, 640)      // 4
	w.align(64)
	w.put([]float32{1, 2, 3, 4, 5, -6}).align(64)
	w.put(uint16(0x3c00), uint16(0xc001)).align(64)
	w.put(uint16(0x3f80), uint16(0xc040)).align(64)
	w.put(block8(0x3800, 1), block8(0xb400, -2)).align(64) // scales 0.5, −0.25
	w.put(uint16(0x4000), nibbles()).align(64)             // scale 2
	w.put(uint16(0x3800), uint16(0xc200), nibbles()).align(64)
	w.put(make([]byte, 144)).align(64)
	w.put(float32(42))
	return w
}

// block8 is a Q8_0 block whose element i is (i−16)·sign·scale.
func block8(scale uint16, sign int) []byte {
	b := binary.LittleEndian.AppendUint16(nil, scale)
	for i := range 32 {
		b = append(b, byte(int8((i-16)*sign)))
	}
	return b
}

// nibbles is the 16 bytes of a Q4 block whose quants are 0…15 in the first half and 15…0 in the second.
func nibbles() []byte {
	b := make([]byte, 16)
	for i := range b {
		b[i] = byte(i | (15-i)<<4)
	}
	return b
}

func TestGGUFMetadata(t *testing.T) {
	g, err := sampleGGUF().open(t)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"u8": uint8(200), "i8": int8(-100), "u16": uint16(60000), "i16": int16(-30000), "u32": uint32(4e9), "i32": int32(-2e9),
		"u64": uint64(math.MaxUint64), "i64": int64(math.MinInt64), "f32": float32(1e-5), "f64": math.Pi, "yes": true, "text": "añb",
		"words": []string{"a", "", "ccc"}, "ints": []int32{-1, 7}, "nested": []any{[]uint8{9}, []float32{}}, "general.alignment": uint32(64),
	}
	if !reflect.DeepEqual(g.Meta, want) {
		t.Errorf("got %v, want %v", g.Meta, want)
	}
	if want := []string{"bf16", "f16", "f32", "q40", "q41", "q4k", "q8", "scalar"}; !slices.Equal(g.Names(), want) {
		t.Errorf("tensors %v, want %v", g.Names(), want)
	}
	if info, ok := g.Info("f32"); !ok || info.Type != "F32" || !slices.Equal(info.Shape, []int{2, 3}) {
		t.Errorf("f32: %v, want F32 [2 3]", info)
	}
	if info, ok := g.Info("q4k"); !ok || info.Type != "Q4_K" {
		t.Errorf("q4k: %v", info)
	}
}

func TestGGUFTensors(t *testing.T) {
	g, err := sampleGGUF().open(t)
	if err != nil {
		t.Fatal(err)
	}
	var q8, q40, q41 []float32
	for i := range 32 {
		q8 = append(q8, 0.5*float32(i-16))
	}
	for i := range 32 {
		q8 = append(q8, 0.5*float32(i-16)) // −0.25 · −2
	}
	for i := range 32 {
		q := float32(min(i, 31-i)) // 0…15, 15…0
		q40 = append(q40, 2*(q-8))
		q41 = append(q41, 0.5*q-3)
	}
	for name, want := range map[string][]float32{
		"f32":  {1, 2, 3, 4, 5, -6},
		"f16":  {1, -(2 + 1.0/512)}, // 0xc001 = −2·(1 + 2⁻¹⁰)
		"bf16": {1, -3},
		"q8":   q8, "q40": q40, "q41": q41,
		"scalar": {42},
	} {
		for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
			x, err := g.Tensor(name, dtype)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			info, _ := g.Info(name)
			if x.DType() != dtype || !slices.Equal(x.Shape().Dimensions, info.Shape) && len(info.Shape) > 0 {
				t.Errorf("%s: %s, want %s %v", name, x.Shape(), dtype, info.Shape)
			}
			if dtype == dtypes.Float32 {
				if got := tensors.MustCopyFlatData[float32](x); !slices.Equal(got, want) {
					t.Errorf("%s: got %v, want %v", name, got, want)
				}
				continue
			}
			for i, v := range tensors.MustCopyFlatData[bfloat16.BFloat16](x) {
				if v.Float32() != bfloat16.FromFloat32(want[i]).Float32() {
					t.Errorf("%s in bfloat16: element %d is %v, want %v", name, i, v, want[i])
				}
			}
		}
	}
	for name, want := range map[string]string{"q4k": "type Q4_K", "none": "no tensor"} {
		if _, err := g.Tensor(name, dtypes.Float32); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := g.Tensor("f32", dtypes.Int32); err == nil {
		t.Error("read as int32")
	}
}

// More blocks than are read at once.
func TestGGUFLongTensor(t *testing.T) {
	const rows = 1000 // of 32 blocks: 32,000 blocks, four pieces
	w := newGGUF(2, 1, 0).tensor("x", ggmlQ8_0, 0, 32*32, rows).align(32)
	for i := range rows * 32 {
		b := make([]byte, 34)
		binary.LittleEndian.PutUint16(b, 0x3c00)
		for j := range 32 {
			b[2+j] = byte(int8(i % 100))
		}
		w.Write(b)
	}
	g, err := w.open(t)
	if err != nil {
		t.Fatal(err)
	}
	x, err := g.Tensor("x", dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range tensors.MustCopyFlatData[float32](x) {
		if v != float32(i/32%100) {
			t.Fatalf("element %d is %v, want %d", i, v, i/32%100)
		}
	}
}

func TestGGUFRefuses(t *testing.T) {
	tooMany := uint64(1) << 40
	for name, c := range map[string]struct {
		file *ggufFile
		want string
	}{
		"empty":             {new(ggufFile), "truncated"},
		"other magic":       {new(ggufFile).put([]byte("GGML"), 3, uint64(0), uint64(0)), "not a GGUF file"},
		"version 1":         {newGGUF(1, 0, 0), "version 1"},
		"version 4":         {newGGUF(4, 0, 0), "version 4"},
		"big-endian":        {newGGUF(3<<24, 0, 0), "big-endian"},
		"tensor count":      {newGGUF(3, tooMany, 0), "1099511627776 tensors"},
		"metadata count":    {newGGUF(3, 0, math.MaxUint64), "metadata entries"},
		"string length":     {newGGUF(3, 0, 1).put(tooMany, make([]byte, 30)), "bytes of a string"},
		"array length":      {newGGUF(3, 0, 1).put("k", ggufArray, ggufUint64, tooMany), "array elements"},
		"array of strings":  {newGGUF(3, 0, 1).put("k", ggufArray, ggufString, uint64(3), "a", "b"), `metadata "k"`},
		"value type":        {newGGUF(3, 0, 1).put("k", 13, uint64(0)), "value type 13"},
		"element type":      {newGGUF(3, 0, 1).put("k", ggufArray, 99, uint64(0)), "value type 99"},
		"bool":              {newGGUF(3, 0, 1).put("k", ggufBool, uint8(2)), "a bool is 2"},
		"same key":          {newGGUF(3, 0, 2).put("k", ggufBool, uint8(1), "k", ggufBool, uint8(1), 0), "listed twice"},
		"deep":              {newGGUF(3, 0, 1).put("k", ggufArray, ggufArray, uint64(1), ggufArray, uint64(1), ggufArray, uint64(1), ggufArray, uint64(1), ggufArray, uint64(0), make([]byte, 99)), "nested"},
		"alignment 0":       {newGGUF(3, 0, 1).put("general.alignment", ggufUint32, uint32(0)), "general.alignment"},
		"alignment a text":  {newGGUF(3, 0, 1).put("general.alignment", ggufString, "32"), "general.alignment"},
		"nine axes":         {newGGUF(3, 1, 0).tensor("x", 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1), "9 dimensions"},
		"a billion axes":    {newGGUF(3, 1, 0).put("x", uint32(1e9), make([]byte, 64)), "1000000000 dimensions"},
		"dimension":         {newGGUF(3, 1, 0).tensor("x", 0, 0, math.MaxUint64), "out of range"},
		"product":           {newGGUF(3, 1, 0).tensor("x", 0, 0, 1<<40, 1<<40), "too many elements"},
		"offset":            {newGGUF(3, 1, 0).tensor("x", 0, 4, 1).align(32).put(make([]byte, 32)), "multiple of the alignment"},
		"offset past end":   {newGGUF(3, 1, 0).tensor("x", 0, 64, 1).align(32).put(make([]byte, 32)), `tensor "x" begins at byte 64 of the data, but there are 32`},
		"offset negative":   {newGGUF(3, 1, 0).tensor("x", 0, math.MaxUint64-31, 1).align(32).put(make([]byte, 32)), "truncated"},
		"past end":          {newGGUF(3, 1, 0).tensor("x", 0, 0, 9).align(32).put(make([]byte, 32)), "runs past its end"},
		"huge":              {newGGUF(3, 1, 0).tensor("x", 8, 0, 1<<55).align(32).put(make([]byte, 34)), "runs past its end"},
		"half a block":      {newGGUF(3, 1, 0).tensor("x", ggmlQ8_0, 0, 16, 2).align(32).put(make([]byte, 34)), "rows of 16 elements cannot be Q8_0"},
		"overlap":           {newGGUF(3, 2, 0).tensor("x", 0, 0, 16).tensor("y", 0, 32, 8).align(32).put(make([]byte, 64)), `"x" and "y" overlap`},
		"same tensor":       {newGGUF(3, 2, 0).tensor("x", 0, 0, 8).tensor("x", 0, 32, 8).align(32).put(make([]byte, 64)), "listed twice"},
		"no data":           {newGGUF(3, 1, 0).tensor("x", 0, 0, 1), "truncated"},
		"a tensor too many": {newGGUF(3, 2, 0).tensor("x", 0, 0, 8), "truncated"},
	} {
		g, err := c.file.open(t)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "model.gguf") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, %v, want one line with the path and %q", name, g, err, c.want)
		}
	}
	if _, err := OpenGGUF(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := OpenGGUF(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestGGUFUnknownType(t *testing.T) {
	g, err := newGGUF(3, 1, 0).tensor("x", 77, 0, 8).align(32).put(make([]byte, 32)).open(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Tensor("x", dtypes.Float32); err == nil || !strings.Contains(err.Error(), `tensor "x" has type number 77`) {
		t.Errorf("got %v", err)
	}
}

// A file cut anywhere is refused when it is opened, except within the padding between tensors.
func TestGGUFTruncated(t *testing.T) {
	data := sampleGGUF().Bytes()
	for n := range data {
		_, _, err := parseGGUF(bytes.NewReader(data[:n]), int64(n))
		if err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(data))
		} else if strings.Contains(err.Error(), "EOF") {
			t.Errorf("cut to %d of %d bytes: %v", n, len(data), err)
		}
	}
	g, err := sampleGGUF().open(t)
	if err == nil {
		err = os.Truncate(g.path, int64(len(data)-1))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Tensor("scalar", dtypes.Float32); err == nil || !strings.Contains(err.Error(), g.path) {
		t.Errorf("cut after it was opened: %v", err)
	}
}

// SmolLM2 as pip ships it, where it has been fetched.
func TestGGUFSmolLM2(t *testing.T) {
	path, ok := fetch.SmolLM2Path()
	if !ok {
		t.Skip("SmolLM2 is not on this machine (bpo fetch smollm2, or GOBPO_SMOLLM2)")
	}
	g, err := OpenGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if n := len(g.Meta["tokenizer.ggml.tokens"].([]string)); n != 49152 || g.Meta["general.architecture"] != "llama" {
		t.Errorf("%d tokens, architecture %v", n, g.Meta["general.architecture"])
	}
	types := map[string]int{}
	params := 0
	for _, name := range g.Names() {
		x, err := g.Tensor(name, dtypes.Float32)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := g.Info(name)
		types[info.Type]++
		params += x.Size()
		// Weights of a trained model: a wrong block layout gives values of any size.
		sum := 0.0
		tensors.MustConstFlatData(x, func(v []float32) {
			for _, v := range v {
				sum += float64(v) * float64(v)
			}
		})
		if rms := math.Sqrt(sum / float64(x.Size())); !(rms > 1e-3 && rms < 20) {
			t.Errorf("%s (%s): root mean square %v", name, info.Type, rms)
		}
		x.MustFinalizeAll()
	}
	if params != 134515008 {
		t.Errorf("%d parameters, want 134,515,008", params)
	}
	if want := []string{"F32", "Q4_1", "Q8_0"}; !slices.Equal(slices.Sorted(maps.Keys(types)), want) {
		t.Errorf("tensor types %v, want %v", types, want)
	}
}
