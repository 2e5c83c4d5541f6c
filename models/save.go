package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"

	"gobpo/internal/atomicfile"
	"gobpo/models/weights"
)

// Reader gives a model's weights one at a time: the float32 numbers of one, by its Hugging Face name, into all of flat.
type Reader func(name string, flat []float32) error

// ShardBytes is the size of a weight file from which on a model is saved in several.
const ShardBytes = 5 << 30

// Save writes a Hugging Face directory that Load and transformers read: config.json, generation_config.json, safetensors
// in files of at most ShardBytes, and the tokenizer's files if there is one.
func (m *Model) Save(dir string) error {
	if err := m.Config.Check(m.Base); err != nil {
		return fmt.Errorf("save %s: %w", dir, err)
	}
	all := map[string]shapes.Shape{}
	for name, t := range m.Base {
		all[name] = t.Shape()
	}
	return m.save(dir, all, ShardBytes, func(name string, w io.Writer) error {
		defer Weights{name: m.Base[name]}.dropHostCopies()
		var written error
		err := m.Base[name].ConstBytes(func(b []byte) { _, written = w.Write(b) })
		return errors.Join(err, written)
	})
}

// SaveFrom is Save for weights that read gives, which are written as dtype, float32, bfloat16 or float16. It holds one
// of them at a time; the model's Base is not used.
func (m *Model) SaveFrom(read Reader, dir string, dtype dtypes.DType, shardBytes int64) error {
	encode, ok := encoders[dtype]
	if !ok {
		return fmt.Errorf("save %s: dtype %s is not float32, bfloat16 or float16", dir, dtype)
	}
	all := map[string]shapes.Shape{}
	for name, dims := range m.Config.Shapes() {
		all[name] = shapes.Make(dtype, dims...)
	}
	return m.save(dir, all, shardBytes, func(name string, w io.Writer) error {
		flat := make([]float32, all[name].Size())
		if err := read(name, flat); err != nil {
			return err
		}
		if dtype == dtypes.Float16 {
			for _, x := range flat {
				if x > 65504 || x < -65504 {
					return fmt.Errorf("%g does not fit float16; use bfloat16 or float32", x)
				}
			}
		}
		return encode(w, flat)
	})
}

// encoders write numbers in a dtype, rounded to nearest.
var encoders = map[dtypes.DType]func(io.Writer, []float32) error{
	dtypes.Float32:  encodeAs(func(x float32) float32 { return x }),
	dtypes.BFloat16: encodeAs(bfloat16.FromFloat32),
	dtypes.Float16:  encodeAs(float16.FromFloat32),
}

func encodeAs[T any](convert func(float32) T) func(io.Writer, []float32) error {
	return func(w io.Writer, flat []float32) error {
		piece := make([]T, min(len(flat), 1<<18))
		for len(flat) > 0 {
			n := min(len(piece), len(flat))
			for i, x := range flat[:n] {
				piece[i] = convert(x)
			}
			if _, err := w.Write(dtypes.UnsafeByteSliceFromAny(piece[:n])); err != nil {
				return err
			}
			flat = flat[n:]
		}
		return nil
	}
}

func (m *Model) save(dir string, all map[string]shapes.Shape, shardBytes int64, fill func(name string, w io.Writer) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	dtype := all[m.Config.family().embedName()].DType
	config, err := m.configJSON(strings.ToLower(dtype.String()))
	if err != nil {
		return fmt.Errorf("save %s: %w", dir, err)
	}
	files := map[string][]byte{}
	if len(m.EOS) > 0 || m.configFile != nil { // whose eos_token_id would count otherwise
		if files["generation_config.json"], err = json.MarshalIndent(generation{m.EOS}, "", "  "); err != nil {
			return fmt.Errorf("save %s: %w", dir, err)
		}
	}
	if m.Tokenizer != nil {
		if files["tokenizer.json"], err = m.Tokenizer.MarshalJSON(); err != nil {
			return fmt.Errorf("save %s: tokenizer.json: %w", dir, err)
		}
		if files["tokenizer_config.json"], err = m.Tokenizer.ConfigJSON(m.ChatTemplate); err != nil {
			return fmt.Errorf("save %s: tokenizer_config.json: %w", dir, err)
		}
	}
	for name, content := range files {
		if err := atomicfile.WriteBytes(filepath.Join(dir, name), content); err != nil {
			return fmt.Errorf("save model: %w", err)
		}
	}
	if err := weights.WriteDir(dir, all, shardBytes, fill); err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, "config.json"), config); err != nil { // last: it says that a model is here
		return fmt.Errorf("save model: %w", err)
	}
	return nil
}
