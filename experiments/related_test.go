package experiments

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobpo/bpo"
	"gobpo/data"
)

// An extrapolated run ends with the factor that won on dev, and everything that opens the run opens that policy.
func TestExtrapolate(t *testing.T) {
	s := &Session{Offline: true}
	yaml := strings.Replace(tinyYAML, "BACKEND", "go", 1)
	yaml = strings.Replace(yaml, "bootstrap: 50}", "bootstrap: 50, extrapolate: [0.5, 8]}", 1)
	out := t.TempDir()
	dir, r, err := RunOne(t.Context(), trialsOf(t, yaml)[0], out, s.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	best, alpha := -1.0, -1.0
	for _, a := range []float64{0, 0.5, 8} {
		rate, ok := r.Final["expo/dev_win_rate@"+map[float64]string{0: "0", 0.5: "0.5", 8: "8"}[a]]
		if !ok {
			t.Fatalf("no dev win rate at %g: %v", a, r.Final)
		}
		if rate > best {
			best, alpha = rate, a
		}
	}
	if r.Final["expo/alpha"] != alpha || r.Final["expo/dev_win_rate"] != best {
		t.Errorf("chose %v with %v, want %v with %v", r.Final["expo/alpha"], r.Final["expo/dev_win_rate"], alpha, best)
	}
	p, err := s.OpenPolicy(t.Context(), dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if extrapolated := filepath.Base(bpo.PolicyPath(dir)) == bpo.ExtrapolatedFile; extrapolated != (alpha > 0) || extrapolated != (len(p.Policy.Override) > 0) {
		t.Errorf("α = %g and the policy is %s with %d overrides", alpha, bpo.PolicyPath(dir), len(p.Policy.Override))
	}
}

// A second stage starts from the first one's policy, which is its reference too: margins start at zero, and the start
// policy's KL is measured to that policy.
func TestStartFromCheckpoint(t *testing.T) {
	s := &Session{Offline: true}
	one := strings.Replace(strings.Replace(tinyYAML, "BACKEND", "go", 1), "learners: 2", "learners: 1", 1)
	out := t.TempDir()
	first, _, err := RunOne(t.Context(), trialsOf(t, one)[0], out, s.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	two := strings.Replace(one, "sft: {steps: 2, batch_size: 4}", "start: checkpoint:"+first+"\nreference: sft", 1)
	second, r, err := RunOne(t.Context(), trialsOf(t, two)[0], out, s.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	steps, err := ReadMetrics(filepath.Join(second, "metrics.jsonl"))
	if err != nil || math.Abs(steps[1].Values["rewards/margins"]) > 1e-4 {
		t.Errorf("the first margin is %v, %v", steps[1].Values["rewards/margins"], err)
	}
	before, err := ReadResult(first)
	if err != nil || math.Abs(before.Final["eval/score"]-r.Initial["eval/score"]) > 1e-9 {
		t.Errorf("stage one ends with a score of %v, stage two starts with %v", before.Final["eval/score"], r.Initial["eval/score"])
	}
	other := strings.Replace(two, "lora: {rank: 2", "lora: {rank: 3", 1)
	if _, _, err := RunOne(t.Context(), trialsOf(t, other)[0], out, s.Execute, &silent{}); err == nil || !strings.Contains(err.Error(), "start: ") {
		t.Errorf("error %v", err)
	}
	full := strings.Replace(two, "lora: {rank: 2, alpha: 4, targets: [q_proj]}", "train: full", 1)
	if _, r, err = RunOne(t.Context(), trialsOf(t, full)[0], out, s.Execute, &silent{}); err != nil || math.Abs(before.Final["eval/score"]-r.Initial["eval/score"]) > 1e-9 {
		t.Errorf("full training starts with %v, %v", r.Initial["eval/score"], err)
	}
}

// Selectors keep the share that is asked for; density prefers the rare, ask_llm what the model says yes to.
func TestSelectPrompts(t *testing.T) {
	dir := rewardFiles(t)
	s := &Session{Offline: true}
	b, err := s.Backend("go")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Load(t.Context(), b, filepath.Join(dir, "base"), "float32")
	if err != nil {
		t.Fatal(err)
	}
	var prompts []data.Prompt
	for i := range 40 { // nine of ten are alike
		text := " tea tea tea tea"
		if i%10 == 0 {
			text = " rug fool please shut"
		}
		prompts = append(prompts, data.Prompt{ID: string(rune('a' + i)), Prompt: text})
	}
	all, _, err := tokenise(m.model, "none", prompts, 64)
	if err != nil {
		t.Fatal(err)
	}
	rare := func(by string, seed uint64) (kept, rare int) {
		got, err := SelectConfig{by, 0.25}.prompts(t.Context(), m, all, "none", 128, 8, seed)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range got {
			if i > 0 && p.ID <= got[i-1].ID {
				t.Errorf("%s: out of order", by)
			}
			if strings.Contains(p.Text, "rug") {
				rare++
			}
		}
		return len(got), rare
	}
	counts := map[string]int{}
	for _, by := range []string{"random", "density", "ask_llm"} {
		for seed := range uint64(10) {
			n, r := rare(by, seed)
			if n != 10 {
				t.Errorf("%s kept %d of 40", by, n)
			}
			counts[by] += r
		}
	}
	if counts["density"] < counts["random"]+10 {
		t.Errorf("rare prompts kept: %v", counts)
	}
	yes, err := askLLM(t.Context(), m, []bpo.Prompt{all[0], all[1]}, "none", 128, 8)
	if err != nil || yes[0] == yes[1] {
		t.Fatalf("log odds %v, %v", yes, err)
	}
	if want := map[bool]int{true: 40, false: 0}[yes[0] > yes[1]]; counts["ask_llm"] != want {
		t.Errorf("log odds %v of rare and common, and %d of 40 rare ones kept", yes, counts["ask_llm"])
	}
}

// Two clusters, nine points in one and one in the other.
func TestDensities(t *testing.T) {
	points := [][]float32{{5, 5}}
	for i := range 9 {
		points = append(points, []float32{float32(i) / 100, 0})
	}
	d := densities(points)
	if d[0] > 0.2 || d[1] < 0.5 {
		t.Errorf("densities %v", d)
	}
	if d := densities([][]float32{{1}}); d[0] != 1 {
		t.Errorf("one point has density %v", d)
	}
	// Of many points a sample stands for all: three in four around one place, the others around another.
	rng := rand.New(rand.NewPCG(1, 1))
	points = nil
	for i := range 3 * densityPoints {
		points = append(points, []float32{float32(i%4/3) * 6, float32(rng.NormFloat64())})
	}
	means := [2]float64{}
	for i, v := range densities(points) {
		means[i%4/3] += v / float64(len(points)) * []float64{4. / 3, 4}[i%4/3]
	}
	if ratio := means[0] / means[1]; ratio < 1.5 || ratio > 3 {
		t.Errorf("density %v in the place of three in four, %v in the other", means[0], means[1])
	}
}

// Every experiment that is shipped is valid, and those that name an earlier study run after it in the order of their names.
func TestShippedExperiments(t *testing.T) {
	for _, pattern := range []string{"*.yaml", "paper/*.yaml", "related/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		studies, sweeps := map[string]bool{}, [][]Trial(nil)
		for _, file := range files {
			if strings.HasPrefix(file, "reward") { // see TestRewardExamples
				continue
			}
			f, err := Load(file, nil, nil)
			if err != nil {
				t.Error(err)
				continue
			}
			trials, err := f.Trials()
			if err != nil {
				t.Error(err)
				continue
			}
			for _, trial := range trials {
				for _, study := range studiesNamed([]Trial{trial}) {
					if !studies[study] {
						t.Errorf("%s: %s is no study before it", file, study)
					}
				}
				for _, s := range trial.Config.sources() {
					if _, named := s.study(); s.path() != "" && !named {
						t.Errorf("%s: %s: %s is a path, which --out does not move", file, s.key, *s.value)
					}
				}
			}
			studies[trials[0].Config.Study] = true
			sweeps = append(sweeps, trials)
		}
		if err := InOrder(sweeps); err != nil {
			t.Error(err)
		}
		slices.Reverse(sweeps)
		if err := InOrder(sweeps); pattern == "related/*.yaml" && (err == nil || !strings.Contains(err.Error(), "whose file comes after its own")) {
			t.Errorf("%s the other way round: %v", pattern, err)
		}
	}
}
