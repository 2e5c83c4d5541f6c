package experiments

import (
	"strings"
	"testing"

	"gobpo/bpo"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

// smol is the shape of SmolLM2-135M, whose numbers are public.
var smol = models.Config{
	Architecture: "llama", VocabSize: 49152, HiddenSize: 576, IntermediateSize: 1536, NumLayers: 30, NumHeads: 9, NumKVHeads: 3,
	HeadDim: 64, MaxPositions: 8192, RopeTheta: 1e5, RMSNormEps: 1e-5, TieEmbeddings: true,
}

func memoryConfig() Config {
	c := DefaultConfig()
	c.Model.Path = "model"
	c.Prompts.Train, c.Prompts.Eval = "train", "eval"
	c.resolve()
	return c
}

func stageOf(t *testing.T, c Config, name string) bpo.Memory {
	t.Helper()
	for _, s := range c.memory(smol) {
		if s.Stage == name {
			return s
		}
	}
	t.Fatalf("no stage %s", name)
	return bpo.Memory{}
}

// What can be counted is exact.
func TestMemoryCountsWeightsAndState(t *testing.T) {
	const params, adapter, covered = 134515008, 4884480, 106168320 // SmolLM2's; rank 16 on every linear layer: 30·16·Σ(in+out)
	if n := smol.NumParams(); n != params {
		t.Fatalf("%d parameters", n)
	}
	lora := models.LoRA{Rank: 16, Alpha: 32, Targets: []string{"all-linear"}}
	if a, w := lora.NumParams(smol); a != adapter || w != covered || int(a) != (models.NewAdapter(smol, lora, 1)).Weights.NumParams() {
		t.Errorf("the adapter has %d numbers on %d", a, w)
	}
	for _, c := range []struct {
		what                                   string
		change                                 func(*Config)
		weights, trained, optimizer, gradients int64
	}{
		{"lora", func(*Config) {}, 4 * params, 4 * adapter, 8 * adapter, 4 * adapter},
		{"lora, bfloat16", func(c *Config) { c.Model.DType = "bfloat16" }, 2 * params, 4 * adapter, 8 * adapter, 4 * adapter},
		{"three learners", func(c *Config) { c.Learners = 3 }, 4 * params, 12 * adapter, 24 * adapter, 4 * adapter},
		{"full", func(c *Config) { c.Train = "full" }, 4 * params, 4 * params, 8 * params, 4 * params},
		{"full, micro-batches", func(c *Config) { c.Train, c.MicroBatch = "full", 1 }, 4 * params, 4 * params, 8 * params, 8 * params},
		{"full, lion", func(c *Config) { c.Train, c.Optimizer.Name = "full", "lion" }, 4 * params, 4 * params, 4 * params, 4 * params},
		// 49152+576 of the embedding; per layer 4·(576+576) … of seven matrices; norms whole.
		{"full, adafactor", func(c *Config) { c.Train, c.Optimizer.Name = "full", "adafactor" }, 4 * params, 4 * params,
			4 * (49152 + 576 + 30*(2*(576+576)+2*(192+576)+3*(1536+576)) + 61*576), 4 * params},
	} {
		cfg := memoryConfig()
		c.change(&cfg)
		cfg.resolve()
		got := stageOf(t, cfg, "train").Bytes
		for part, want := range map[string]int64{"weights": c.weights, "trained": c.trained, "optimizer": c.optimizer, "gradients": c.gradients} {
			if got[part] != want {
				t.Errorf("%s: %s is %d bytes, want %d", c.what, part, got[part], want)
			}
		}
	}
}

// What is estimated moves the right way with what it depends on.
func TestMemoryFollowsTheConfig(t *testing.T) {
	base := memoryConfig()
	train := func(change func(*Config)) bpo.Memory {
		c := base
		change(&c)
		return stageOf(t, c, "train")
	}
	was := train(func(*Config) {})
	for what, c := range map[string]struct {
		part  string
		less  bool
		apply func(*Config)
	}{
		"micro_batch":            {"activations", true, func(c *Config) { c.MicroBatch = 4 }},
		"gradient_checkpointing": {"activations", true, func(c *Config) { c.GradientCheckpointing = true }},
		"longer completions":     {"logits", false, func(c *Config) { c.MaxCompletionTokens = 512 }},
		"longer prompts":         {"activations", false, func(c *Config) { c.MaxPromptTokens = 512 }},
		"dropout":                {"activations", false, func(c *Config) { c.LoRA.Dropout = 0.1 }},
		"ema":                    {"policies", false, func(c *Config) { c.Reference = "ema" }},
		"ensemble":               {"policies", false, func(c *Config) { c.Learners = 3 }},
	} {
		is := train(c.apply)
		if (is.Bytes[c.part] < was.Bytes[c.part]) != c.less || is.Bytes[c.part] == was.Bytes[c.part] {
			t.Errorf("%s: %s from %s to %s", what, c.part, Size(was.Bytes[c.part]), Size(is.Bytes[c.part]))
		}
	}
	c := base
	c.Sample.Batch *= 4
	if was, is := stageOf(t, base, "sample").Bytes["kv cache"], stageOf(t, c, "sample").Bytes["kv cache"]; is != 4*was {
		t.Errorf("four times the samples: kv cache from %d to %d", was, is)
	}
}

func TestARunThatCannotFitIsRefused(t *testing.T) {
	b := backendtest.Go(t)
	for _, c := range []struct {
		limit  string
		change func(*Config)
		want   string // "": it fits
	}{
		{"100GiB", func(*Config) {}, ""},
		{"none", func(c *Config) { c.BatchSize, c.MicroBatch = 4096, 4096 }, ""},
		{"auto", func(c *Config) { c.MaxCompletionTokens, c.BatchSize, c.MicroBatch = 4096, 4096, 4096 }, "this machine has"},
		{"3GiB", func(c *Config) { c.MaxCompletionTokens = 128 }, "it would fit with gradient_checkpointing: true and micro_batch: 1"},
		{"5GiB", func(c *Config) { c.Sample.Batch, c.MaxCompletionTokens = 4, 16 }, "it would fit with gradient_checkpointing: true, or micro_batch: 1"},
		{"5GiB", func(c *Config) { c.Train, c.GradientCheckpointing, c.Sample.Batch, c.MicroBatch = "full", true, 4, 1 }, "train: lora"},
		{"100MiB", func(*Config) {}, "even with gradient_checkpointing: true, micro_batch: 1"},
	} {
		cfg := memoryConfig()
		cfg.MemoryLimit = c.limit
		c.change(&cfg)
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		err := cfg.checkMemory(smol, b)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.limit, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: error %v, want %q", c.limit, err, c.want)
		}
	}
	cfg := memoryConfig()
	cfg.MemoryLimit = "lots"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), `memory_limit: "lots" is not auto, none or a size such as 24GiB`) {
		t.Errorf("error %v", err)
	}
}

// A limit is not part of what a trial is, and full training knows no adapter settings.
func TestHashOfMemoryAndTrain(t *testing.T) {
	hash := func(change func(*Config)) string {
		c := memoryConfig()
		change(&c)
		c.resolve()
		h, err := c.Hash()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if hash(func(*Config) {}) != hash(func(c *Config) { c.MemoryLimit = "8GiB" }) {
		t.Error("memory_limit changes the hash")
	}
	full := func(rank int) string { return hash(func(c *Config) { c.Train, c.LoRA.Rank = "full", rank }) }
	if full(4) != full(16) || full(4) == hash(func(*Config) {}) {
		t.Error("full training should hash apart from LoRA, and without its rank")
	}
	c := memoryConfig()
	c.Train, c.Learners = "full", 2
	if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), "learners: 2 full learners") {
		t.Errorf("error %v", err)
	}
	c.Learners, c.Merge = 1, "peft_linear"
	if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), "merge: peft_linear merges adapters") {
		t.Errorf("error %v", err)
	}
	c.Train = "half"
	if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), `train: "half" is not one of lora, full`) {
		t.Errorf("error %v", err)
	}
}

func TestFreeMemory(t *testing.T) {
	if n := freeMemory(); n != 0 && (n < 16<<20 || n > 1<<50) {
		t.Errorf("%d bytes are free", n)
	}
}
