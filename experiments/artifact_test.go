package experiments

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/bpo"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
	"gobpo/models/goldentest"
)

// golden is one of goldentest's checkpoints.
func golden(t *testing.T, name string) goldentest.Case {
	t.Helper()
	for _, c := range goldentest.All(t) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no checkpoint %s", name)
	panic("unreachable")
}

// saveAdapter writes a PEFT directory with an adapter of random factors over a checkpoint.
func saveAdapter(t *testing.T, base string, rank int, seed uint64) string {
	t.Helper()
	a := randomAdapter(t, base, rank, seed)
	dir := t.TempDir()
	if err := a.Save(dir, base); err != nil {
		t.Fatal(err)
	}
	return dir
}

func randomAdapter(t *testing.T, base string, rank int, seed uint64) *models.Adapter {
	t.Helper()
	c, err := models.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := models.NewAdapter(c.Config, models.LoRA{Rank: rank, Alpha: 6, Targets: []string{models.AllLinear}}, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, name := range a.Weights.Names() {
		flat := make([]float32, a.Weights[name].Size())
		for i := range flat {
			flat[i] = float32(rng.NormFloat64()) / 10
		}
		a.Weights[name] = tensors.FromFlatDataAndDimensions(flat, a.Weights[name].Shape().Dimensions...)
	}
	return a
}

func open(t *testing.T, path, base string) *Artifact {
	t.Helper()
	a, err := new(Session).OpenArtifact(t.Context(), path, base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func read(t *testing.T, a *Artifact, name string) []float32 {
	t.Helper()
	n := 1
	for _, d := range a.Base.Config.Shapes()[name] {
		n *= d
	}
	flat := make([]float32, n)
	if err := a.Weights(name, flat); err != nil {
		t.Fatal(err)
	}
	return flat
}

const someWeight = "model.layers.1.mlp.up_proj.weight"

func TestMergeOps(t *testing.T) {
	base := golden(t, "llama-linear").Dir
	one, two := saveAdapter(t, base, 2, 1), saveAdapter(t, base, 2, 2)
	zero, first, second := read(t, open(t, base, ""), someWeight), read(t, open(t, one, ""), someWeight), read(t, open(t, two, ""), someWeight)
	if slices.Equal(zero, first) || slices.Equal(first, second) {
		t.Fatal("the adapters change nothing")
	}
	combine := func(f func(i int) float64) []float32 {
		out := make([]float32, len(zero))
		for i := range out {
			out[i] = float32(f(i))
		}
		return out
	}
	at := func(x []float32, i int) float64 { return float64(x[i]) }
	for _, c := range []struct {
		o      MergeOptions
		inputs []string
		want   []float32
	}{
		{MergeOptions{Op: "mean_delta"}, []string{one, one, one}, first},
		{MergeOptions{Op: "mean_delta"}, []string{one, two}, combine(func(i int) float64 { return (at(first, i) + at(second, i)) / 2 })},
		{MergeOptions{Op: "mean_delta", Weights: []float64{1, 0}}, []string{one, two}, first},
		{MergeOptions{Op: "mean_delta", Weights: []float64{2, -1}}, []string{one, two}, combine(func(i int) float64 { return 2*at(first, i) - at(second, i) })},
		{MergeOptions{Op: "peft_linear", Weights: []float64{0.5, 0.2}}, []string{one, one}, combine(func(i int) float64 {
			w := math.Sqrt(0.5) + math.Sqrt(0.2) // each of A and B is so many times the adapter's
			return at(zero, i) + w*w*(at(first, i)-at(zero, i))
		})},
		{MergeOptions{Op: "ties", Density: 1, Scale: 1, Weights: []float64{3, 0}}, []string{one, two}, first},
		{MergeOptions{Op: "peft_linear"}, []string{one, one}, combine(func(i int) float64 { return at(zero, i) + 2*(at(first, i)-at(zero, i)) })},
		{MergeOptions{Op: "average", Weights: []float64{0.25, 0.75}}, []string{one, two}, combine(func(i int) float64 { return at(first, i)/4 + 3*at(second, i)/4 })},
		{MergeOptions{Op: "ema", Alpha: 0.1}, []string{base, one}, combine(func(i int) float64 { return 0.9*at(zero, i) + 0.1*at(first, i) })},
		{MergeOptions{Op: "extrapolate", Alpha: 0.5}, []string{base, one}, combine(func(i int) float64 { return 1.5*at(first, i) - 0.5*at(zero, i) })},
		{MergeOptions{Op: "ties", Density: 1, Scale: 1}, []string{one}, first},
		{MergeOptions{Op: "ties", Density: 1, Scale: 2}, []string{one, two}, combine(func(i int) float64 {
			d, e := at(first, i)-at(zero, i), at(second, i)-at(zero, i)
			sum, n := 0.0, 0.0
			for _, v := range []float64{d, e} {
				if v*(d+e) > 0 {
					sum, n = sum+v, n+1
				}
			}
			return at(zero, i) + 2*sum/n
		})},
	} {
		var inputs []*Artifact
		for _, path := range c.inputs {
			inputs = append(inputs, open(t, path, ""))
		}
		merged, err := Merge(inputs, open(t, base, ""), c.o)
		if err != nil {
			t.Errorf("%+v: %v", c.o, err)
			continue
		}
		for i, v := range read(t, merged, someWeight) {
			if math.Abs(float64(v-c.want[i])) > 1e-5 {
				t.Errorf("%+v of %d: weight %d is %v, want %v", c.o, len(c.inputs), i, v, c.want[i])
				break
			}
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	base, other := golden(t, "llama-linear").Dir, golden(t, "llama-dynamic").Dir
	one := saveAdapter(t, base, 2, 1)
	for want, c := range map[string]struct {
		o      MergeOptions
		inputs []string
	}{
		`--op: "mean" is not one of`:                                                {MergeOptions{Op: "mean"}, []string{base}},
		"ema takes 2 models, got 1":                                                 {MergeOptions{Op: "ema"}, []string{base}},
		"--weights: 1 weights for 2":                                                {MergeOptions{Op: "average", Weights: []float64{1}}, []string{base, one}},
		"--weights: only with mean_delta, peft_linear, average, ties":               {MergeOptions{Op: "ema", Weights: []float64{1, 2}}, []string{base, one}},
		"--weights: [0.5 0.2] sum to 0.7; of average they must sum to 1":            {MergeOptions{Op: "average", Weights: []float64{0.5, 0.2}}, []string{base, one}},
		"--weights: [0.5 0.50001] sum to 1.00001; of mean_delta they must sum to 1": {MergeOptions{Op: "mean_delta", Weights: []float64{0.5, 0.50001}}, []string{one, one}},
		"--weights: [1.5 -0.5], of average none may be negative":                    {MergeOptions{Op: "average", Weights: []float64{1.5, -0.5}}, []string{base, one}},
		"--weights: [1 -1], of ties none may be negative":                           {MergeOptions{Op: "ties", Density: 1, Weights: []float64{1, -1}}, []string{one, one}},
		"--weights: all are 0":                                                      {MergeOptions{Op: "ties", Density: 1, Weights: []float64{0, 0}}, []string{one, one}},
		"--weights: [NaN 1] are not numbers":                                        {MergeOptions{Op: "peft_linear", Weights: []float64{math.NaN(), 1}}, []string{one, one}},
		"--alpha: 1.5, of ema in [0, 1]":                                            {MergeOptions{Op: "ema", Alpha: 1.5}, []string{base, one}},
		"--alpha: -0.1, of ema in [0, 1]":                                           {MergeOptions{Op: "ema", Alpha: -0.1}, []string{base, one}},
		"--alpha: NaN, of ema in [0, 1], of extrapolate any":                        {MergeOptions{Op: "extrapolate", Alpha: math.NaN()}, []string{base, one}},
		"--scale: +Inf is not a number":                                             {MergeOptions{Op: "ties", Density: 1, Scale: math.Inf(1)}, []string{one}},
		"ties: name the model":                                                      {MergeOptions{Op: "ties"}, []string{one}},
		"has no adapter; average merges":                                            {MergeOptions{Op: "mean_delta"}, []string{one, base}},
		"cannot be merged: HeadDim is 4 ":                                           {MergeOptions{Op: "average"}, []string{base, other}},
	} {
		var inputs []*Artifact
		for _, path := range c.inputs {
			inputs = append(inputs, open(t, path, ""))
		}
		var under *Artifact
		if c.o.Density > 0 {
			under = open(t, base, "")
		}
		if _, err := Merge(inputs, under, c.o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// finishedRun is a run of the given base whose policy is an adapter, or with full all weights.
func finishedRun(t *testing.T, base string, full bool) string {
	t.Helper()
	c := DefaultConfig()
	c.Study, c.Model.Path, c.Prompts.Train, c.Prompts.Eval = "fake", base, "train.jsonl", "eval.jsonl"
	m, err := models.Load(base, dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	p := models.Policy{Name: "policy", Base: m.Base, Adapter: randomAdapter(t, base, 3, 5)}
	if full {
		c.Train = "full"
		p = models.Policy{Name: "policy", Base: m.Base, Override: models.Weights{someWeight: m.Base["model.layers.0.mlp.up_proj.weight"]}}
	}
	raw, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	half := 0.5
	err = errors.Join(
		WriteFile(filepath.Join(dir, "config.yaml"), raw),
		writeJSON(filepath.Join(dir, "manifest.json"), Manifest{State: Done, Study: "fake", Hash: "abc", Data: map[string]string{"prompts/train": "1234"}}),
		Result{Initial: map[string]float64{"eval/win_rate": half}, Final: map[string]float64{"eval/win_rate": 0.75}}.Save(dir),
		bpo.SavePolicy(filepath.Join(dir, bpo.PolicyFile), p))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestExportRun(t *testing.T) {
	base := golden(t, "llama-linear").Dir
	run := finishedRun(t, base, false)
	a := open(t, run, "")
	dir := filepath.Join(t.TempDir(), "out")
	if err := a.Export(dir, ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	card, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"library_name: transformers", "BPO (DPO), F=2", "| `eval/win_rate` | 0.5 | 0.75 |", "prompts/train: SHA-256 1234", "reference: behavior", "@article{bpo2024"} {
		if !strings.Contains(string(card), want) {
			t.Errorf("the card lacks %q:\n%s", want, card)
		}
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	if err != nil || !strings.Contains(string(card), "```yaml\n"+string(config)+"```") {
		t.Errorf("config.yaml is not the card's: %v\n%s", err, config)
	}
	if _, err := Load(filepath.Join(dir, "config.yaml"), nil, nil); err != nil {
		t.Error(err)
	}
	if got, want := read(t, open(t, dir, ""), someWeight), read(t, a, someWeight); !slices.Equal(got, want) {
		t.Error("the exported weights are not the run's")
	}
	if err := a.Export(dir, ExportOptions{}); err == nil || !strings.Contains(err.Error(), "exists; --force") {
		t.Errorf("a second export: %v", err)
	}
	if err := a.Export(dir, ExportOptions{Adapter: true, Force: true}); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, open(t, dir, ""), someWeight), read(t, a, someWeight); !slices.Equal(got, want) {
		t.Error("the exported adapter is not the run's")
	}
	full := open(t, finishedRun(t, base, true), "")
	if got, want := read(t, full, someWeight), read(t, open(t, base, ""), "model.layers.0.mlp.up_proj.weight"); !slices.Equal(got, want) {
		t.Error("the weights of a full run are not its policy's")
	}
	if err := full.Export(t.TempDir()+"/x", ExportOptions{Adapter: true}); err == nil || !strings.Contains(err.Error(), "all its weights were trained") {
		t.Errorf("the adapter of a full run: %v", err)
	}
}

// What fails on the way leaves no directory that loads, and what was there stays.
func TestExportIsAtomic(t *testing.T) {
	a := open(t, golden(t, "llama-linear").Dir, "")
	whole := filepath.Join(t.TempDir(), "whole")
	if err := a.Export(whole, ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	broken := *a
	broken.Weights = func(name string, flat []float32) error {
		if name == someWeight {
			return errors.New("no space left on device")
		}
		return a.Weights(name, flat)
	}
	if err := broken.Export(whole, ExportOptions{Force: true}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error %v", err)
	}
	read(t, open(t, whole, ""), someWeight)
	if _, err := os.Stat(whole + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished directory stays: %v", err)
	}
}

func TestOpenArtifactErrors(t *testing.T) {
	base := golden(t, "llama-linear").Dir
	run := finishedRun(t, base, false)
	if err := os.Remove(filepath.Join(run, bpo.PolicyFile)); err != nil {
		t.Fatal(err)
	}
	lost := t.TempDir()
	if err := randomAdapter(t, base, 2, 1).Save(lost, "somewhere/else"); err != nil {
		t.Fatal(err)
	}
	study := filepath.Dir(run)
	for path, want := range map[string]string{
		study:                     study + " is a study: name one of its runs, such as " + run + " (bpo compare ",
		run:                       "the run has no final policy yet",
		lost:                      `the adapter's base "somewhere/else" is not here; name it with --base`,
		filepath.Join(base, "no"): "no such file",
	} {
		if _, err := new(Session).OpenArtifact(t.Context(), path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", path, err, want)
		}
	}
	for path, want := range map[string]string{run: run + ": the run has no outputs yet; finish it with bpo train or bpo sweep", study: " is a study: name one", base: base + " is not a run directory"} {
		if _, err := RunOutputs(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", path, err, want)
		}
	}
}

// transformers and peft compute with what is exported what we compute with the policy.
func TestPeersLoadExports(t *testing.T) {
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		t.Skip("set GOBPO_PYTHON to a Python with torch, transformers and peft (tools/peer/install)")
	}
	b := backendtest.Go(t)
	rowsFile := filepath.Join(t.TempDir(), "rows.json")
	args := []string{filepath.Join("..", "tools", "goldens", "hf.py"), "score", rowsFile}
	var names []string
	var want [][][][]float32
	var rows [][]int32
	for i, name := range []string{"llama-linear", "gpt2-inner", "gemma2-window"} {
		c := golden(t, name)
		rows = c.Rows
		a := open(t, saveAdapter(t, c.Dir, 2, uint64(i)), c.Dir)
		ours := score(t, b, a, rows)
		for kind, o := range map[string]ExportOptions{"merged": {}, "adapter": {Adapter: true}} {
			dir := filepath.Join(t.TempDir(), kind)
			if err := a.Export(dir, o); err != nil {
				t.Fatal(err)
			}
			names, args, want = append(names, name+" "+kind), append(args, dir), append(want, ours)
		}
	}
	raw, err := json.Marshal(rows)
	if err == nil {
		err = os.WriteFile(rowsFile, raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, args...)
	out, err := cmd.Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			t.Fatalf("%v: %s", err, e.Stderr)
		}
		t.Fatal(err)
	}
	var got [][][]float32
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		for r := range rows {
			for k, v := range got[i][r] {
				if math.Abs(float64(v-want[i][r][0][k])) > 1e-4 {
					t.Errorf("%s, row %d, token %d: log-prob %v there, %v here", name, r, k, v, want[i][r][0][k])
					break
				}
			}
		}
	}
}

// score gives the log-prob of every token of the rows but the first, under the adapter beside its base.
func score(t *testing.T, b compute.Backend, a *Artifact, rows [][]int32) [][][]float32 {
	t.Helper()
	m, err := models.Load(a.Base.Source, dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	s := models.NewScorer(b, m.Config, models.Bucket)
	defer s.Finalize()
	var in []models.Row
	for _, r := range rows {
		in = append(in, models.Row{Prompt: r[:1], Completions: [][]int32{r[1:]}})
	}
	out, err := s.LogProbs(t.Context(), models.Policy{Base: m.Base, Adapter: a.Adapter}, in, 1)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
