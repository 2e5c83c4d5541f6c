package experiments

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/bpo/annotate/annotatetest"
	"gobpo/data"
	"gobpo/models"
)

// The judge keeps an annotator's promises, and its score is what the model's log-probs are by hand.
func TestLogprobJudge(t *testing.T) {
	base := filepath.Join(rewardFiles(t), "base")
	s := &Session{Offline: true, Override: "go"}
	open := func(params map[string]any) (annotate.Annotator, error) {
		params["template"] = writeFile(t, "q.tmpl", "{{.Prompt}}|{{.A}}|{{.B}}")
		return s.newAnnotator(annotate.Config{Name: "logprob_judge", Params: params}, nil, "go")
	}
	if t.Run("promises", func(t *testing.T) {
		annotatetest.Run(t, func() annotate.Annotator {
			a, err := open(map[string]any{"model": base})
			if err != nil {
				t.Fatal(err)
			}
			return a
		})
	}); t.Failed() {
		return
	}
	a, err := open(map[string]any{"model": base, "prefill": " it is", "a": " tea", "b": " rug"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Annotate(t.Context(), []annotate.Request{{Prompt: "what is it?", Completions: []string{" thanks", " fool"}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.OpenPolicy(t.Context(), base, "float32", "auto")
	if err != nil {
		t.Fatal(err)
	}
	odds := func(x, y string) float64 {
		sum := 0.0
		for text, sign := range map[string]float64{" tea": 1, " rug": -1} {
			prompt, _, err := p.Prompts([]data.Prompt{{ID: "q", Prompt: "what is it?|" + x + "|" + y + " it is"}}, 100)
			if err != nil {
				t.Fatal(err)
			}
			logps, err := p.Scorer.LogProbs(t.Context(), p.Policy, rowsOf(prompt[0].Tokens, p.Model.Tokenizer.EncodePlain(text)), 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range logps[0][0] {
				sum += sign * float64(v)
			}
		}
		return sum
	}
	want := (odds(" thanks", " fool") - odds(" fool", " thanks")) / 2 / 2
	if s := got[0].Scores; math.Abs(s[0]-want) > 1e-5 || math.Abs(s[0]+s[1]) > 1e-12 {
		t.Errorf("scores %v, want ±%g", s, want)
	}
	// What the context of 128 tokens cuts off is counted, in a sum too.
	if n := annotate.Usage(a)["judge/truncated"]; n != 0 {
		t.Errorf("%g questions cut", n)
	}
	long := []annotate.Request{{Prompt: strings.Repeat(" tea", 130), Completions: []string{" thanks", " fool"}}, {Prompt: "what", Completions: []string{" thanks", " fool"}}}
	total, err := s.newAnnotator(annotate.Config{Name: "sum", Of: []annotate.Config{{Name: "logprob_judge", Params: map[string]any{"model": base, "template": writeFile(t, "q.tmpl", "{{.Prompt}}|{{.A}}|{{.B}}")}}}}, nil, "go")
	if err == nil {
		_, err = total.Annotate(t.Context(), long, 0)
	}
	if n := annotate.Usage(total)["judge/truncated"]; err != nil || n != 2 {
		t.Errorf("%g questions cut, want both orders of one pair; %v", n, err)
	}
	if a, err = open(map[string]any{"model": base, "prefill": strings.Repeat(" tea", 130)}); err == nil {
		_, err = a.Annotate(t.Context(), long, 0)
	}
	if err == nil || !strings.Contains(err.Error(), "logprob_judge.prefill: ") {
		t.Errorf("a prefill longer than the context: %v", err)
	}
	for _, c := range []struct {
		params map[string]any
		want   string
	}{
		{map[string]any{}, "model: "}, {map[string]any{"model": base, "a": " B"}, "a: "}, {map[string]any{"model": base, "batch": 0.0}, "batch: "},
	} {
		if _, err := open(c.params); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.params, err, c.want)
		}
	}
}

func rowsOf(prompt []int32, completions ...[]int32) []models.Row {
	return []models.Row{{Prompt: prompt, Completions: completions}}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
