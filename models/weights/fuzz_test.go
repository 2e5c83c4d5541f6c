package weights

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
)

// The parsers must not panic, and what they accept must lie inside the file: then no read can fail and no allocation
// exceeds what the file's own size allows.

func FuzzSafetensors(f *testing.F) {
	path := filepath.Join(f.TempDir(), "x.safetensors")
	if err := Write(path, sample(), map[string]string{"k": "v"}); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add(file(`{"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}`, 0))
	f.Add(file(`{"a":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]}}`, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, _, err := parseSafetensors(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		total := int64(0)
		for name, e := range entries {
			e.src = &source{r: bytes.NewReader(data), size: int64(len(data))}
			entries[name] = e
			if e.begin < 8 || e.end < e.begin || e.end > int64(len(data)) {
				t.Errorf("%q lies at %d–%d in %d bytes", name, e.begin, e.end, len(data))
			}
			if want := e.shape.ByteSize(); want != e.end-e.begin {
				t.Errorf("%q has %d bytes in the file, its shape %s needs %d", name, e.end-e.begin, e.shape, want)
			}
			total += e.end - e.begin
		}
		if total > int64(len(data)) {
			t.Errorf("tensors of %d bytes in a file of %d", total, len(data))
		}
		file := File{entries: entries}
		for name := range entries {
			// Whatever has a float dtype can be read as weights.
			err := file.Read(name, make([]float32, entries[name].shape.Size()))
			if dtype := entries[name].shape.DType; (err == nil) != (toFloat32[dtype] != nil) {
				t.Errorf("%q, %s: read: %v", name, dtype, err)
			}
			if x, err := file.Tensor(name); err == nil {
				x.MustFinalizeAll()
			} else if entries[name].shape.DType != dtypes.Bool {
				t.Errorf("accepted, and yet: %v", err)
			}
		}
	})
}

func FuzzGGUF(f *testing.F) {
	data := sampleGGUF().Bytes()
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add(newGGUF(2, 1, 0).tensor("x", ggmlQ4_1, 0, 32, 0, math.MaxInt64).align(32).Bytes())
	f.Add(newGGUF(3, 1, 1).put("a", ggufArray, ggufArray, uint64(1), ggufArray, uint64(0)).tensor("x", 99, 0, 1).align(32).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, list, err := parseGGUF(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		src := &source{r: bytes.NewReader(data), size: int64(len(data))}
		for name, x := range list {
			q, ok := quants[x.kind]
			if !ok {
				continue
			}
			if x.offset < 0 || x.offset+x.bytes() > int64(len(data)) || x.count != x.bytes()/q.bytes*q.elements {
				t.Fatalf("%q (%s, %d elements) lies at %d in %d bytes", name, typeName(x.kind), x.count, x.offset, len(data))
			}
			if err := dequantize(make([]float32, x.count), src, x, q); err != nil {
				t.Errorf("%q: accepted, and yet: %v", name, err)
			}
			if err := dequantize(make([]bfloat16.BFloat16, x.count), src, x, q); err != nil {
				t.Errorf("%q: accepted, and yet: %v", name, err)
			}
		}
	})
}

// What the index reader accepts names only files below the index's directory.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":16},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x","a":"y"}}`))
	f.Add([]byte(`{"weight_map":{"":"d/../../x"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		shards, err := parseIndex(text)
		if err != nil {
			return
		}
		if len(shards) == 0 {
			t.Error("no tensors")
		}
		for name, shard := range shards {
			if path := filepath.Join("/base", shard); !filepath.IsLocal(shard) || !strings.HasPrefix(path, "/base/") && path != "/base" {
				t.Errorf("tensor %q is in %q", name, shard)
			}
		}
	})
}
