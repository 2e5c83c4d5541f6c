package experiments

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const taskYAML = `study: s
task: {name: picnic}
steps: 8
batch_size: 4
refresh: 2
`

// write puts an experiment file into a fresh directory.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// load loads text with overrides; err has the directory taken out.
func load(t *testing.T, text string, sets, environ []string) ([]Trial, string) {
	t.Helper()
	path := write(t, text)
	f, err := Load(path, sets, environ)
	var trials []Trial
	if err == nil {
		trials, err = f.Trials()
	}
	if err != nil {
		return nil, strings.ReplaceAll(err.Error(), filepath.ToSlash(filepath.Dir(path))+"/", "")
	}
	return trials, ""
}

func TestConfigMistakesAreOneLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":          {"loss: {betta: 0.1}", "x.yaml:1: unknown key loss.betta; did you mean loss.beta?"},
		"key of a section":     {"steps: 8\nbeta: 0.1", "x.yaml:2: unknown key beta; did you mean loss.beta?"},
		"far from any key":     {"quux_quux_quux: 1", "x.yaml:1: unknown key quux_quux_quux; `bpo show` lists the keys"},
		"text for a number":    {"loss:\n  beta: strong", `x.yaml:2: loss.beta: want a finite number, got the text "strong"`},
		"quoted number":        {"steps: \"8\"", `x.yaml:1: steps: want a whole number, got the text "8"`},
		"fraction":             {"steps: 8.5", "x.yaml:1: steps: want a whole number, got 8.5"},
		"infinite":             {"loss: {beta: .inf}", "x.yaml:1: loss.beta: want a finite number, got .inf"},
		"negative seed":        {"seed: -1", "x.yaml:1: seed: want a whole number, 0 or more, got -1"},
		"number for text":      {"study: 3", "x.yaml:1: study: want text, got 3"},
		"list for a number":    {"refresh: [1, 2]", "x.yaml:1: refresh: want a whole number, got a list"},
		"scalar for a section": {"loss: dpo", `x.yaml:1: loss: want a section of keys, got the text "dpo"`},
		"no value":             {"steps:", "x.yaml:1: steps: has no value"},
		"bool":                 {"prompts: {leakage: true}", `x.yaml:1: prompts.leakage: want text, got true`},
		"duplicate":            {"steps: 1\nsteps: 2", `x.yaml: line 2: mapping key "steps" already defined at line 1`},
		"empty file":           {"", "x.yaml: the file is empty"},
		"not a mapping":        {"- 1", "x.yaml: want keys at the top level, got a list"},
		"swept key":            {"sweep: {grid: {loss.betta: [1]}}", "x.yaml:1: sweep.grid: unknown key loss.betta; did you mean loss.beta?"},
		"swept value":          {"sweep: {grid: {steps: [1, two]}}", `x.yaml:1: steps: want a whole number, got the text "two"`},
		"swept scalar":         {"sweep: {grid: {steps: 3}}", "x.yaml:1: sweep.grid.steps: want a list of values, got 3"},
		"paired key":           {"sweep: {paired: [{stepps: 3}]}", "x.yaml:1: sweep.paired[0]: unknown key stepps; did you mean steps?"},
		"paired and grid":      {taskYAML + "sweep: {grid: {seed: [0]}, paired: [{seed: 1}]}", "x.yaml: sweep.paired[0]: seed is also in sweep.grid"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, got := load(t, c.text, nil, nil); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestImpossibleCombinations(t *testing.T) {
	for name, c := range map[string]struct{ set, want string }{
		"F > T":            {"refresh=9", "x.yaml: refresh: F=9 phases do not fit into T=8 steps"},
		"F and K":          {"refresh_every=2", "x.yaml: refresh_every: K=2 and refresh F=2 are both given; set refresh: 0 to use K"},
		"beta":             {"loss.beta=0", "x.yaml: loss.beta: the proximity coefficient must be positive, got 0"},
		"micro batch":      {"micro_batch=3", "x.yaml: micro_batch: 3 does not divide batch_size 4"},
		"two prompt sets":  {"prompts.train=a.jsonl", "x.yaml: task.name: a task makes its own prompts; leave out the files under prompts, or the task"},
		"no prompts":       {"task.name=", "x.yaml: prompts.train: no prompts; name a file, or a task in task.name"},
		"study with slash": {"study=a/b", `x.yaml: study: "a/b" cannot name a directory`},
		"backend":          {"backend=foo", `x.yaml: backend "foo" is unknown: want auto, xla, xla:cpu, xla:cuda, xla:/abs/plugin.so or go`},
		"dtype":            {"model.dtype=float8", `x.yaml: model.dtype: "float8" is not float32 or bfloat16`},
		"heads":            {"model.scratch.heads=5", "x.yaml: model.scratch.heads: 5 heads of an even size do not divide hidden 96"},
		"kv heads":         {"model.scratch.kv_heads=3", "x.yaml: model.scratch.kv_heads: 3 does not divide the 4 heads"},
		"sft without lr":   {"sft={steps: 5, optimizer: {lr: 0}}", "x.yaml: sft.optimizer.lr: must be positive, got 0"},
		"annotator":        {"annotator={name: lenght}", `x.yaml: annotator.name: no annotator "lenght"; did you mean "length"?`},
		"soft and noisy":   {"annotator={name: gold, noise: 0.2}", "x.yaml: loss.soft_labels: 1 weighs pairs by their scores, which annotator.noise 0.2 leaves as they are; leave one out"},
		"soft and drawn":   {"annotator={name: gold, temperature: 2}", "x.yaml: loss.soft_labels: 1 weighs pairs by their scores, which annotator.temperature 2 leaves as they are; leave one out"},
		"no study":         {"start=checkpoint:study:.", "x.yaml: start: checkpoint:study:. must name a study, or one run as study:<study>/<run>"},
		"study elsewhere":  {"mix={pairs: study:../s, share: 0.5}", "x.yaml: mix.pairs: study:../s must name a study, or one run as study:<study>/<run>"},
		"no evaluator":     {"eval.annotator={max: 30, noise: 0.2}", "x.yaml: eval.annotator.name: no annotator named; one of gold, judge, length, logprob_judge, reward, rouge_l, sentiment, sum"},
		"nor here":         {"eval.annotator.noise=0.2", "x.yaml: eval.annotator.name: no annotator named; one of gold, judge, length, logprob_judge, reward, rouge_l, sentiment, sum"},
		"evaluator":        {"eval.annotator={name: gold, noise: 0.9}", "x.yaml: eval.annotator.noise: 0.9 is not a probability in [0, 0.5]"},
	} {
		t.Run(name, func(t *testing.T) {
			sets := []string{c.set}
			if strings.HasPrefix(name, "soft") {
				sets = append(sets, "loss.soft_labels=1")
			}
			if _, got := load(t, taskYAML, sets, nil); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	same := "model: {path: m.gguf}\nprompts: {train: a.jsonl, eval: a.jsonl}\n"
	if _, got := load(t, same, nil, nil); !strings.Contains(got, "prompts.eval: the same file as prompts.train") {
		t.Errorf("training and evaluating on one file: %s", got)
	}
	at := taskYAML + "sweep: {grid: {refresh: [1, 16]}}"
	if _, got := load(t, at, nil, nil); got != "x.yaml: at refresh=16: refresh: F=16 phases do not fit into T=8 steps" {
		t.Errorf("a swept value: %s", got)
	}
}

func TestOverrides(t *testing.T) {
	text := taskYAML + "sweep: {grid: {loss.beta: [0.1, 0.5], seed: [0, 1, 2]}}"
	trials, msg := load(t, text, []string{"loss.beta=2e-1", "seed=7", "lora.targets=[q_proj, v_proj]"}, []string{"BPO_LOSS_BETA=0.3", "BPO_LORA_RANK=4", "HOME=/x"})
	if msg != "" || len(trials) != 1 {
		t.Fatalf("want one trial, as both swept keys are pinned; got %d, %s", len(trials), msg)
	}
	c := trials[0].Config
	if c.Loss.Beta != 0.2 || c.Seed != 7 || c.LoRA.Rank != 4 || !slices.Equal(c.LoRA.Targets, []string{"q_proj", "v_proj"}) {
		t.Errorf("beta %g, seed %d, rank %d, targets %v", c.Loss.Beta, c.Seed, c.LoRA.Rank, c.LoRA.Targets)
	}
	if trials, msg = load(t, text, []string{"sweep.grid.loss.beta=[1]"}, nil); msg != "" || len(trials) != 3 {
		t.Errorf("a grid line replaced: %d trials, %s", len(trials), msg)
	}
	if trials, msg = load(t, text, []string{"sweep={}"}, nil); msg != "" || len(trials) != 1 {
		t.Errorf("an emptied sweep: %d trials, %s", len(trials), msg)
	}
	if trials, msg = load(t, text, []string{"refresh=0", "refresh_every=4", "steps=8e0"}, nil); msg != "" || trials[0].Config.Phases() != 2 || trials[0].Config.Steps != 8 {
		t.Errorf("K instead of F: %s", msg)
	}
	whole := taskYAML + "\nsweep: {grid: {loss: [{name: dpo, beta: 1}, {name: robust}]}, paired: [{annotator: {name: length, max: 3}}]}\n"
	if trials, msg = load(t, whole, []string{"loss.label_smoothing=0.1"}, nil); msg != "" || len(trials) != 2 || trials[1].Config.Loss.LabelSmoothing != 0.1 {
		t.Errorf("%s, %d trials", msg, len(trials))
	}
	for set, want := range map[string]string{
		"loss.beta=0.7":   "loss.beta: the sweep gives loss whole, which this would not change; set sweep.grid.loss or loss",
		"annotator.min=1": "annotator.min: the sweep gives annotator whole, which this would not change; set sweep.paired or annotator",
	} {
		if _, msg := load(t, whole, []string{set}, nil); msg != "--set "+set+": "+want {
			t.Errorf("%s: %s", set, msg)
		}
	}
	if trials, msg = load(t, taskYAML, []string{"data=offline:x.parquet"}, nil); msg != "" || trials[0].Config.Reference != "sft" {
		t.Errorf("given pairs: %s, reference %s", msg, trials[0].Config.Reference)
	}
	if trials, msg = load(t, taskYAML, []string{"data=offline:x.parquet", "reference=behavior"}, nil); msg != "" || trials[0].Config.Reference != "behavior" {
		t.Errorf("given pairs and a reference: %s", msg)
	}
	for _, c := range []struct{ set, env, want string }{
		{"loss.betta=1", "", "--set loss.betta=1: unknown key loss.betta; did you mean loss.beta?"},
		{"loss.beta", "", "--set loss.beta: want key=value"},
		{"loss.beta=", "", "--set loss.beta=: loss.beta: has no value"},
		{"steps=[1", "", "--set steps=[1: line 1: did not find expected ',' or ']'"},
		{"sweep.grid.foo=[1]", "", "--set sweep.grid.foo=[1]: sweep.grid: unknown key foo; `bpo show` lists the keys"},
		{"", "BPO_LOSS_BETTA=1", "environment: BPO_LOSS_BETTA names no key; did you mean BPO_LOSS_BETA?"},
		{"", "BPO_STEPS=x", `environment: BPO_STEPS: steps: want a whole number, got the text "x"`},
	} {
		var sets, env []string
		if c.set != "" {
			sets = []string{c.set}
		}
		if c.env != "" {
			env = []string{c.env}
		}
		if _, got := load(t, text, sets, env); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// TestEnvironmentNamesAreUnique guards the mapping from keys to variables.
// Patterns keep their case, whose letters mean something.
func TestLoRAPatterns(t *testing.T) {
	text := taskYAML + "lora:\n  rslora: true\n  rank_pattern: {'layers\\.\\D.*': 3, q_proj: 4}\n"
	trials, msg := load(t, text, []string{`lora.alpha_pattern={'\S*up_proj': 2, k_proj: 2.5}`}, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	l := trials[0].Config.LoRA
	if !l.RSLoRA || !reflect.DeepEqual(l.RankPattern, map[string]int{`layers\.\D.*`: 3, "q_proj": 4}) ||
		!reflect.DeepEqual(l.AlphaPattern, map[string]float64{`\S*up_proj`: 2, "k_proj": 2.5}) {
		t.Errorf("%+v", l)
	}
	for set, want := range map[string]string{
		"lora.rank_pattern={q_proj: 2.5}": "--set lora.rank_pattern={q_proj: 2.5}: lora.rank_pattern.q_proj: want a whole number, got 2.5",
		"lora.rank_pattern={q_proj: 0}":   `x.yaml: lora.rank_pattern: "q_proj" is 0, must be at least 1`,
		"lora.alpha_pattern={'(': 1}":     "x.yaml: lora.alpha_pattern: \"(\" is not a regular expression",
		"lora.targets=[qproj]":            `x.yaml: lora.targets: "qproj" is not one of`,
		"loss.params={gamma: much}":       "loss.params.gamma: want a finite number",
	} {
		if _, got := load(t, taskYAML, []string{set}, nil); !strings.Contains(got, want) {
			t.Errorf("%s: %s\nwant %s", set, got, want)
		}
	}
}

func TestEnvironmentNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, p := range configSchema.paths(true) {
		if other, dup := seen[envName(p)]; dup {
			t.Errorf("%s and %s are both %s", p, other, envName(p))
		}
		seen[envName(p)] = p
	}
	if len(seen) < 60 {
		t.Errorf("only %d keys found: %v", len(seen), seen)
	}
}

func TestDefaultsDependOnOtherKeys(t *testing.T) {
	trials, msg := load(t, taskYAML+"annotator: {name: gold, noise: 0.2}", nil, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	c := trials[0].Config
	if c.MicroBatch != 4 || c.Eval.Annotator.Name != "gold" || c.Eval.Annotator.Noise != 0 {
		t.Errorf("micro_batch %d, evaluator %+v: want 4 and gold without the noise", c.MicroBatch, c.Eval.Annotator)
	}
	if trials, msg = load(t, strings.Replace(taskYAML, "refresh: 2", "refresh_every: 3", 1), nil, nil); msg != "" || trials[0].Config.Refresh != 0 {
		t.Errorf("refresh_every alone must replace the default F: %s", msg)
	}
}

func TestResolvedConfigRoundTrips(t *testing.T) {
	trials, msg := load(t, taskYAML+"annotator: {name: sum, of: [{name: length, max: 9}, {name: rouge_l, weight: 2}, {name: sentiment, weight: 0}]}\n", nil, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	first, err := trials[0].Config.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(first), "weight: 0\n"); n != 2 { // of the annotator and the evaluator
		t.Errorf("weight: 0 stands %d times in\n%s", n, first)
	}
	again, msg := load(t, string(first), nil, nil)
	if msg != "" {
		t.Fatalf("%s\n%s", msg, first)
	}
	second, _ := again[0].Config.YAML()
	if string(first) != string(second) || again[0].Hash != trials[0].Hash {
		t.Errorf("the resolved file loads to another configuration:\n%s\n---\n%s", first, second)
	}
}

func TestHash(t *testing.T) {
	hash := func(sets ...string) string {
		trials, msg := load(t, taskYAML, sets, nil)
		if msg != "" {
			t.Fatal(msg)
		}
		return trials[0].Hash
	}
	base := hash()
	if len(base) != 12 {
		t.Errorf("hash %q", base)
	}
	for _, same := range []string{"study=other", "checkpoint_every=3", "track={mlflow: 'http://127.0.0.1:5000', wandb: offline}", "sweep={grid: {seed: [0]}}", "micro_batch=4", "loss={beta: 0.1}"} {
		if hash(same) != base {
			t.Errorf("%s changes the hash", same)
		}
	}
	if hash("refresh=0", "refresh_every=4") != base {
		t.Error("K=4 of T=8 is F=2 in other words")
	}
	seen := map[string]string{base: "base"}
	for _, other := range []string{"annotator={name: sum, of: [{name: gold}]}", "annotator={name: sum, of: [{name: gold, weight: 0}]}", "seed=1", "loss.beta=0.2", "refresh=8", "reference=sft", "annotator={name: gold, noise: 0.1}", "eval.n=3", "model.scratch.layers=2", "backend=go"} {
		h := hash(other)
		if seen[h] != "" {
			t.Errorf("%s hashes as %s", other, seen[h])
		}
		seen[h] = other
	}
	if a, b, c := hash("refresh=1"), hash("refresh=1", "reference=sft"), hash("behavior=sft", "reference=sft"); a != b || b != c {
		t.Errorf("at F=1 the behavior is the start policy, so all three are one computation: %s %s %s", a, b, c)
	}
	if a, b := hash("loss={name: simpo}"), hash("loss={name: simpo}", "reference=sft"); a != b {
		t.Errorf("a loss without a reference: %s with one, %s with another", a, b)
	}
	if a, b := hash("loss={name: simpo}", "data=offline:x.parquet"), hash("loss={name: simpo}", "data=offline:x.parquet", "refresh=8"); a != b {
		t.Errorf("neither behavior nor reference count, but F does: %s, %s", a, b)
	}
	given := []string{"data=offline:x.parquet", "eval.annotator={name: gold}"}
	for _, same := range []string{"annotator={name: gold, noise: 0.1}", "annotator={name: rouge_l}", "sample.n=4", "ties=random"} {
		if a, b := hash(given...), hash(append(given, same)...); a != b {
			t.Errorf("%s changes a run on given pairs", same)
		}
	}
	if hash(given...) == hash("data=offline:x.parquet", "eval.annotator={name: rouge_l}") {
		t.Error("the evaluator does not change the hash of a run on given pairs")
	}
}

func TestPoints(t *testing.T) {
	text := taskYAML + `
sweep:
  grid: {seed: [0, 1], loss.beta: [0.1, 0.5]}
  paired:
    - {behavior: learner, refresh: 8}
    - {behavior: sft, refresh: 1}
    - {loss: {name: ipo}}
`
	trials, msg := load(t, text, nil, nil)
	if msg != "" {
		t.Fatal(msg)
	}
	if len(trials) != 12 {
		t.Fatalf("%d trials", len(trials))
	}
	if got := trials[0].String(); got != "seed=0 behavior=learner refresh=8 loss.beta=0.1" {
		t.Errorf("first trial %q", got)
	}
	if got := trials[11].String(); got != `seed=1 loss=ipo loss.beta=0.5` {
		t.Errorf("last trial %q", got)
	}
	if c := trials[11].Config; c.Loss.Name != "ipo" || c.Loss.Beta != 0.5 || c.Loss.Length != "default" || c.Seed != 1 {
		t.Errorf("last trial's loss: %+v", c.Loss)
	}
	if n := len(trials[0].Config.Sweep.Grid); n != 0 {
		t.Errorf("a trial keeps %d lines of the grid", n)
	}
	if _, msg := load(t, taskYAML+"sweep: {grid: {seed: ["+strings.Repeat("1,", 200)+"1], steps: ["+strings.Repeat("8,", 100)+"8]}}", nil, nil); msg != "x.yaml: sweep: more than 10000 trials" {
		t.Error(msg)
	}
}

func TestPhasesLine(t *testing.T) {
	for set, want := range map[string]string{
		"refresh=2":           "T=8 steps, K=4 steps a phase, 2 data-collection phases",
		"refresh=1":           "T=8 steps, one data-collection phase by the start policy",
		"refresh=3":           "T=8 steps, K=3 steps a phase, 3 data-collection phases (T/F=8/3 is not whole, so K is rounded up; the last phase has 2 steps)",
		"refresh=5":           "T=8 steps, K=2 steps a phase, 4 data-collection phases (T/F=8/5 is not whole, so K is rounded up; which leaves 4 phases instead of 5)",
		"data=offline:p.parq": "T=8 steps on the pairs of p.parq",
	} {
		trials, msg := load(t, taskYAML, []string{set}, nil)
		if msg != "" {
			t.Fatal(msg)
		}
		if got := trials[0].Config.PhasesLine(); got != want {
			t.Errorf("%s: got  %s\nwant %s", set, got, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("steps: 3")
	f.Add(taskYAML + "sweep: {grid: {loss.beta: [0.1]}, paired: [{seed: 1}]}")
	f.Add("a: &a [*a]")
	f.Add("<<: {steps: 1}\nloss: &l {beta: 1}\nsft: *l")
	f.Add("? [x]\n: 1")
	f.Fuzz(func(t *testing.T, text string) {
		tree, err := configSchema.parse("f", []byte(text))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		if c, err := typed(tree); err == nil {
			if points, err := c.Sweep.points(); err == nil && len(points) > 50 {
				return // fine, but slow
			}
		}
		// What the checks let through decodes, or is refused in a line; it never panics.
		if _, err := (&File{Path: "f", tree: tree, schema: configSchema}).Trials(); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})
}
