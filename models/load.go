package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/internal/atomicfile"
	"gobpo/models/tokenizer"
	"gobpo/models/weights"
)

// Model is a loaded checkpoint.
type Model struct {
	Config       Config
	Base         Weights
	Tokenizer    *tokenizer.Tokenizer // nil if the checkpoint has none
	ChatTemplate string               // Jinja; empty if the checkpoint has none
	EOS          []int32              // the ids that end a completion, as generation_config.json lists them; see Stop
	Source       string               // the path it was loaded from
	configFile   []byte               // the config.json it came with, if any
}

// Stop lists the tokens that end a completion, sorted: EOS and the tokenizer's own, which ends the texts to learn from.
func (m *Model) Stop() []int32 {
	stop := slices.Clone(m.EOS)
	if m.Tokenizer != nil && m.Tokenizer.EOS() >= 0 {
		stop = append(stop, m.Tokenizer.EOS())
	}
	slices.Sort(stop)
	return slices.Compact(stop)
}

// Load is LoadTo without a device: the weights stay on the host until they are first used.
func Load(path string, dtype dtypes.DType) (*Model, error) { return LoadTo(nil, path, dtype) }

// LoadTo reads a Hugging Face directory (config.json, safetensors whole or sharded, tokenizer files, chat template,
// generation_config.json) or a GGUF file. Weights of any float dtype come out as dtype, float32 or bfloat16, and go to
// the first device of b one by one as they are read: beside them, loading holds some MB, and where host and device
// memory differ, the largest one. Whatever would change the computation and is not implemented is an error that names
// it, as are missing, unread and misshapen tensors, all of them before any is read.
func LoadTo(b compute.Backend, path string, dtype dtypes.DType) (*Model, error) {
	if dtype != dtypes.Float32 && dtype != dtypes.BFloat16 {
		return nil, fmt.Errorf("load %s: dtype %s is not supported (float32 or bfloat16)", path, dtype)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	m := &Model{Source: path, Base: Weights{}}
	load := m.loadGGUF
	if info.IsDir() {
		load = m.loadHF
	}
	if err = load(path, &placer{backend: b, dtype: dtype}); err == nil && m.Tokenizer != nil {
		if err = m.checkTokens(); err != nil {
			err = fmt.Errorf("load %s: %w", path, err)
		}
	}
	if err != nil {
		m.Base.Finalize()
		return nil, err
	}
	debug.FreeOSMemory() // a large vocabulary's JSON, the scratch buffer
	return m, nil
}

func (m *Model) checkTokens() error {
	if n := m.Tokenizer.VocabSize(); n > m.Config.VocabSize {
		return fmt.Errorf("the tokenizer has %d tokens, the model %d", n, m.Config.VocabSize)
	}
	for _, id := range m.EOS {
		if id < 0 || int(id) >= m.Config.VocabSize {
			return fmt.Errorf("eos_token_id %d is not among the model's %d tokens", id, m.Config.VocabSize)
		}
	}
	return nil
}

// ReadConfig reads the configuration of a checkpoint that Load takes, and none of its weights.
func ReadConfig(path string) (Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Config{}, fmt.Errorf("load model: %w", err)
	}
	if info.IsDir() {
		c, _, err := readHFConfig(path)
		return c, err
	}
	g, err := weights.OpenGGUF(path)
	if err != nil {
		return Config{}, err
	}
	defer g.Close()
	c, err := ggufConfig(g)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return c, err
}

func readHFConfig(dir string) (c Config, raw []byte, err error) {
	path := filepath.Join(dir, "config.json")
	if raw, err = os.ReadFile(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w%s", err, hint(dir))
		}
		return c, nil, fmt.Errorf("load model: %w", err)
	}
	if c, err = parseHFConfig(raw); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return c, raw, err
}

func (m *Model) loadHF(dir string, p *placer) (err error) {
	var raw []byte
	if m.Config, raw, err = readHFConfig(dir); err != nil {
		return err
	}
	m.configFile = raw
	// The small files come first: what is wrong with them is known before gigabytes are read.
	if err := m.loadTokenizer(dir); err != nil {
		return err
	}
	if err := m.loadGeneration(dir, raw); err != nil {
		return err
	}
	file, err := weights.Open(dir)
	if errors.Is(err, weights.ErrNoWeights) {
		err = fmt.Errorf("%w%s", err, hint(dir))
	}
	if err != nil {
		return err
	}
	defer file.Close()
	found, inFile := map[string][]int{}, map[string]string{}
	for name, weight := range m.Config.tensorNames(file.Names()) {
		shape, _ := file.Info(name)
		found[weight], inFile[weight] = shape.Dimensions, name
	}
	if err := m.Config.checkShapes(found); err != nil {
		return fmt.Errorf("load %s: %w", dir, err)
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if m.Base[name], err = p.place(found[name], func(flat any) error { return file.Read(inFile[name], flat) }); err != nil {
			return err
		}
	}
	return nil
}

// placer makes tensors of dtype on the first device of a backend, or on the host if that is nil.
type placer struct {
	backend compute.Backend
	dtype   dtypes.DType
	scratch []byte
}

// place makes a tensor of these dimensions whose numbers fill writes into a slice of them. Where the device's memory is
// the host's, that slice is the tensor itself; else one scratch buffer serves all tensors.
func (p *placer) place(dims []int, fill func(flat any) error) (*tensors.Tensor, error) {
	shape := shapes.Make(p.dtype, dims...)
	if p.backend == nil || p.backend.HasSharedBuffers() || shape.Size() == 0 {
		t, err := tensors.FromShapeForBackend(p.backend, 0, shape)
		if err != nil {
			return nil, err
		}
		var fillErr error
		if err := t.MutableFlatData(func(flat any) { fillErr = fill(flat) }); err != nil || fillErr != nil {
			_ = t.FinalizeAll()
			return nil, errors.Join(err, fillErr)
		}
		return t, nil
	}
	n := int(shape.ByteSize())
	if cap(p.scratch) < n {
		p.scratch = nil // the smaller one can go before the larger one comes
		p.scratch = make([]byte, n)
	}
	raw := p.scratch[:n]
	if err := fill(dtypes.UnsafeAnySliceFromBytes(unsafe.Pointer(&raw[0]), p.dtype, shape.Size())); err != nil {
		return nil, err
	}
	return tensors.FromRaw(p.backend, 0, shape, raw)
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
	config, err := m.configJSON()
	if err != nil {
		return fmt.Errorf("save %s: %w", dir, err)
	}
	files := map[string][]byte{"config.json": config}
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
	defer m.Base.dropHostCopies()
	return weights.Write(filepath.Join(dir, "model.safetensors"), m.Base, map[string]string{"format": "pt"})
}
