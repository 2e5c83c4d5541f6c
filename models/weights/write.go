package weights

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/internal/atomicfile"
)

// Write writes a safetensors file in one step: into a temporary file beside path, synced, then renamed. Whatever
// fails, path is either what it was or complete. The same tensors and metadata give the same bytes.
func Write(path string, set map[string]*tensors.Tensor, metadata map[string]string) error {
	all := make(map[string]shapes.Shape, len(set))
	for name, t := range set {
		if t == nil || !t.Ok() {
			return fmt.Errorf("write %s: tensor %q is nil or finalized", path, name)
		}
		all[name] = t.Shape()
	}
	return WriteFunc(path, all, metadata, func(name string, w io.Writer) error {
		var writeErr error
		err := set[name].ConstBytes(func(data []byte) { _, writeErr = w.Write(data) })
		return errors.Join(err, writeErr)
	})
}

// WriteFunc is Write for tensors that need not exist all at once: fill writes the little-endian numbers of one tensor
// of the given shape, and is called for each that is not empty.
func WriteFunc(path string, all map[string]shapes.Shape, metadata map[string]string, fill func(name string, w io.Writer) error) error {
	err := atomicfile.Write(path, func(w io.Writer) error { return encode(w, all, metadata, fill) })
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

var safetensorsNames = func() map[dtypes.DType]string {
	names := map[dtypes.DType]string{}
	for name, dtype := range safetensorsTypes {
		names[dtype] = name
	}
	return names
}()

func encode(w io.Writer, all map[string]shapes.Shape, metadata map[string]string, fill func(name string, w io.Writer) error) error {
	type field struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	for name, shape := range all {
		if name == "__metadata__" {
			return fmt.Errorf("tensor %q: the name is reserved", name)
		}
		if safetensorsNames[shape.DType] == "" {
			return fmt.Errorf("tensor %q: dtype %s has no safetensors name", name, shape.DType)
		}
	}
	// Widest elements first keeps every tensor aligned to its element.
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b].DType.Size(), all[a].DType.Size()), cmp.Compare(a, b))
	})
	fields := make(map[string]any, len(all)+1) // encoding/json sorts the keys
	if len(metadata) > 0 {
		fields["__metadata__"] = metadata
	}
	var at int64
	for _, name := range names {
		shape := all[name]
		end := at + int64(shape.Size())*int64(shape.DType.Size())
		fields[name] = field{safetensorsNames[shape.DType], append([]int{}, shape.Dimensions...), [2]int64{at, end}}
		at = end
	}
	header, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	if len(header) > maxHeader {
		return fmt.Errorf("header of %d bytes, at most %d are allowed", len(header), maxHeader)
	}
	if _, err := w.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)); err != nil {
		return err
	}
	for _, name := range names {
		if all[name].Size() == 0 {
			continue
		}
		out := &counter{w: w}
		err := fill(name, out)
		if want := int64(all[name].Size()) * int64(all[name].DType.Size()); err == nil && out.n != want {
			err = fmt.Errorf("%d bytes were written, its shape %s needs %d", out.n, all[name], want)
		}
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	return nil
}

// counter counts the bytes written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
