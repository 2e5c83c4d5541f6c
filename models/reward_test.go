package models

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models/backend/backendtest"
)

// rewardConfig is the configuration of a reward model in the shape of another.
func rewardConfig(c Config) Config {
	c.Reward = true
	return c
}

// A reward depends on its own text alone: not on its batch, its row mates, the padding, or where the prompt ends.
func TestRewardsSeeTheirTextAlone(t *testing.T) {
	c := rewardConfig(tiny)
	s := NewScorer(backendtest.Go(t), c, Bucket)
	defer s.Finalize()
	p := Policy{Base: lively(c, 1), Adapter: livelyAdapter(c, tinyLoRA, 2)}
	rng := rand.New(rand.NewPCG(1, 2))
	rows := randomRows(rng, 5, 2, c.VocabSize)
	got, err := s.Rewards(t.Context(), p, rows, 4)
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range rows {
		for k, y := range row.Completions {
			text := append(append([]int32{}, row.Prompt...), y...)
			for cut := 1; cut < len(text); cut += 3 {
				alone, err := s.Rewards(t.Context(), p, []Row{{text[:cut], [][]int32{text[cut:]}}}, 1)
				if err != nil {
					t.Fatal(err)
				}
				if d := math.Abs(alone[0][0] - got[i][k]); !(d < 1e-4) {
					t.Errorf("row %d, text %d, cut at %d: %g alone, %g in the batch", i, k, cut, alone[0][0], got[i][k])
				}
			}
		}
	}
	if got[0][0] == got[0][1] || got[0][0] == got[1][0] {
		t.Error("different texts have one reward")
	}
	base := p
	base.Adapter = nil
	without, err := s.Rewards(t.Context(), base, rows[:1], 1)
	if err != nil {
		t.Fatal(err)
	}
	if without[0][0] == got[0][0] {
		t.Error("the adapter and its head change nothing")
	}
	// An adapter that knows only a head gives another reward by it.
	heads := p
	heads.Adapter = &Adapter{LoRA: tinyLoRA, Weights: Weights{RewardHead: p.Adapter.Weights[RewardHead]}}
	headed, err := s.Rewards(t.Context(), heads, rows[:1], 1)
	if err != nil {
		t.Fatal(err)
	}
	if headed[0][0] == without[0][0] {
		t.Error("the adapter's head is not used")
	}
}

// An adapter to train a reward model further says what that model says, on a head of its own; one on a language model has a
// head that is drawn.
func TestRewardAdapter(t *testing.T) {
	c := rewardConfig(tiny)
	s := NewScorer(backendtest.Go(t), c, Bucket)
	defer s.Finalize()
	rows := randomRows(rand.New(rand.NewPCG(1, 2)), 3, 2, c.VocabSize)
	full := lively(c, 1)
	for name, base := range map[string]Weights{"float32": full, "bfloat16": halved(full)} {
		m := &Model{Config: c, Base: base}
		a, err := m.RewardAdapter(tinyLoRA, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Check(c); err != nil || a.Weights[RewardHead].DType() != dtypes.Float32 {
			t.Errorf("%s: %v, head %s", name, err, a.Weights[RewardHead].Shape())
		}
		want, err := s.Rewards(t.Context(), Policy{Base: base}, rows, 3)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Rewards(t.Context(), Policy{Base: base, Adapter: a}, rows, 3)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			for k, v := range got[i] {
				if d := math.Abs(v - want[i][k]); !(d <= 1e-5*max(1, math.Abs(v))) {
					t.Errorf("%s, row %d: reward %g with the adapter, %g without", name, i, v, want[i][k])
				}
			}
		}
		a.Weights.Finalize()
		if again, err := s.Rewards(t.Context(), Policy{Base: base}, rows, 3); err != nil || again[0][0] != want[0][0] {
			t.Errorf("%s: the base without its adapter: %v, %v", name, again, err)
		}
	}
	lm := &Model{Config: c, Base: lively(tiny, 1)}
	a, err := lm.RewardAdapter(tinyLoRA, 2)
	if err != nil {
		t.Fatal(err)
	}
	b, err := lm.RewardAdapter(tinyLoRA, 3)
	if err != nil {
		t.Fatal(err)
	}
	if x, y := tensors.MustCopyFlatData[float32](a.Weights[RewardHead]), tensors.MustCopyFlatData[float32](b.Weights[RewardHead]); x[0] == y[0] || x[0] == 0 {
		t.Errorf("heads of two seeds start with %g and %g", x[0], y[0])
	}
}

// What transformers and peft make of saved reward models is what we do, and so is what we make of those that transformers saves.
func TestPeersReadRewards(t *testing.T) {
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		t.Skip("set GOBPO_PYTHON to a Python with torch, transformers and peft (tools/peer/install)")
	}
	small := func(kind string, change func(*Config)) Config {
		f := families[kind]
		c := tiny
		c.Architecture, c.Activation, c.TieEmbeddings = kind, f.defaults.Activation, f.defaults.TieEmbeddings
		change(&c)
		return rewardConfig(c)
	}
	plain := func(*Config) {}
	own := func(c *Config) { c.NumKVHeads, c.AttentionBias = c.NumHeads, true }
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	configs := map[string]Config{
		"llama": small("llama", plain), "mistral": small("mistral", plain), "qwen2": small("qwen2", plain), "qwen3": small("qwen3", plain),
		"gemma": small("gemma", plain), "gemma2": small("gemma2", func(c *Config) { c.QueryPreAttnScalar, c.Window, c.Sliding = 4, 5, []bool{true, false} }),
		"phi3":     small("phi3", plain),
		"gpt2":     small("gpt2", func(c *Config) { c.RopeTheta, c.NumKVHeads = 0, c.NumHeads }),
		"gpt_neox": small("gpt_neox", own),
	}
	b := backendtest.Go(t)
	root := t.TempDir()
	rng := rand.New(rand.NewPCG(3, 4))
	var texts [][]int32
	for n := 3; n < 9; n++ {
		texts = append(texts, randomTokens(rng, n, tiny.VocabSize))
	}
	raw, err := json.Marshal(texts)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(root, "rows.json"), raw, 0o644))
	args := []string{filepath.Join("..", "tools", "goldens", "hf.py"), "reward", filepath.Join(root, "rows.json")}
	rewards := func(t *testing.T, c Config, p Policy) []float64 {
		t.Helper()
		s := NewScorer(b, c, Bucket)
		defer s.Finalize()
		values := make([]float64, len(texts))
		for i, text := range texts {
			got, err := s.Rewards(t.Context(), p, []Row{{text[:1], [][]int32{text[1:]}}}, 1)
			check(t, err)
			values[i] = got[0][0]
		}
		return values
	}
	var names []string
	var want [][]float64
	add := func(dir string, c Config, p Policy) {
		names, want, args = append(names, filepath.Base(dir)), append(want, rewards(t, c, p)), append(args, dir)
	}
	for name, c := range configs {
		check(t, c.Validate())
		m := &Model{Config: c, Base: lively(c, 5)}
		dir := filepath.Join(root, name)
		check(t, m.Save(dir))
		back, err := Load(dir, m.Base[RewardHead].DType())
		check(t, err)
		if !back.Config.Reward {
			t.Fatalf("%s: read back as a language model", name)
		}
		add(dir, back.Config, Policy{Base: back.Base})
	}
	// An adapter with a head, on a language model.
	lm := &Model{Config: tiny, Base: lively(tiny, 6)}
	check(t, lm.Save(filepath.Join(root, "lm")))
	adapter := livelyAdapter(rewardConfig(tiny), tinyLoRA, 7)
	dir := filepath.Join(root, "peft")
	check(t, adapter.Save(dir, filepath.Join(root, "lm")))
	base, reward, err := AdapterBase(dir)
	if err != nil || base != filepath.Join(root, "lm") || !reward {
		t.Fatalf("base %q, reward %v, error %v", base, reward, err)
	}
	back, err := LoadAdapter(dir, rewardConfig(tiny))
	check(t, err)
	add(dir, rewardConfig(tiny), Policy{Base: lm.Base, Adapter: back})
	if _, err := LoadAdapter(dir, tiny); err == nil || !strings.Contains(err.Error(), "SEQ_CLS") {
		t.Errorf("a reward adapter passes for a policy's: %v", err)
	}

	out, err := exec.CommandContext(t.Context(), python, args...).Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			t.Fatalf("%v: %s", err, e.Stderr)
		}
		t.Fatal(err)
	}
	var got [][]float64
	check(t, json.Unmarshal(out, &got))
	same := func(t *testing.T, name string, there, here []float64) {
		t.Helper()
		for r := range texts {
			if d := math.Abs(there[r] - here[r]); !(d <= 1e-4*max(1, math.Abs(here[r]))) {
				t.Errorf("%s, text %d: reward %v there, %v here", name, r, there[r], here[r])
			}
		}
	}
	for i, name := range names {
		same(t, name, got[i], want[i])
		if _, written := configs[name]; !written {
			continue
		}
		t.Run(name+"-hf", func(t *testing.T) { // transformers' own names, config.json and file
			m, err := Load(filepath.Join(root, name+"-hf"), dtypes.Float32)
			check(t, err)
			defer m.Base.Finalize()
			if !m.Config.Reward {
				t.Fatal("read as a language model")
			}
			same(t, name, got[i], rewards(t, m.Config, Policy{Base: m.Base}))
		})
	}
}

func TestRewardConfigs(t *testing.T) {
	const llama = `{"model_type":"llama","vocab_size":8,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,`
	for text, want := range map[string]string{
		llama + `"architectures":["LlamaForSequenceClassification"],"id2label":{"0":"LABEL_0"}}`:           "",
		llama + `"architectures":["LlamaForSequenceClassification"],"num_labels":1}`:                       "",
		llama + `"architectures":["LlamaForSequenceClassification"]}`:                                      "id2label: a classifier of 2 labels is no reward model",
		llama + `"architectures":["LlamaForSequenceClassification"],"id2label":{"0":"a","1":"b","2":"c"}}`: "id2label: a classifier of 3 labels",
		llama + `"architectures":["LlamaForCausalLM"],"id2label":{"0":"LABEL_0","1":"LABEL_1"}}`:           "lm",
	} {
		c, err := parseHFConfig([]byte(text))
		switch {
		case want == "" && (err != nil || !c.Reward), want == "lm" && (err != nil || c.Reward):
			t.Errorf("%s: reward %v, error %v", text, c.Reward, err)
		case want != "" && want != "lm" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}
