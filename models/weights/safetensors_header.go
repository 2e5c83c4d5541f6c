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
	"path/filepath"
	"slices"

	"github.com/gomlx/compute/shapes"
)

// parseSafetensors reads and checks the header of a file of size bytes: 8 bytes of header length, a JSON object, then
// the tensors' bytes, each exactly as long as its shape needs, without gap or overlap, up to the end of the file.
func parseSafetensors(r io.ReaderAt, size int64) (map[string]entry, map[string]string, error) {
	var prefix [8]byte
	if size < 8 {
		return nil, nil, fmt.Errorf("not a safetensors file: %d bytes, want at least 8", size)
	}
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, nil, fmt.Errorf("header length: %w", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader {
		return nil, nil, fmt.Errorf("not a safetensors file: header of %d bytes, at most %d are allowed", n, maxHeader)
	}
	if n > uint64(size-8) {
		return nil, nil, fmt.Errorf("truncated: header of %d bytes, but only %d follow", n, size-8)
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, 8); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	fields, err := decodeObject(text)
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	var metadata map[string]string
	if m, ok := fields["__metadata__"]; ok {
		if err := json.Unmarshal(m, &metadata); err != nil {
			return nil, nil, fmt.Errorf("header: __metadata__: %w", err)
		}
		delete(fields, "__metadata__")
	}
	data := size - 8 - int64(n)
	entries := make(map[string]entry, len(fields))
	for name, field := range fields {
		e, err := parseEntry(field, data)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		entries[name] = e
	}
	if err := checkCover(entries, data); err != nil {
		return nil, nil, err
	}
	for name, e := range entries {
		e.begin, e.end = e.begin+8+int64(n), e.end+8+int64(n)
		entries[name] = e
	}
	return entries, metadata, nil
}

// decodeObject is json.Unmarshal for an object of which no key may come twice: of a tensor listed twice the reader
// would silently take one.
func decodeObject(text []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil {
		return nil, noEOF(err)
	} else if t != json.Delim('{') {
		return nil, fmt.Errorf("a JSON object is expected, found %v", t)
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, noEOF(err)
		}
		name, _ := t.(string) // the decoder accepts no other key
		if _, dup := fields[name]; dup {
			return nil, fmt.Errorf("tensor %q is listed twice", name)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, noEOF(err)
		}
		fields[name] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, noEOF(err)
	}
	// Writers may pad with spaces for alignment.
	if rest := bytes.TrimSpace(text[dec.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes follow the JSON object", len(rest))
	}
	return fields, nil
}

// parseIndex reads a model.safetensors.index.json: the shard, a path below the index's directory, of every tensor.
func parseIndex(text []byte) (map[string]string, error) {
	var index struct {
		WeightMap json.RawMessage `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, err
	}
	if index.WeightMap == nil {
		return nil, errors.New("no weight_map")
	}
	fields, err := decodeObject(index.WeightMap)
	if err != nil {
		return nil, fmt.Errorf("weight_map: %w", err)
	}
	if len(fields) == 0 {
		return nil, errors.New("weight_map lists no tensors")
	}
	shards := make(map[string]string, len(fields))
	for name, raw := range fields {
		var shard string
		if err := json.Unmarshal(raw, &shard); err != nil || shard == "" {
			return nil, fmt.Errorf("weight_map: tensor %q: %.60s is not a file name", name, raw)
		}
		if !filepath.IsLocal(shard) {
			return nil, fmt.Errorf("weight_map: tensor %q: shard %q lies outside the index's directory", name, shard)
		}
		shards[name] = filepath.Clean(shard)
	}
	return shards, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func parseEntry(text []byte, data int64) (entry, error) {
	var h struct {
		DType   string   `json:"dtype"`
		Shape   []int64  `json:"shape"`
		Offsets []uint64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return entry{}, err
	}
	dtype, ok := safetensorsTypes[h.DType]
	if !ok {
		return entry{}, fmt.Errorf("dtype %q is not supported", h.DType)
	}
	if h.Shape == nil {
		return entry{}, errors.New("no shape")
	}
	dims, elements, err := checkDims(h.Shape)
	if err != nil {
		return entry{}, err
	}
	if len(h.Offsets) != 2 || h.Offsets[0] > h.Offsets[1] {
		return entry{}, fmt.Errorf("data_offsets %v, want [begin, end]", h.Offsets)
	}
	if h.Offsets[1] > uint64(data) {
		return entry{}, fmt.Errorf("truncated: its data end at byte %d of the data, but there are %d", h.Offsets[1], data)
	}
	found := int64(h.Offsets[1] - h.Offsets[0])
	width := int64(dtype.Size())
	if elements > math.MaxInt64/width || found != elements*width {
		return entry{}, fmt.Errorf("%s %v has %d elements of %d bytes, but its data are %d bytes", h.DType, h.Shape, elements, width, found)
	}
	return entry{shape: shapes.Make(dtype, dims...), begin: int64(h.Offsets[0]), end: int64(h.Offsets[1])}, nil
}

// checkDims returns the dimensions as ints and their product, refusing negative ones and overflow.
func checkDims(dims []int64) ([]int, int64, error) {
	out := make([]int, len(dims))
	elements := int64(1)
	for i, d := range dims {
		if d < 0 || d > math.MaxInt {
			return nil, 0, fmt.Errorf("shape %v: dimension %d out of range", dims, d)
		}
		if d > 0 && elements > math.MaxInt64/d {
			return nil, 0, fmt.Errorf("shape %v: too many elements", dims)
		}
		out[i] = int(d)
		elements *= d
	}
	return out, elements, nil
}

// checkCover refuses tensors that overlap and bytes that belong to none: both mean that the header and the data are
// not of the same file.
func checkCover(entries map[string]entry, data int64) error {
	names := slices.SortedFunc(maps.Keys(entries), func(a, b string) int {
		x, y := entries[a], entries[b]
		if x.begin != y.begin {
			return int(min(max(x.begin-y.begin, -1), 1))
		}
		return int(min(max(x.end-y.end, -1), 1))
	})
	var at int64
	for _, name := range names {
		switch e := entries[name]; {
		case e.begin < at:
			return fmt.Errorf("tensor %q begins at byte %d of the data, inside the tensor before it, which ends at %d", name, e.begin, at)
		case e.begin > at:
			return fmt.Errorf("tensor %q begins at byte %d of the data, but the tensor before it ends at %d", name, e.begin, at)
		default:
			at = e.end
		}
	}
	if at != data {
		return fmt.Errorf("the tensors end at byte %d of the data, but there are %d", at, data)
	}
	return nil
}
