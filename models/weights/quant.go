package weights

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes/bfloat16"
)

// quant is how a ggml type stores a block of consecutive elements. Source: ggml-common.h and ggml-quants.c.
type quant struct {
	elements, bytes int64
	decode          func(out []float32, block []byte) // one block
}

const (
	ggmlF32  = 0
	ggmlF16  = 1
	ggmlQ4_0 = 2
	ggmlQ4_1 = 3
	ggmlQ8_0 = 8
	ggmlBF16 = 30
)

var quants = map[uint32]quant{
	ggmlF32: {1, 4, func(out []float32, b []byte) { out[0] = float32At(b) }},
	ggmlF16: {1, 2, func(out []float32, b []byte) { out[0] = halfAt(b) }},
	ggmlBF16: {1, 2, func(out []float32, b []byte) {
		out[0] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	}},
	ggmlQ8_0: {32, 2 + 32, func(out []float32, b []byte) { // x = d·q, q a signed byte
		d := halfAt(b)
		for i, q := range b[2:34] {
			out[i] = d * float32(int8(q))
		}
	}},
	ggmlQ4_0: {32, 2 + 16, func(out []float32, b []byte) { // x = d·(q−8); low nibbles are the first half of the block
		d := halfAt(b)
		for i, q := range b[2:18] {
			out[i] = d * float32(int(q&15)-8)
			out[i+16] = d * float32(int(q>>4)-8)
		}
	}},
	ggmlQ4_1: {32, 2 + 2 + 16, func(out []float32, b []byte) { // x = d·q + m
		d, m := halfAt(b), halfAt(b[2:])
		for i, q := range b[4:20] {
			// The conversion keeps the compiler from fusing, so that every platform reads the same weights.
			out[i] = float32(d*float32(q&15)) + m
			out[i+16] = float32(d*float32(q>>4)) + m
		}
	}},
}

// typeNames are ggml's names, to name what we cannot read.
var typeNames = map[uint32]string{
	0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
	13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
	22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0",
	35: "TQ2_0", 39: "MXFP4",
}

func typeName(kind uint32) string {
	if name, ok := typeNames[kind]; ok {
		return name
	}
	return fmt.Sprintf("number %d", kind)
}

func supportedTypes() string {
	var names []string
	for _, kind := range slices.Sorted(maps.Keys(quants)) {
		names = append(names, typeNames[kind])
	}
	return strings.Join(names, ", ")
}

// dequantize fills flat ([]float32 or []bfloat16.BFloat16) with t's elements.
func dequantize(flat any, src *source, t ggufTensor, q quant) error {
	return src.each(t.offset, t.offset+t.bytes(), q.bytes, func(at int64, piece []byte) error {
		values := make([]float32, q.elements)
		for i := range int64(len(piece)) / q.bytes {
			block := piece[i*q.bytes : (i+1)*q.bytes]
			first := (at/q.bytes + i) * q.elements
			switch out := flat.(type) {
			case []float32:
				q.decode(out[first:first+q.elements], block)
			case []bfloat16.BFloat16:
				q.decode(values, block)
				for j, v := range values {
					out[first+int64(j)] = rounded(v)
				}
			default:
				return fmt.Errorf("cannot dequantize into %T", flat)
			}
		}
		return nil
	})
}
