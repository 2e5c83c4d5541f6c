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
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/internal/atomicfile"
)

// Write writes a safetensors file in one step: into a temporary file beside path, synced, then renamed. Whatever
// fails, path is either what it was or complete. The same tensors and metadata give the same bytes.
func Write(path string, set map[string]*tensors.Tensor, metadata map[string]string) error {
	err := atomicfile.Write(path, func(w io.Writer) error { return encode(w, set, metadata) })
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

func encode(w io.Writer, set map[string]*tensors.Tensor, metadata map[string]string) error {
	type field struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	for name, t := range set {
		if name == "__metadata__" {
			return fmt.Errorf("tensor %q: the name is reserved", name)
		}
		if t == nil || !t.Ok() {
			return fmt.Errorf("tensor %q is nil or finalized", name)
		}
		if safetensorsNames[t.DType()] == "" {
			return fmt.Errorf("tensor %q: dtype %s has no safetensors name", name, t.DType())
		}
	}
	// Widest elements first keeps every tensor aligned to its element.
	names := slices.SortedFunc(maps.Keys(set), func(a, b string) int {
		return cmp.Or(cmp.Compare(set[b].DType().Size(), set[a].DType().Size()), cmp.Compare(a, b))
	})
	fields := make(map[string]any, len(set)+1) // encoding/json sorts the keys
	if len(metadata) > 0 {
		fields["__metadata__"] = metadata
	}
	var at int64
	for _, name := range names {
		shape := set[name].Shape()
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
		if set[name].Size() == 0 {
			continue
		}
		var writeErr error
		err := set[name].ConstBytes(func(data []byte) { _, writeErr = w.Write(data) })
		if err := errors.Join(err, writeErr); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	return nil
}
