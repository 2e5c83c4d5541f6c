package weights

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Sources: ggml's docs/gguf.md for the layout, ggml.h for the type numbers.

const (
	ggufMaxDims   = 8 // ggml itself stops at 4
	ggufMaxNested = 4 // arrays of arrays of …
)

// parseGGUF reads the metadata and the tensor list of a file of size bytes, and checks that all tensors lie inside it
// and apart.
func parseGGUF(r io.ReaderAt, size int64) (map[string]any, map[string]ggufTensor, error) {
	d := &ggufDecoder{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), size: size}
	meta, list, err := d.header()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("truncated: the file ends after %d bytes", size)
		}
		return nil, nil, err
	}
	align := int64(32)
	if v, ok := meta["general.alignment"]; ok {
		a, isUint := v.(uint32)
		if !isUint || a == 0 || a%8 != 0 {
			return nil, nil, fmt.Errorf("general.alignment is %v, want a multiple of 8", v)
		}
		align = int64(a)
	}
	start := (d.at + align - 1) / align * align
	if err := place(list, start, size, align); err != nil {
		return nil, nil, err
	}
	return meta, list, nil
}

// place turns the offsets into offsets in the file and checks them. A type we do not know has no known size; its
// tensor is only checked to begin inside the file and after the one before it.
func place(list map[string]ggufTensor, start, size, align int64) error {
	names := make([]string, 0, len(list))
	for name, t := range list {
		if t.offset%align != 0 {
			return fmt.Errorf("tensor %q: offset %d is not a multiple of the alignment %d", name, t.offset, align)
		}
		if t.offset < 0 || t.offset > size-start {
			return fmt.Errorf("truncated: tensor %q begins at byte %d of the data, but there are %d", name, uint64(t.offset), max(size-start, 0))
		}
		t.offset += start
		if q, ok := quants[t.kind]; ok {
			row := int64(1)
			if len(t.dims) > 0 {
				row = int64(t.dims[len(t.dims)-1])
			}
			if row%q.elements != 0 {
				return fmt.Errorf("tensor %q: rows of %d elements cannot be %s, which has blocks of %d", name, row, typeName(t.kind), q.elements)
			}
			if blocks := t.count / q.elements; blocks > (size-t.offset)/q.bytes {
				return fmt.Errorf("truncated: tensor %q (%s %v) begins at byte %d of the file and runs past its end at %d", name, typeName(t.kind), t.dims, t.offset, size)
			}
		}
		list[name] = t
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := list[a], list[b]
		if x.offset != y.offset {
			return int(min(max(x.offset-y.offset, -1), 1))
		}
		return int(min(max(x.bytes()-y.bytes(), -1), 1))
	})
	for i := 1; i < len(names); i++ {
		before, t := list[names[i-1]], list[names[i]]
		if before.offset+before.bytes() > t.offset {
			return fmt.Errorf("tensors %q and %q overlap", names[i-1], names[i])
		}
	}
	return nil
}

// bytes is the length in the file; 0 for a type we do not know.
func (t ggufTensor) bytes() int64 {
	if q, ok := quants[t.kind]; ok {
		return t.count / q.elements * q.bytes
	}
	return 0
}

// ggufDecoder reads little-endian values, never asking for more than the file holds.
type ggufDecoder struct {
	r        *bufio.Reader
	at, size int64
	buf      [8]byte
}

func (d *ggufDecoder) header() (map[string]any, map[string]ggufTensor, error) {
	magic, err := d.uint(4)
	if err != nil {
		return nil, nil, err
	}
	if magic != 0x46554747 { // "GGUF"
		return nil, nil, errors.New(`not a GGUF file: it does not begin with "GGUF"`)
	}
	version, err := d.uint(4)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case version&0xffff == 0 && version != 0:
		return nil, nil, errors.New("a big-endian GGUF file; only little-endian ones are supported")
	case version != 2 && version != 3:
		return nil, nil, fmt.Errorf("GGUF version %d; only 2 and 3 are supported", version)
	}
	tensorCount, err := d.count(8+4+4+8, "tensors")
	if err != nil {
		return nil, nil, err
	}
	metaCount, err := d.count(8+4+1, "metadata entries")
	if err != nil {
		return nil, nil, err
	}
	meta := map[string]any{}
	for range metaCount {
		key, err := d.string()
		if err != nil {
			return nil, nil, fmt.Errorf("metadata: %w", err)
		}
		if _, dup := meta[key]; dup {
			return nil, nil, fmt.Errorf("metadata %q is listed twice", key)
		}
		if meta[key], err = d.typed(); err != nil {
			return nil, nil, fmt.Errorf("metadata %q: %w", key, err)
		}
	}
	list := map[string]ggufTensor{}
	for range tensorCount {
		name, err := d.string()
		if err != nil {
			return nil, nil, fmt.Errorf("tensor list: %w", err)
		}
		if _, dup := list[name]; dup {
			return nil, nil, fmt.Errorf("tensor %q is listed twice", name)
		}
		if list[name], err = d.tensor(); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	return meta, list, nil
}

func (d *ggufDecoder) tensor() (ggufTensor, error) {
	var t ggufTensor
	n, err := d.uint(4)
	if err != nil {
		return t, err
	}
	if n > ggufMaxDims {
		return t, fmt.Errorf("%d dimensions, at most %d are supported", n, ggufMaxDims)
	}
	dims := make([]int64, n)
	for i := range dims {
		v, err := d.uint(8)
		if err != nil {
			return t, err
		}
		if v > math.MaxInt64 {
			return t, fmt.Errorf("dimension %d out of range", v)
		}
		dims[len(dims)-1-i] = int64(v) // ggml lists the fastest axis first
	}
	if t.dims, t.count, err = checkDims(dims); err != nil {
		return t, err
	}
	kind, err := d.uint(4)
	if err != nil {
		return t, err
	}
	offset, err := d.uint(8)
	t.kind, t.offset = uint32(kind), int64(offset)
	return t, err
}

// uint reads an unsigned integer of n bytes.
func (d *ggufDecoder) uint(n int) (uint64, error) {
	clear(d.buf[:])
	if _, err := io.ReadFull(d.r, d.buf[:n]); err != nil {
		return 0, err
	}
	d.at += int64(n)
	return binary.LittleEndian.Uint64(d.buf[:]), nil
}

// count reads a number of things that take at least width bytes each, refusing more than the file can hold.
func (d *ggufDecoder) count(width int64, what string) (int, error) {
	n, err := d.uint(8)
	if err != nil {
		return 0, err
	}
	if left := d.size - d.at; n > uint64(left/width) {
		return 0, fmt.Errorf("truncated or corrupt: %d %s in the %d bytes left", n, what, left)
	}
	return int(n), nil
}

func (d *ggufDecoder) string() (string, error) {
	n, err := d.count(1, "bytes of a string")
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(d.r, b); err != nil {
		return "", err
	}
	d.at += int64(n)
	return string(b), nil
}
