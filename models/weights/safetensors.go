// Package weights reads and writes model weights: safetensors files (whole or sharded) and GGUF files.
//
// Readers check the whole header against the file's size before anything is allocated, then map the file and read one
// tensor at a time, piece by piece, straight into its memory; no file is ever held twice. Errors name the file, the
// tensor, what was found and what was expected.
package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
)

// maxHeader bounds a safetensors header in bytes, as the reference implementation does.
const maxHeader = 100_000_000

var safetensorsTypes = map[string]dtypes.DType{
	"BOOL": dtypes.Bool, "U8": dtypes.Uint8, "I8": dtypes.Int8, "U16": dtypes.Uint16, "I16": dtypes.Int16,
	"U32": dtypes.Uint32, "I32": dtypes.Int32, "U64": dtypes.Uint64, "I64": dtypes.Int64,
	"F16": dtypes.Float16, "BF16": dtypes.BFloat16, "F32": dtypes.Float32, "F64": dtypes.Float64,
}

// File is an open safetensors file, or the set of shards an index names. Its methods may be called concurrently.
type File struct {
	path     string
	entries  map[string]entry
	metadata map[string]string
	sources  []*source
}

// entry is where one tensor lies.
type entry struct {
	shape      shapes.Shape
	begin, end int64 // bytes in src
	src        *source
	file       string // for messages
}

// ErrNoWeights is wrapped by Open where a directory has no weights.
var ErrNoWeights = errors.New("holds neither model.safetensors nor model.safetensors.index.json")

// Open opens a .safetensors file, a model.safetensors.index.json with its shards, or a directory holding
// model.safetensors or that index.
func Open(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	if info.IsDir() {
		for _, name := range []string{"model.safetensors", "model.safetensors.index.json"} {
			if _, err := os.Stat(filepath.Join(path, name)); err == nil {
				return Open(filepath.Join(path, name))
			}
		}
		return nil, fmt.Errorf("safetensors: %s %w", path, ErrNoWeights)
	}
	f := &File{path: path, entries: map[string]entry{}}
	if strings.HasSuffix(path, ".index.json") {
		err = f.openIndex(path)
	} else {
		err = f.openShard(path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) openShard(path string) error {
	src, err := openSource(path)
	if err != nil {
		return fmt.Errorf("safetensors: %w", err)
	}
	f.sources = append(f.sources, src)
	entries, metadata, err := parseSafetensors(src.r, src.size)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for name, e := range entries {
		if other, dup := f.entries[name]; dup {
			return fmt.Errorf("%s: tensor %q is also in %s", path, name, other.file)
		}
		e.src, e.file = src, path
		f.entries[name] = e
	}
	if f.metadata == nil {
		f.metadata = metadata
	}
	return nil
}

// openIndex opens all shards of an index; index and shards must list the same tensors.
func (f *File) openIndex(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("safetensors: %w", err)
	}
	shards, err := parseIndex(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, shard := range slices.Compact(slices.Sorted(maps.Values(shards))) {
		err := f.openShard(filepath.Join(filepath.Dir(path), shard))
		if errors.Is(err, fs.ErrNotExist) {
			var of []string
			for name, s := range shards {
				if s == shard {
					of = append(of, name)
				}
			}
			return fmt.Errorf("%s: shard %s is missing, with %d tensors, the first of them %q: %w", path, shard, len(of), slices.Min(of), fs.ErrNotExist)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		want := filepath.Join(filepath.Dir(path), shards[name])
		if e, ok := f.entries[name]; !ok {
			return fmt.Errorf("%s: tensor %q is not in %s", path, name, want)
		} else if e.file != want {
			return fmt.Errorf("%s: tensor %q is not in %s, but in %s", path, name, want, e.file)
		}
	}
	for _, name := range f.Names() {
		if _, ok := shards[name]; !ok {
			return fmt.Errorf("%s: %s holds tensor %q, which the index does not list", path, f.entries[name].file, name)
		}
	}
	return nil
}

// Names lists the tensors, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.entries)) }

// Metadata is the header's __metadata__ (of the first shard); nil if there is none.
func (f *File) Metadata() map[string]string { return f.metadata }

// Info returns a tensor's dtype and shape.
func (f *File) Info(name string) (shapes.Shape, bool) {
	e, ok := f.entries[name]
	return e.shape, ok
}

// Tensor reads one tensor as it is into host memory of its own.
func (f *File) Tensor(name string) (*tensors.Tensor, error) {
	e, err := f.find(name)
	if err != nil {
		return nil, err
	}
	t := tensors.FromShape(e.shape)
	if e.begin == e.end {
		return t, nil
	}
	var readErr error
	err = t.MutableBytes(func(data []byte) {
		readErr = e.src.each(e.begin, e.end, 1, func(at int64, piece []byte) error {
			if e.shape.DType == dtypes.Bool && slices.ContainsFunc(piece, func(b byte) bool { return b > 1 }) {
				return errors.New("a BOOL is neither 0 nor 1") // and must not become a Go bool
			}
			copy(data[at:], piece)
			return nil
		})
	})
	if err = errors.Join(err, readErr); err != nil {
		t.FinalizeAll()
		return nil, fmt.Errorf("%s: tensor %q: %w", e.file, name, err)
	}
	return t, nil
}

func (f *File) find(name string) (entry, error) {
	e, ok := f.entries[name]
	if !ok {
		return e, fmt.Errorf("%s: no tensor %q", f.path, name)
	}
	return e, nil
}

// Close closes the files; tensors already read stay valid.
func (f *File) Close() error {
	var errs []error
	for _, src := range f.sources {
		errs = append(errs, src.close())
	}
	f.sources = nil
	return errors.Join(errs...)
}
