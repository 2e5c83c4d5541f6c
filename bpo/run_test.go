package bpo

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/sample"
	"gobpo/models/tokenizer"
)

// testSetup is a small run: an untrained one-layer model, 12 prompts, and a reward that counts the letter a.
func testSetup(t *testing.T) Setup {
	t.Helper()
	tok, err := tokenizer.FromWords([]string{"tea", "jam", "pack"})
	if err != nil {
		t.Fatal(err)
	}
	c := models.Config{
		Architecture: "llama", VocabSize: tok.VocabSize(), HiddenSize: 16, IntermediateSize: 16, NumLayers: 1, NumHeads: 2, NumKVHeads: 1,
		HeadDim: 8, MaxPositions: 128, RopeTheta: 10000, RMSNormEps: 1e-5, TieEmbeddings: true,
	}
	cfg := DefaultConfig()
	cfg.Seed = 3
	cfg.LoRA = models.LoRA{Rank: 2, Alpha: 4, Targets: []string{"all-linear"}}
	cfg.Steps, cfg.BatchSize, cfg.Refresh = 4, 4, 2
	cfg.MaxPromptTokens, cfg.MaxCompletionTokens = 8, 8
	cfg.Optimizer.LR = 0.05
	cfg.Sample.Batch = 4
	b := backendtest.XLA(t)
	s := Setup{
		Config: cfg, Backend: b, Dir: t.TempDir(), Sampler: shared(sample.New(b, c, models.Bucket)), Scorer: shared(models.NewScorer(b, c, models.Bucket)),
		Model: &models.Model{Config: c, Base: models.InitWeights(c, 1), Tokenizer: tok},
		Annotator: annotate.FromScore("letters", func(_ annotate.Request, y string) (float64, error) {
			return float64(strings.Count(y, "a")) + float64(len(y))/100, nil
		}),
	}
	for i := range 12 {
		text := fmt.Sprintf("pack %d tea", i)
		s.Prompts = append(s.Prompts, Prompt{ID: fmt.Sprint(i), Text: text, Reference: "tea", Tokens: tok.EncodePlain(text)})
	}
	return s
}

var engines sync.Map

// shared gives all tests one sampler and one scorer, so that each graph compiles once.
func shared[T any](made T) T {
	e, _ := engines.LoadOrStore(fmt.Sprintf("%T", made), made)
	return e.(T)
}

// record runs and keeps the metrics of every step.
func record(t *testing.T, s Setup) (models.Policy, map[int]Metrics, error) {
	t.Helper()
	all := map[int]Metrics{}
	s.Log = func(step int, m Metrics) error {
		all[step] = maps.Clone(m)
		return nil
	}
	p, err := Train(context.Background(), s)
	return p, all, err
}

func mustRecord(t *testing.T, s Setup) (models.Policy, map[int]Metrics) {
	t.Helper()
	p, m, err := record(t, s)
	if err != nil {
		t.Fatal(err)
	}
	return p, m
}

// untimed drops what differs between two runs of the same numbers.
func untimed(all map[int]Metrics) map[int]Metrics {
	out := map[int]Metrics{}
	for step, m := range all {
		out[step] = Metrics{}
		for name, v := range m {
			if !strings.HasPrefix(name, "time/") && !strings.HasSuffix(name, "tokens_per_second") && name != "compile/count" {
				out[step][name] = v
			}
		}
	}
	return out
}

func sameMetrics(t *testing.T, what string, got, want map[int]Metrics) {
	t.Helper()
	got, want = untimed(got), untimed(want)
	for step, m := range want {
		if !maps.Equal(got[step], m) {
			t.Errorf("%s: step %d: %v, want %v", what, step, got[step], m)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d steps, want %d", what, len(got), len(want))
	}
}

func TestEveryLossStartsAtItsIdentity(t *testing.T) {
	for _, l := range Losses() {
		if l.Identity == nil {
			continue
		}
		for _, reference := range []string{"behavior", "sft"} {
			s := testSetup(t)
			s.Config.Steps, s.Config.Refresh = 1, 1
			s.Config.Loss, s.Config.Reference = LossConfig{Name: l.Name, Beta: 0.2}, reference
			_, m := mustRecord(t, s)
			if got, want := m[1]["loss"], l.Identity(s.Config.Loss); math.Abs(got-want) > 1e-3*max(1, want) {
				t.Errorf("%s, reference %s: first loss %v, want %v", l.Name, reference, got, want)
			}
		}
	}
}

// At F=1 the behavior LLM is the start policy throughout: BPO, offline DAP and a static reference are one run.
func TestOnePhaseIsOffline(t *testing.T) {
	var want map[int]Metrics
	for _, words := range [][2]string{{"learner", "behavior"}, {"sft", "sft"}, {"sft", "behavior"}, {"learner", "sft"}} {
		s := testSetup(t)
		s.Config.Refresh = 1
		s.Config.Behavior, s.Config.Reference = words[0], words[1]
		_, got := mustRecord(t, s)
		if want == nil {
			want = got
			continue
		}
		sameMetrics(t, fmt.Sprint(words), got, want)
	}
}

// At F=T with one learner the reference is the policy at every step: no margin, and β only scales the gradient.
func TestFullyOnPolicyHasNoMargin(t *testing.T) {
	s := testSetup(t)
	s.Config.Refresh = s.Config.Steps
	_, m := mustRecord(t, s)
	for step := 1; step <= 4; step++ {
		if got := m[step]["rewards/margins"]; math.Abs(got) > 1e-4 {
			t.Errorf("step %d: margin %v, want 0", step, got)
		}
		if got := m[step]["behavior/version"]; got != float64(step-1) {
			t.Errorf("step %d: behavior version %v, want %d", step, got, step-1)
		}
		if got := m[step]["kl/behavior"]; math.Abs(got) > 1e-3 {
			t.Errorf("step %d: KL to the behavior policy %v, want 0", step, got)
		}
	}
}

// Every F spends the same prompts on the same steps, and phases have ⌈T/F⌉ steps.
func TestPhasesAndBudget(t *testing.T) {
	var want []string
	for _, c := range []struct{ f, phases int }{{1, 1}, {2, 2}, {3, 2}, {4, 4}} { // ⌈4/3⌉ = 2 steps: two phases, not three
		s := testSetup(t)
		s.Config.Refresh = c.f
		_, m := mustRecord(t, s)
		if got := int(m[4]["phase"]) + 1; got != c.phases || s.Config.Phases() != c.phases {
			t.Errorf("F=%d: %d phases ran, %d announced, want %d", c.f, got, s.Config.Phases(), c.phases)
		}
		var got []string
		total := 0.0
		files, err := filepath.Glob(filepath.Join(s.Dir, "pairs", "*", "*.parquet"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			rows, err := data.Read[data.Preference](path)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				got = append(got, fmt.Sprint(r.Step, r.PromptID))
				if r.BehaviorVersion != r.Phase || *r.ChosenScore <= *r.RejectedScore {
					t.Errorf("F=%d: inconsistent pair %+v", c.f, r)
				}
			}
		}
		for _, step := range m {
			total += step["collect/prompts"]
		}
		if total != 16 {
			t.Errorf("F=%d: %v prompts annotated, want 16", c.f, total)
		}
		if want == nil {
			want = got
		}
		if c.f == 1 && len(got) < 12 {
			t.Errorf("only %d pairs of 16 prompts", len(got))
		}
	}
}

var errKilled = errors.New("killed")

// A run stopped at any step and resumed gives the policy and the metrics of the uninterrupted run, bit for bit.
func TestResumeIsBitEqual(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"bpo":      func(*Config) {},
		"ensemble": func(c *Config) { c.Learners, c.Reference = 2, "sft" },
		"ema":      func(c *Config) { c.Reference, c.EMAAlpha = "ema", 0.5 },
		"dropout":  func(c *Config) { c.LoRA.Dropout = 0.3 },
		"offline":  func(c *Config) { c.Data = "offline:" + givenPairs(t, 9) },
	} {
		t.Run(name, func(t *testing.T) {
			base := testSetup(t)
			change(&base.Config)
			base.Config.CheckpointEvery = 1
			want, wantMetrics := mustRecord(t, base)
			for _, at := range []int{1, 2, 3} {
				got, all := stoppedAndResumed(t, base, at)
				if got.Hash() != want.Hash() {
					t.Errorf("stopped at %d: another policy", at)
				}
				sameMetrics(t, fmt.Sprintf("stopped at %d", at), all, wantMetrics)
			}
		})
	}
}

// A judge's counts are those of the run, not of the process that ends it: killed after a step or inside a collection, and
// resumed by a process with a judge of its own, it tells what the uninterrupted run does.
func TestResumeCountsWhatTheJudgeUsed(t *testing.T) {
	asked, most, stop := 0, 0, context.CancelFunc(func() {})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == most {
			stop()
		}
		raw, _ := io.ReadAll(r.Body)
		h := crc32.ChecksumIEEE(raw)
		_, _ = fmt.Fprintf(w, `{"choices": [{"message": {"content": %q}}], "usage": {"prompt_tokens": %d, "completion_tokens": %d}}`,
			[]string{"Preferred: A", "Preferred: B", "neither"}[h%3], len(raw), h%7)
	}))
	defer server.Close()
	setup := func() Setup { // as a new process makes it
		s := testSetup(t)
		s.Config.Sample.Batch, s.Config.CheckpointEvery = 1, 1 // a shard a step
		var err error
		s.Annotator, err = annotate.New(annotate.Config{Name: "judge", Params: map[string]any{
			"endpoint": server.URL, "model": "m", "cache": "none", "concurrency": 1, "max_unparsed": 1, "retries": 0, "price_in": 0.15, "price_out": 0.6,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, want := mustRecord(t, setup())
	total := asked
	if want[3]["judge/requests"] != float64(total) || want[1]["judge/requests"] >= float64(total) || want[3]["judge/unparsed"] == 0 || want[3]["judge/cost"] == 0 {
		t.Fatalf("%d requests; told %v and %v", total, want[1], want[3])
	}
	for name, kill := range map[string]struct{ step, asked int }{"after step 1": {step: 1}, "after step 2": {step: 2}, "after step 3": {step: 3},
		"in the first shard": {asked: 2}, "in the second": {asked: total/2 - 1}, "in the last": {asked: total - 1}} {
		s, all := setup(), map[int]Metrics{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked, most, stop = 0, kill.asked, cancel
		s.Log = func(step int, m Metrics) error {
			if all[step] = maps.Clone(m); step == kill.step {
				return errKilled
			}
			return nil
		}
		if _, err := Train(ctx, s); !errors.Is(err, errKilled) && !errors.Is(err, context.Canceled) {
			t.Fatalf("killed %s: %v", name, err)
		}
		dir, log := s.Dir, s.Log
		s, kill.step, most = setup(), -1, 0
		s.Dir, s.Log = dir, log
		if _, err := Train(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		sameMetrics(t, "killed "+name, all, want)
	}
}

// A run that is told to stop keeps what it has, between two checkpoints too.
func TestCancelledRunKeepsACheckpoint(t *testing.T) {
	s := testSetup(t)
	want, wantMetrics := mustRecord(t, s)
	for at := 1; at < s.Config.Steps; at++ {
		s.Dir = t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		all := map[int]Metrics{}
		s.Log = func(step int, m Metrics) error {
			all[step] = maps.Clone(m)
			if step == at {
				cancel()
			}
			return nil
		}
		if _, err := Train(ctx, s); !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled at %d: %v", at, err)
		}
		resumed := -1
		s.Resumed = func(step int) error { resumed = step; return nil }
		got, err := Train(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if resumed != at || got.Hash() != want.Hash() {
			t.Errorf("cancelled at %d, resumed after %d; the same policy: %v", at, resumed, got.Hash() == want.Hash())
		}
		sameMetrics(t, fmt.Sprintf("cancelled at %d", at), all, wantMetrics)
	}
}

func TestOfflineDataEMAAndGoldenReference(t *testing.T) {
	s := testSetup(t)
	golden, _ := mustRecord(t, s)
	pairs := filepath.Join(t.TempDir(), "pairs.parquet")
	var rows []data.Preference
	for i := range 6 {
		rows = append(rows, data.Preference{Prompt: fmt.Sprint("pack ", i), Chosen: "tea jam", Rejected: "no"})
	}
	rows = append(rows, data.Preference{Prompt: "pack", Chosen: "same", Rejected: "same"})
	if err := data.Write(pairs, rows, nil); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"offline":        func(c *Config) { c.Reference = "sft" },
		"hard TR-DPO":    func(c *Config) { c.Reference = "behavior" },
		"soft TR-DPO":    func(c *Config) { c.Reference, c.EMAAlpha = "ema", 0.6 },
		"golden":         func(c *Config) { c.Reference = "checkpoint:" + s.Dir },
		"reference-free": func(c *Config) { c.Loss = LossConfig{Name: "simpo", Beta: 2} },
	} {
		o := testSetup(t)
		o.Config.Data = "offline:" + pairs
		change(&o.Config)
		_, m := mustRecord(t, o)
		margin := func(step int) float64 { return m[step]["logps/chosen"] - m[step]["logps/rejected"] }
		if !(margin(4) > margin(1)+0.01) { // the loss itself stays near ln 2 where the reference follows
			t.Errorf("%s: log-prob margin %v at step 1, %v at step 4", name, margin(1), margin(4))
		}
		if want := map[string]float64{"hard TR-DPO": 1, "soft TR-DPO": 3, "reference-free": 1}[name]; m[4]["reference/version"] != want {
			t.Errorf("%s: reference version %v at the last step, want %v", name, m[4]["reference/version"], want)
		}
		if m[1]["collect/identical"] != 1 {
			t.Errorf("%s: the identical pair was not counted: %v", name, m[1])
		}
	}
	study := t.TempDir()
	if err := os.Symlink(s.Dir, filepath.Join(study, "run")); err != nil {
		t.Fatal(err)
	}
	var margins []float64
	for _, path := range []string{filepath.Join(s.Dir, PolicyFile), s.Dir, study} {
		o := testSetup(t)
		o.Config.Reference = "checkpoint:" + path
		_, m := mustRecord(t, o)
		margins = append(margins, m[1]["rewards/margins"])
	}
	if margins[0] == 0 {
		t.Errorf("the golden reference %s equals the start policy", golden.Name)
	}
	if margins[1] != margins[0] || margins[2] != margins[0] {
		t.Errorf("a policy's file, its run and its study give margins %v", margins)
	}
}

func TestDivergenceKeepsACheckpoint(t *testing.T) {
	s := testSetup(t)
	s.Config.Optimizer.LR, s.Config.Optimizer.MaxGradNorm = 1e30, 0
	s.Config.Optimizer.Schedule = "constant"
	_, _, err := record(t, s)
	if err == nil || !strings.Contains(err.Error(), "not finite at pairs [") || !strings.Contains(err.Error(), "checkpoint of step 1") {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, checkpointsDir, "step-000001", stateFile)); err != nil {
		t.Error(err)
	}
}

func TestTrainErrors(t *testing.T) {
	for want, change := range map[string]func(*Setup){
		"prompts: there is no prompt": func(s *Setup) { s.Prompts = nil },
		"refresh: F=9 phases":         func(s *Setup) { s.Config.Refresh = 9 },
		"no such file":                func(s *Setup) { s.Config.Data = "offline:/nowhere.parquet" },
		"reference: ":                 func(s *Setup) { s.Config.Reference = "checkpoint:/nowhere" },
		"learners: 1 starting":        func(s *Setup) { s.Start = make([]models.Policy, 1); s.Config.Learners = 2 },
	} {
		s := testSetup(t)
		change(&s)
		if _, _, err := record(t, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A corrupt checkpoint is refused with the file's name, not trained over.
func TestCorruptCheckpointIsRefused(t *testing.T) {
	s := testSetup(t)
	mustRecord(t, s)
	path := filepath.Join(s.Dir, checkpointsDir, "step-000004", "learner-0.safetensors")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, _, err := record(t, s); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one that names %s", err, path)
	}
}

func TestSFTLearnsTheReferences(t *testing.T) {
	s := testSetup(t)
	opt := DefaultOptimizer()
	opt.LR = 0.02
	first, last := 0.0, 0.0
	policy, err := SFT(context.Background(), Fit{
		Config: SFTConfig{Steps: 20, BatchSize: 4, Optimizer: opt}, Backend: s.Backend, Model: s.Model,
		Start: models.Policy{Base: s.Model.Base}, Full: true, Seed: 1,
		Log: func(step int, m Metrics) error {
			if step == 1 {
				first = m["loss"]
			}
			last = m["loss"]
			return nil
		},
	}, s.Prompts, 8)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(first-math.Log(float64(s.Model.Config.VocabSize))) > 0.1 || last > 1 {
		t.Errorf("loss %v at first (uniform is %v), %v at last", first, math.Log(float64(s.Model.Config.VocabSize)), last)
	}
	path := filepath.Join(t.TempDir(), PolicyFile)
	if err := SavePolicy(path, policy); err != nil {
		t.Fatal(err)
	}
	back, err := LoadPolicy(path, s.Model)
	if err != nil || back.Hash() != policy.Hash() {
		t.Errorf("a saved policy came back different: %v", err)
	}
}

// A record whose log-probs are not those of the behavior policy is refused before anything trains on it.
func TestTamperedLogProbsAreRefused(t *testing.T) {
	s := testSetup(t)
	s.Log = func(step int, m Metrics) error { return errKilled }
	if _, err := Train(context.Background(), s); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(s.Dir, "pairs", "*", "*.parquet"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no pairs: %v", err)
	}
	rows, err := data.Read[data.Preference](files[0])
	if err != nil {
		t.Fatal(err)
	}
	info, err := data.Describe(files[0])
	if err != nil {
		t.Fatal(err)
	}
	rows[1].RejectedLogps[0] += 0.5
	if err := data.Write(files[0], rows, info.Meta); err != nil {
		t.Fatal(err)
	}
	if _, _, err := record(t, s); err == nil || !strings.Contains(err.Error(), "pair "+rows[1].ID+": the sampler gave log-prob") {
		t.Errorf("error %v, want one that names pair %s", err, rows[1].ID)
	}
}

func TestWrongReferenceIsRefused(t *testing.T) {
	s := testSetup(t)
	r := &run{setup: s, cfg: &s.Config, loss: losses["dpo"]}
	if err := r.checkIdentity(Metrics{"num_pairs": 4, "rewards/margins": 1e-4}); err != nil {
		t.Error(err)
	}
	if err := r.checkIdentity(Metrics{"num_pairs": 4, "rewards/margins": 0.3}); err == nil || !strings.Contains(err.Error(), "should be equal") {
		t.Errorf("a margin of 0.3 at step 1 gave error %v", err)
	}
	s.Config.Learners = 2
	if err := r.checkIdentity(Metrics{"num_pairs": 4, "rewards/margins": 0.3}); err != nil {
		t.Errorf("an ensemble was refused: %v", err)
	}
}
