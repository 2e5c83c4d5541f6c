package weights

import (
	"fmt"
	"math"
)

// GGUF's metadata value types.
const (
	ggufUint8 = iota
	ggufInt8
	ggufUint16
	ggufInt16
	ggufUint32
	ggufInt32
	ggufFloat32
	ggufBool
	ggufString
	ggufArray
	ggufUint64
	ggufInt64
	ggufFloat64
)

// ggufWidth is the least number of bytes a value of each type takes.
var ggufWidth = [...]int64{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}

// typed reads a type number and a value of that type.
func (d *ggufDecoder) typed() (any, error) {
	kind, err := d.uint(4)
	if err != nil {
		return nil, err
	}
	return d.value(kind, 0)
}

func (d *ggufDecoder) value(kind uint64, depth int) (any, error) {
	switch kind {
	case ggufUint8:
		return number[uint8](d)
	case ggufInt8:
		return number[int8](d)
	case ggufUint16:
		return number[uint16](d)
	case ggufInt16:
		return number[int16](d)
	case ggufUint32:
		return number[uint32](d)
	case ggufInt32:
		return number[int32](d)
	case ggufUint64:
		return number[uint64](d)
	case ggufInt64:
		return number[int64](d)
	case ggufFloat32:
		return d.float32()
	case ggufFloat64:
		return d.float64()
	case ggufBool:
		return d.bool()
	case ggufString:
		return d.string()
	case ggufArray:
		return d.array(depth + 1)
	}
	return nil, fmt.Errorf("value type %d is unknown", kind)
}

func (d *ggufDecoder) array(depth int) (any, error) {
	if depth > ggufMaxNested {
		return nil, fmt.Errorf("arrays nested more than %d deep", ggufMaxNested)
	}
	kind, err := d.uint(4)
	if err != nil {
		return nil, err
	}
	if kind >= uint64(len(ggufWidth)) {
		return nil, fmt.Errorf("value type %d is unknown", kind)
	}
	n, err := d.count(ggufWidth[kind], "array elements")
	if err != nil {
		return nil, err
	}
	switch kind {
	case ggufUint8:
		return repeat(n, func() (uint8, error) { return number[uint8](d) })
	case ggufInt8:
		return repeat(n, func() (int8, error) { return number[int8](d) })
	case ggufUint16:
		return repeat(n, func() (uint16, error) { return number[uint16](d) })
	case ggufInt16:
		return repeat(n, func() (int16, error) { return number[int16](d) })
	case ggufUint32:
		return repeat(n, func() (uint32, error) { return number[uint32](d) })
	case ggufInt32:
		return repeat(n, func() (int32, error) { return number[int32](d) })
	case ggufUint64:
		return repeat(n, func() (uint64, error) { return number[uint64](d) })
	case ggufInt64:
		return repeat(n, func() (int64, error) { return number[int64](d) })
	case ggufFloat32:
		return repeat(n, d.float32)
	case ggufFloat64:
		return repeat(n, d.float64)
	case ggufBool:
		return repeat(n, d.bool)
	case ggufString:
		return repeat(n, d.string)
	}
	return repeat(n, func() (any, error) { return d.array(depth + 1) })
}

// repeat reads n values; n is already known to fit in what is left of the file.
func repeat[T any](n int, read func() (T, error)) ([]T, error) {
	out := make([]T, n)
	for i := range out {
		var err error
		if out[i], err = read(); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return out, nil
}

func number[T uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64](d *ggufDecoder) (T, error) {
	var width int
	switch any(T(0)).(type) {
	case uint8, int8:
		width = 1
	case uint16, int16:
		width = 2
	case uint32, int32:
		width = 4
	default:
		width = 8
	}
	v, err := d.uint(width)
	return T(v), err
}

func (d *ggufDecoder) float32() (float32, error) {
	v, err := d.uint(4)
	return math.Float32frombits(uint32(v)), err
}

func (d *ggufDecoder) float64() (float64, error) {
	v, err := d.uint(8)
	return math.Float64frombits(v), err
}

func (d *ggufDecoder) bool() (bool, error) {
	v, err := d.uint(1)
	if err == nil && v > 1 {
		err = fmt.Errorf("a bool is %d", v)
	}
	return v == 1, err
}
