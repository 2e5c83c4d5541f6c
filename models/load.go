package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models/tokenizer"
	"gobpo/models/weights"
)

// Model is a loaded checkpoint.
type Model struct {
	Config       Config
	Base         Weights
	Tokenizer    *tokenizer.Tokenizer // nil if the checkpoint has none
	ChatTemplate string               // Jinja; empty if the checkpoint has none
	Source       string               // the path it was loaded from
}

// Load reads a GGUF file or a Hugging Face directory (config.json, *.safetensors, tokenizer files), weights converted
// to dtype (float32 or bfloat16) on the host; they move to the device when first used, leaving no host copy. Whatever
// would change the computation and is not implemented is an error that names it, as are missing and unread tensors.
func Load(path string, dtype dtypes.DType) (*Model, error) {
	if dtype != dtypes.Float32 && dtype != dtypes.BFloat16 {
		return nil, fmt.Errorf("load %s: dtype %s is not supported (float32 or bfloat16)", path, dtype)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	m := &Model{Source: path, Base: Weights{}}
	if info.IsDir() {
		err = m.loadHF(path, dtype)
	} else {
		err = m.loadGGUF(path, dtype)
	}
	if err == nil {
		if err = m.Config.Check(m.Base); err == nil && m.Tokenizer != nil && m.Tokenizer.VocabSize() > m.Config.VocabSize {
			err = fmt.Errorf("the tokenizer has %d tokens, the model %d", m.Tokenizer.VocabSize(), m.Config.VocabSize)
		}
		if err != nil {
			err = fmt.Errorf("load %s: %w", path, err)
		}
	}
	if err != nil {
		m.Base.Finalize()
		return nil, err
	}
	return m, nil
}

func (m *Model) loadHF(dir string, dtype dtypes.DType) error {
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("load model: %w", err)
	}
	if m.Config, err = parseHFConfig(raw); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	file, err := weights.Open(dir)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, name := range file.Names() {
		if m.Config.TieEmbeddings && name == headName {
			continue // some checkpoints store the tied head again
		}
		if strings.HasSuffix(name, ".rotary_emb.inv_freq") {
			continue // old checkpoints store what rope_theta says
		}
		t, err := file.Tensor(name)
		if err != nil {
			return err
		}
		if m.Base[name], err = convert(t, dtype); err != nil {
			return fmt.Errorf("%s: tensor %q: %w", dir, name, err)
		}
	}
	return m.loadTokenizer(dir)
}

func (m *Model) loadTokenizer(dir string) error {
	path := filepath.Join(dir, "tokenizer.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		m.Tokenizer, err = tokenizer.FromHF(raw)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json")); err == nil {
		if err := m.Tokenizer.Configure(raw); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		var c struct {
			ChatTemplate json.RawMessage `json:"chat_template"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return fmt.Errorf("%s: tokenizer_config.json: %w", dir, err)
		}
		m.ChatTemplate = chatTemplate(c.ChatTemplate)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "chat_template.jinja")); err == nil {
		m.ChatTemplate = string(raw)
	}
	return nil
}

// chatTemplate is a string, or a list of named ones of which "default" counts.
func chatTemplate(raw json.RawMessage) string {
	var one string
	var named []struct{ Name, Template string }
	if json.Unmarshal(raw, &one) == nil {
		return one
	}
	if json.Unmarshal(raw, &named) == nil {
		for _, t := range named {
			if t.Name == "default" {
				return t.Template
			}
		}
	}
	return ""
}

// convert gives the tensor in dtype and frees the original if it had another.
func convert(t *tensors.Tensor, dtype dtypes.DType) (*tensors.Tensor, error) {
	if t.DType() == dtype {
		return t, nil
	}
	out := tensors.FromShape(shapes.Make(dtype, t.Shape().Dimensions...))
	var err error
	t.MustConstFlatData(func(from any) {
		var read func(i int) float32
		switch src := from.(type) {
		case []float32:
			read = func(i int) float32 { return src[i] }
		case []float64:
			read = func(i int) float32 { return float32(src[i]) }
		case []bfloat16.BFloat16:
			read = func(i int) float32 { return src[i].Float32() }
		case []float16.Float16:
			read = func(i int) float32 { return src[i].Float32() }
		default:
			err = fmt.Errorf("dtype %s cannot be weights", t.DType())
			return
		}
		out.MustMutableFlatData(func(to any) {
			switch dst := to.(type) {
			case []float32:
				for i := range dst {
					dst[i] = read(i)
				}
			case []bfloat16.BFloat16:
				for i := range dst {
					dst[i] = bfloat16.FromFloat32(read(i))
				}
			}
		})
	})
	_ = t.FinalizeAll()
	return out, err
}

// Save writes a Hugging Face directory that Load and transformers read: config.json, model.safetensors, and the
// tokenizer's files if there is one.
func (m *Model) Save(dir string) error {
	if err := m.Config.Check(m.Base); err != nil {
		return fmt.Errorf("save %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	config, err := m.Config.hfJSON(strings.ToLower(m.Base[embedName].DType().String()))
	if err != nil {
		return fmt.Errorf("save %s: %w", dir, err)
	}
	files := map[string][]byte{"config.json": config}
	if m.Tokenizer != nil {
		if files["tokenizer.json"], err = m.Tokenizer.MarshalJSON(); err != nil {
			return fmt.Errorf("save %s: tokenizer.json: %w", dir, err)
		}
		if files["tokenizer_config.json"], err = m.Tokenizer.ConfigJSON(m.ChatTemplate); err != nil {
			return fmt.Errorf("save %s: tokenizer_config.json: %w", dir, err)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("save model: %w", err)
		}
	}
	defer m.Base.dropHostCopies()
	return weights.Write(filepath.Join(dir, "model.safetensors"), m.Base, map[string]string{"format": "pt"})
}
