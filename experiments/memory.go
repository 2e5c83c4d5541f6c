package experiments

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"gobpo/bpo"
	"gobpo/models"
	"gobpo/models/fetch"
	"gobpo/models/tokenizer"
)

// Memory estimates what each stage of the trial holds at its peak; the trial needs the largest total. It reads the
// model's configuration, or makes the task's vocabulary, and nothing else.
func (c *Config) Memory() ([]bpo.Memory, error) {
	m, err := c.modelConfig(nil)
	if err != nil {
		return nil, err
	}
	return c.memory(m), nil
}

func (c *Config) memory(m models.Config) []bpo.Memory {
	dtype := dtypes.Float32
	if c.Model.DType == "bfloat16" {
		dtype = dtypes.BFloat16
	}
	stages := c.Config.Memory(m, dtype, c.SFT)
	if c.Model.Path == "" && c.Pretrain.Steps > 0 {
		p := c.Config
		p.Train, p.LoRA, p.Learners = "full", models.LoRA{}, 1
		pretrain := p.Memory(m, dtypes.Float32, c.Pretrain.SFTConfig)[0]
		pretrain.Stage = "pretrain"
		stages = append([]bpo.Memory{pretrain}, stages...)
	}
	return stages
}

// modelConfig is the shape of the model that the trial trains, without its weights. A new model's vocabulary is its task's, whose
// corpus is made if it is not given.
func (c *Config) modelConfig(s *corpus) (models.Config, error) {
	path := c.Model.Path
	switch path {
	case "":
		if s == nil {
			var err error
			if s, err = taskCorpus(c); err != nil {
				return models.Config{}, err
			}
		}
		t, err := tokenizer.FromWords(s.words)
		if err != nil {
			return models.Config{}, fmt.Errorf("task: %w", err)
		}
		return c.scratchConfig(t.VocabSize()), nil
	case "smollm2":
		var ok bool
		if path, ok = fetch.SmolLM2Path(); !ok {
			return models.Config{}, fmt.Errorf("model.path: smollm2 is not in the cache yet; bpo fetch smollm2 brings it")
		}
	}
	m, err := models.ReadConfig(path)
	if err != nil {
		return m, fmt.Errorf("model.path: %w", err)
	}
	return m, nil
}

// checkMemory refuses a trial that cannot fit, before anything is loaded or compiled, and says what would make it fit.
func (c *Config) checkMemory(m models.Config, b compute.Backend) error {
	limit, where, err := c.memoryLimit(b)
	if err != nil || limit == 0 {
		return err
	}
	worst := largest(c.memory(m))
	if worst.Total() <= limit {
		return nil
	}
	advice := c.cheaper(m, limit)
	return fmt.Errorf("memory: stage %s needs about %s (%s), %s has %s; %s; memory_limit overrides",
		worst.Stage, Size(worst.Total()), breakdown(worst), where, Size(limit), advice)
}

// cheaper names the changes that bring the trial under the limit: each one that does so alone, else all together.
func (c *Config) cheaper(m models.Config, limit int64) string {
	type change struct {
		text  string
		apply func(*Config) bool // whether it changes anything
	}
	const micro = 1
	changes := []change{
		{"gradient_checkpointing: true", func(c *Config) bool {
			was := c.GradientCheckpointing
			c.GradientCheckpointing = true
			return !was
		}},
		{fmt.Sprintf("micro_batch: %d", micro), func(c *Config) bool {
			was := max(c.Micro(), c.SFT.Micro())
			c.MicroBatch = micro
			if c.SFT.Steps > 0 {
				c.SFT.MicroBatch = micro
			}
			return was > micro
		}},
		{fmt.Sprintf("sample.batch: %d", (c.Sample.Batch+3)/4), func(c *Config) bool {
			was := c.Sample.Batch
			c.Sample.Batch = (was + 3) / 4
			return was > 1
		}},
		{fmt.Sprintf("max_completion_tokens: %d", c.MaxCompletionTokens/2), func(c *Config) bool {
			c.MaxCompletionTokens = max(1, c.MaxCompletionTokens/2)
			return c.MaxCompletionTokens > 16
		}},
		{"optimizer.name: adafactor", func(c *Config) bool {
			was := c.Train == "full" && c.Optimizer.Name == "adamw"
			if was {
				c.Optimizer.Name, c.Optimizer.Params = "adafactor", nil
			}
			return was
		}},
		{"train: lora", func(c *Config) bool {
			was := c.Train == "full"
			if was {
				c.Train, c.LoRA = "lora", bpo.DefaultConfig().LoRA
			}
			return was
		}},
		{"model.dtype: bfloat16", func(c *Config) bool {
			was := c.Model.DType
			c.Model.DType = "bfloat16"
			return was == "float32"
		}},
	}
	var alone, all []string
	together := *c
	for _, ch := range changes {
		one := *c
		if !ch.apply(&one) {
			continue
		}
		if largest(one.memory(m)).Total() <= limit {
			alone = append(alone, ch.text)
		}
		if trial := together; ch.apply(&trial) && largest(trial.memory(m)).Total() < largest(together.memory(m)).Total() && largest(together.memory(m)).Total() > limit {
			together, all = trial, append(all, ch.text)
		}
	}
	switch {
	case len(alone) > 0:
		return "it would fit with " + strings.Join(alone, ", or ")
	case largest(together.memory(m)).Total() <= limit:
		return "it would fit with " + strings.Join(all, " and ")
	}
	return fmt.Sprintf("even with %s it needs %s", strings.Join(all, ", "), Size(largest(together.memory(m)).Total()))
}

func largest(stages []bpo.Memory) bpo.Memory {
	worst := stages[0]
	for _, s := range stages[1:] {
		if s.Total() > worst.Total() {
			worst = s
		}
	}
	return worst
}

// breakdown lists the parts of a tenth of the total or more.
func breakdown(m bpo.Memory) string {
	var parts []string
	for _, part := range bpo.MemoryParts {
		if n := m.Bytes[part]; n*10 >= m.Total() {
			parts = append(parts, part+" "+Size(n))
		}
	}
	return strings.Join(parts, ", ")
}

// memoryLimit is what the trial may use, and whose limit that is; 0 where nothing is known, as on devices whose plugin
// does not tell, or where memory_limit is none.
func (c *Config) memoryLimit(b compute.Backend) (int64, string, error) {
	switch c.MemoryLimit {
	case "none":
		return 0, "", nil
	case "auto":
		if !b.HasSharedBuffers() { // a device with memory of its own, which its plugin does not tell
			return 0, "", nil
		}
		return freeMemory(), "this machine", nil
	}
	n, err := parseSize(c.MemoryLimit)
	return n, "memory_limit", err
}

// parseSize reads "24GiB", "800 MiB" or "24GB".
func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > math.MaxInt64 {
		return 0, fmt.Errorf("memory_limit: %q is not auto, none or a size such as 24GiB", s)
	}
	return int64(n), nil
}

// Size writes bytes for people.
func Size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// freeMemory is what this process may still grow to, including what it has: the kernel's MemAvailable, or less if a
// control group allows less. 0 where it cannot be known.
func freeMemory() int64 {
	own := field("/proc/self/status", "VmRSS:")
	free := field("/proc/meminfo", "MemAvailable:")
	if free == 0 {
		return 0
	}
	for _, files := range [][2]string{
		{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
	} {
		limit, used := integer(files[0]), integer(files[1])
		if limit > 0 { // "max" is no number
			free = min(free, max(0, limit-used))
		}
	}
	return free + own
}

// field reads "name  n kB" of a /proc file as bytes; 0 if it is not there.
func field(path, name string) int64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

func integer(path string) int64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
