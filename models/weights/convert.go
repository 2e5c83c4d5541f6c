package weights

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
)

// decoder turns little-endian numbers of one dtype into Go values: len(out) of them from src.
type decoder[T any] func(out []T, src []byte)

// toFloat32 and toBFloat16 hold the dtypes that can be weights; others have no decoder. Loops are spelled out: a call
// for each of a billion numbers would cost more than reading them.
var toFloat32 = map[dtypes.DType]decoder[float32]{
	dtypes.Float32: same[float32],
	dtypes.Float64: func(out []float32, src []byte) {
		for i := range out {
			out[i] = float32(float64At(src[8*i:]))
		}
	},
	dtypes.Float16: func(out []float32, src []byte) {
		for i := range out {
			out[i] = halfAt(src[2*i:])
		}
	},
	dtypes.BFloat16: func(out []float32, src []byte) {
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	},
}

var toBFloat16 = map[dtypes.DType]decoder[bfloat16.BFloat16]{
	dtypes.Float32: func(out []bfloat16.BFloat16, src []byte) {
		for i := range out {
			out[i] = rounded(float32At(src[4*i:]))
		}
	},
	dtypes.Float64: func(out []bfloat16.BFloat16, src []byte) {
		for i := range out {
			out[i] = rounded(float32(float64At(src[8*i:])))
		}
	},
	dtypes.Float16: func(out []bfloat16.BFloat16, src []byte) {
		for i := range out {
			out[i] = rounded(halfAt(src[2*i:]))
		}
	},
	dtypes.BFloat16: same[bfloat16.BFloat16],
}

// same copies: gomlx, too, takes the machine to be little-endian.
func same[T any](out []T, src []byte) { copy(dtypes.UnsafeByteSliceFromAny(out), src) }

func float32At(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }
func float64At(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) }
func halfAt(b []byte) float32    { return halves[binary.LittleEndian.Uint16(b)] }

// halves are the values of all float16 numbers.
var halves = func() (all [1 << 16]float32) {
	for i := range all {
		all[i] = float16.FromBits(uint16(i)).Float32()
	}
	return all
}()

// rounded is x to the nearest bfloat16, ties to even; a NaN stays one (bfloat16.FromFloat32 makes some infinite).
func rounded(x float32) bfloat16.BFloat16 {
	if x != x {
		return 0x7fc0
	}
	return bfloat16.FromFloat32(x)
}

// Read fills flat, a []float32 or []bfloat16.BFloat16, with a tensor's numbers, converted piece by piece: beyond flat it
// needs a few MB whatever the tensor's size. The tensor's dtype may be float32, float16, bfloat16 or float64; rounding
// is to nearest, ties to even.
func (f *File) Read(name string, flat any) error {
	e, err := f.find(name)
	if err != nil {
		return err
	}
	switch out := flat.(type) {
	case []float32:
		err = read(e, out, toFloat32[e.shape.DType])
	case []bfloat16.BFloat16:
		err = read(e, out, toBFloat16[e.shape.DType])
	default:
		err = fmt.Errorf("cannot be read into %T, only []float32 or []bfloat16", flat)
	}
	if err != nil {
		return fmt.Errorf("%s: tensor %q: %w", e.file, name, err)
	}
	return nil
}

func read[T any](e entry, out []T, decode decoder[T]) error {
	if decode == nil {
		return fmt.Errorf("dtype %s cannot be weights, want F32, F16, BF16 or F64", safetensorsNames[e.shape.DType])
	}
	if n := e.shape.Size(); len(out) != n {
		return fmt.Errorf("shape %v has %d elements, but there is room for %d", e.shape.Dimensions, n, len(out))
	}
	width := int64(e.shape.DType.Size())
	return e.src.each(e.begin, e.end, width, func(at int64, piece []byte) error {
		decode(out[at/width:][:int64(len(piece))/width], piece)
		return nil
	})
}
