package weights

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gomlx/compute/shapes"

	"gobpo/internal/atomicfile"
)

// WriteDir is WriteFunc into a directory that Open and transformers read: model.safetensors, or files of at most
// shardBytes, or of one tensor, and the index that says what is where.
func WriteDir(dir string, all map[string]shapes.Shape, shardBytes int64, fill func(name string, w io.Writer) error) error {
	shards := cutShards(all, shardBytes)
	if len(shards) > 1 {
		raw, err := indexJSON(shards)
		if err != nil {
			return fmt.Errorf("write %s: %w", dir, err)
		}
		if err := atomicfile.WriteBytes(filepath.Join(dir, "model.safetensors.index.json"), raw); err != nil {
			return err
		}
	}
	for i, shard := range shards {
		if err := WriteFunc(filepath.Join(dir, shardName(i, len(shards))), shard, map[string]string{"format": "pt"}, fill); err != nil {
			return err
		}
	}
	return nil
}

// cutShards deals tensors, in the order of their names, to files of at most size bytes, or of one tensor.
func cutShards(all map[string]shapes.Shape, size int64) []map[string]shapes.Shape {
	shards, full := []map[string]shapes.Shape{{}}, int64(0)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		n := int64(all[name].ByteSize())
		if full > 0 && full+n > size {
			shards, full = append(shards, map[string]shapes.Shape{}), 0
		}
		shards[len(shards)-1][name] = all[name]
		full += n
	}
	return shards
}

func shardName(i, of int) string {
	if of == 1 {
		return "model.safetensors"
	}
	return fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, of)
}

// indexJSON is model.safetensors.index.json, which says what is where.
func indexJSON(shards []map[string]shapes.Shape) ([]byte, error) {
	total, at := int64(0), map[string]string{}
	for i, shard := range shards {
		for name, shape := range shard {
			total += int64(shape.ByteSize())
			at[name] = shardName(i, len(shards))
		}
	}
	return json.MarshalIndent(map[string]any{"metadata": map[string]int64{"total_size": total}, "weight_map": at}, "", "  ")
}
