package experiments

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"gobpo/bpo"
	"gobpo/models"
	"gobpo/models/backend"
	"gobpo/models/fetch"
	"gobpo/models/sample"
	"gobpo/models/tokenizer"
)

// Session is what the trials of one process share: the backend, base weights, and compiled samplers and scorers.
type Session struct {
	Offline  bool
	Override string    // a backend to use whatever a configuration says; results are then not those of the configuration
	Log      io.Writer // notices of the backend and of downloads

	mu       sync.Mutex
	backends map[string]compute.Backend
	bases    map[string]*base
}

// base is a loaded model with what was compiled for it.
type base struct {
	once    sync.Once
	err     error
	model   *models.Model
	hash    string // of the weights
	sampler *sample.Sampler
	scorer  *models.Scorer
}

// Backend opens a backend by name, once.
func (s *Session) Backend(name string) (compute.Backend, error) {
	if s.Override != "" {
		name = s.Override
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.backends[name]; ok {
		return b, nil
	}
	b, err := backend.Open(backend.Options{Name: name, Offline: s.Offline, Log: s.Log})
	if err != nil {
		return nil, err
	}
	if s.backends == nil {
		s.backends = map[string]compute.Backend{}
	}
	s.backends[name] = b
	return b, nil
}

// Load loads a model once for a backend and dtype; path is a GGUF file, a Hugging Face directory or "smollm2".
func (s *Session) Load(ctx context.Context, b compute.Backend, path, dtype string) (*base, error) {
	s.mu.Lock()
	if s.bases == nil {
		s.bases = map[string]*base{}
	}
	key := fmt.Sprintf("%p %s %s", b, dtype, path)
	m := s.bases[key]
	if m == nil {
		m = &base{}
		s.bases[key] = m
	}
	s.mu.Unlock()
	m.once.Do(func() { m.err = m.load(ctx, s, b, path, dtype) })
	if m.err != nil {
		s.mu.Lock()
		delete(s.bases, key) // another trial may have better luck
		s.mu.Unlock()
	}
	return m, m.err
}

// loadPolicy is Load for a model that shall write texts.
func (s *Session) loadPolicy(ctx context.Context, b compute.Backend, path, dtype string) (*base, error) {
	m, err := s.Load(ctx, b, path, dtype)
	if err == nil && m.model.Config.Reward {
		return nil, fmt.Errorf("model.path: %s is a reward model, which writes no texts", path)
	}
	return m, err
}

func (m *base) load(ctx context.Context, s *Session, b compute.Backend, path, dtype string) (err error) {
	if path, err = s.locate(ctx, path); err != nil {
		return err
	}
	t := dtypes.Float32
	if dtype == "bfloat16" {
		t = dtypes.BFloat16
	}
	if m.model, err = models.LoadTo(b, path, t); err != nil {
		return fmt.Errorf("model.path: %w", err)
	}
	if m.model.Tokenizer == nil {
		return fmt.Errorf("model.path: %s has no tokenizer", path)
	}
	m.hash = m.model.Base.Hash()
	m.sampler = sample.New(b, m.model.Config, models.Bucket)
	m.scorer = models.NewScorer(b, m.model.Config, models.Bucket)
	return nil
}

// smolLM2 is the name of the one model that is fetched.
const smolLM2 = "smollm2"

// locate is the file or directory that model.path means; it brings smollm2 here.
func (s *Session) locate(ctx context.Context, path string) (string, error) {
	if path != smolLM2 {
		return path, nil
	}
	path, err := fetch.SmolLM2(ctx, s.Log, s.Offline)
	if err != nil {
		return "", fmt.Errorf("model.path: %w", err)
	}
	return path, nil
}

// scratchConfig is the shape of the new model for a vocabulary.
func (c *Config) scratchConfig(vocab int) models.Config {
	s := c.Model.Scratch
	return models.Config{
		Architecture: "llama", VocabSize: vocab, HiddenSize: s.Hidden, IntermediateSize: s.Intermediate,
		NumLayers: s.Layers, NumHeads: s.Heads, NumKVHeads: s.KVHeads, HeadDim: s.Hidden / s.Heads,
		// A text has room for the questions of selectors.
		MaxPositions: max(512, 2*(c.MaxPromptTokens+c.MaxCompletionTokens)), RopeTheta: 10000, RMSNormEps: 1e-5, TieEmbeddings: true,
	}
}

// scratchKey is everything that the new model depends on.
func (c *Config) scratchKey() any {
	return []any{"scratch", c.Model.Scratch, c.Pretrain, c.Task, c.Backend, c.MaxPromptTokens, c.MaxCompletionTokens}
}

// scratch trains the small model of the configuration, once a study, and returns its directory.
func scratch(ctx context.Context, c *Config, b compute.Backend, study string, s *corpus, ui UI) (string, error) {
	return sharedWork(ctx, study, c.scratchKey(), ui, func(dir string) error {
		t, err := tokenizer.FromWords(s.words)
		if err != nil {
			return fmt.Errorf("task: %w", err)
		}
		m := &models.Model{Tokenizer: t, Config: c.scratchConfig(t.VocabSize())}
		m.Base = models.InitWeights(m.Config, c.Pretrain.Seed)
		prompts, _, err := tokenise(m, "none", s.sft, c.MaxPromptTokens)
		if err != nil {
			return err
		}
		trained := models.Policy{Name: "scratch", Base: m.Base}
		fit := bpo.Fit{}
		if c.Pretrain.Steps > 0 {
			log, err := OpenMetrics(filepath.Join(dir, "metrics.jsonl"))
			if err != nil {
				return err
			}
			defer log.Close()
			fit = bpo.Fit{
				Config: c.Pretrain.SFTConfig, Backend: b, Model: m, Start: trained, Full: true, Dir: dir,
				Seed: c.Pretrain.Seed, Checkpointing: c.GradientCheckpointing, Mesh: c.Mesh,
				Begin:    log.Rewind,
				Log:      func(step int, v bpo.Metrics) error { return log.Append(step, v) },
				Progress: func(_ string, step, of int) { ui.Doing("pretrain", step, of) },
			}
			if trained, err = bpo.SFT(ctx, fit, prompts, c.MaxCompletionTokens); err != nil {
				return fmt.Errorf("pretrain: %w", err)
			}
		}
		m.Base, _ = trained.Sets()
		if err := m.Save(dir); err != nil {
			return err
		}
		return fit.RemoveCheckpoint()
	})
}

// startPolicies are what the learners start from: adapters or full models, fine-tuned on reference texts, once a study
// for each seed, or the base model with, under LoRA, a fresh adapter, which leaves it as it is.
func startPolicies(ctx context.Context, c *Config, b compute.Backend, m *base, study string, s *corpus, ui UI) ([]models.Policy, error) {
	var prompts []bpo.Prompt
	out := make([]models.Policy, c.Learners)
	for i := range out {
		seed := bpo.MemberSeed(c.Seed, i)
		fresh := models.Policy{Name: "sft", Base: m.model.Base}
		if c.Train == "lora" {
			fresh.Adapter = models.NewAdapter(m.model.Config, c.LoRA, seed)
		}
		if c.Start != "" {
			p, err := c.startFrom(b, m, fresh)
			if err != nil {
				return nil, fmt.Errorf("start: %w", err)
			}
			out[i] = p
			continue
		}
		if c.SFT.Steps == 0 {
			out[i] = fresh
			continue
		}
		texts, err := s.hash()
		if err != nil {
			return nil, err
		}
		key := []any{"sft", m.hash, c.SFT, c.Train, c.LoRA, seed, texts["prompts/sft"], c.Model.Chat, c.MaxPromptTokens, c.MaxCompletionTokens, c.Backend}
		dir, err := sharedWork(ctx, study, key, ui, func(dir string) error {
			if prompts == nil {
				if prompts, _, err = tokenise(m.model, c.Model.Chat, s.sft, c.MaxPromptTokens); err != nil {
					return err
				}
			}
			fit := bpo.Fit{
				Config: c.SFT, Backend: b, Model: m.model, Start: fresh, Full: c.Train == "full", Dir: dir,
				Seed: seed, End: turnEnd(m.model, c.Model.Chat), Checkpointing: c.GradientCheckpointing, Mesh: c.Mesh,
				Progress: func(_ string, step, of int) { ui.Doing("sft", step, of) },
			}
			policy, err := bpo.SFT(ctx, fit, prompts, c.MaxCompletionTokens)
			if err != nil {
				return err
			}
			defer policy.Override.Finalize()
			if policy.Adapter != nil {
				defer policy.Adapter.Weights.Finalize()
			}
			if err := bpo.SavePolicy(filepath.Join(dir, bpo.PolicyFile), policy); err != nil {
				return err
			}
			return fit.RemoveCheckpoint()
		})
		if err != nil {
			return nil, fmt.Errorf("sft of learner %d: %w", i, err)
		}
		// Read back even where it was just made, so that every trial starts from the same bytes.
		if out[i], err = bpo.LoadPolicy(filepath.Join(dir, bpo.PolicyFile), m.model); err != nil {
			return nil, err
		}
		out[i].Name = "sft"
	}
	return out, nil
}

// startFrom is the checkpoint that learners start from: its adapter goes on, or a fresh one is put over all its weights;
// full training folds its adapter into them.
func (c *Config) startFrom(b compute.Backend, m *base, fresh models.Policy) (models.Policy, error) {
	p, err := bpo.LoadCheckpoint(c.StartPath(), m.model)
	if err != nil {
		return p, err
	}
	p.Name = "sft"
	switch {
	case c.Train == "full":
		return models.Fold(b, p)
	case p.Adapter == nil:
		p.Adapter = fresh.Adapter
	case p.Adapter.LoRA.Key() != c.LoRA.Key():
		return p, fmt.Errorf("%s has an adapter of another kind (%+v) than lora says (%+v)", c.StartPath(), p.Adapter.LoRA, c.LoRA)
	}
	return p, nil
}
