package models

import (
	"errors"
	"fmt"
	"io"
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

// Stop lists the tokens that end a completion, sorted: EOS, the tokenizer's own, and those given, such as what ends a turn of a
// chat template.
func (m *Model) Stop(also ...int32) []int32 {
	stop := slices.Concat(m.EOS, also)
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
	c, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, p, dims := c.Model, &placer{backend: b, dtype: dtype}, c.Config.Shapes()
	m.Base = Weights{}
	for _, name := range slices.Sorted(maps.Keys(dims)) {
		if m.Base[name], err = p.place(dims[name], func(flat any) error { return c.read(name, flat) }); err != nil {
			delete(m.Base, name)
			m.Base.Finalize()
			return nil, err
		}
	}
	debug.FreeOSMemory() // a large vocabulary's JSON, the scratch buffer
	return m, nil
}

// Checkpoint is a model whose weights are still in their files: its Base is nil.
type Checkpoint struct {
	*Model
	DType dtypes.DType                      // of its embeddings, float32 if they are quantised
	read  func(name string, flat any) error // by the weight's own name, into all of []float32 or []bfloat16
	file  io.Closer
}

// Open opens what Load takes, and checks everything but the numbers themselves.
func Open(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	c := &Checkpoint{Model: &Model{Source: path}, DType: dtypes.Float32}
	open := c.openGGUF
	if info.IsDir() {
		open = c.openHF
	}
	if err = open(path); err == nil && c.Tokenizer != nil {
		if err = c.checkTokens(); err != nil {
			err = fmt.Errorf("load %s: %w", path, err)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Read reads a weight, by its Hugging Face name, into all of flat.
func (c *Checkpoint) Read(name string, flat []float32) error { return c.read(name, flat) }

// Close closes the files.
func (c *Checkpoint) Close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
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

func (c *Checkpoint) openHF(dir string) (err error) {
	var raw []byte
	if c.Config, raw, err = readHFConfig(dir); err != nil {
		return err
	}
	c.configFile = raw
	// The small files come first: what is wrong with them is known before gigabytes are read.
	if err := c.loadTokenizer(dir); err != nil {
		return err
	}
	if err := c.loadGeneration(dir, raw); err != nil {
		return err
	}
	file, err := weights.Open(dir)
	if errors.Is(err, weights.ErrNoWeights) {
		err = fmt.Errorf("%w%s", err, hint(dir))
	}
	if err != nil {
		return err
	}
	c.file = file
	found, inFile := map[string][]int{}, map[string]string{}
	for name, weight := range c.Config.tensorNames(file.Names()) {
		shape, _ := file.Info(name)
		found[weight], inFile[weight] = shape.Dimensions, name
		if weight == c.Config.family().embedName() {
			c.DType = shape.DType
		}
	}
	if err := c.Config.checkShapes(found); err != nil {
		return fmt.Errorf("load %s: %w", dir, err)
	}
	c.read = func(name string, flat any) error { return file.Read(inFile[name], flat) }
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
