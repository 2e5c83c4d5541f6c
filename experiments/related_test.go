package experiments

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobpo/bpo"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/tokenizer"
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
		got, err := SelectConfig{by, 0.25}.prompts(t.Context(), m, all, "none", 8, seed)
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
	encode := func(text string) ([]int32, error) { return m.model.Tokenizer.EncodePrompt(text), nil }
	yes, err := bpo.AskLLM(t.Context(), m.scorer, m.model, encode, bpo.AskPrompt, [][]string{{all[0].Text}, {all[1].Text}}, 8)
	if err != nil || yes[0] == yes[1] {
		t.Fatalf("log odds %v, %v", yes, err)
	}
	if want := map[bool]int{true: 40, false: 0}[yes[0] > yes[1]]; counts["ask_llm"] != want {
		t.Errorf("log odds %v of rare and common, and %d of 40 rare ones kept", yes, counts["ask_llm"])
	}
}

// A chat model's given pairs of text are trained on as its online prompts are: in its template, a conversation with all its turns.
func TestGivenPairsInTemplate(t *testing.T) {
	files := rewardFiles(t)
	s := &Session{Offline: true}
	backend, err := s.Backend("go")
	if err != nil {
		t.Fatal(err)
	}
	base, err := s.Load(t.Context(), backend, filepath.Join(files, "base"), "float32")
	if err != nil {
		t.Fatal(err)
	}
	m := *base.model
	m.ChatTemplate = "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
	chatty := filepath.Join(t.TempDir(), "chatty")
	if err := m.Save(chatty); err != nil {
		t.Fatal(err)
	}
	var text, ids, plain []data.Preference
	for i := range 8 {
		p := data.Preference{Prompt: fmt.Sprintf("what is tea %d", i), Chosen: " thanks", Rejected: " rug up"}
		if i%2 == 0 {
			p.Messages = []data.Message{{Role: "user", Content: "is it tea"}, {Role: "assistant", Content: "rug"}, {Role: "user", Content: fmt.Sprint("what ", i)}}
			p.Prompt = data.RenderMessages(p.Messages)
		}
		text = append(text, p)
		asked, _, err := tokenise(&m, "auto", []data.Prompt{{Prompt: p.Prompt, Messages: p.Messages}}, 99)
		if err != nil {
			t.Fatal(err)
		}
		p.PromptIDs, p.ChosenIDs, p.RejectedIDs = asked[0].Tokens, append(m.Tokenizer.EncodePlain(p.Chosen), m.Tokenizer.EOS()), append(m.Tokenizer.EncodePlain(p.Rejected), m.Tokenizer.EOS())
		ids = append(ids, p)
		p.PromptIDs = m.Tokenizer.EncodePrompt(p.Prompt)
		plain = append(plain, p)
	}
	trained := func(dir, path, chat string) (logps float64, hash string) {
		t.Helper()
		run, _, err := RunOne(t.Context(), trialsOf(t, fmt.Sprintf(`study: given
backend: go
model: {path: %q, chat: %s}
prompts: {train: %q, eval: %[3]q, leakage: allow}
data: offline:%[3]s
behavior: sft
reference: sft
refresh: 1
steps: 1
batch_size: 8
lora: {rank: 2, alpha: 4, targets: [q_proj]}
max_prompt_tokens: 99
max_completion_tokens: 8
annotator: {name: length, max: 9}
eval: {n: 2, kl_samples: 2, bootstrap: 50}
`, chatty, chat, path))[0], dir, s.Execute, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		steps, err := ReadMetrics(filepath.Join(run, "metrics.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := ReadManifest(run)
		if err != nil {
			t.Fatal(err)
		}
		return steps[len(steps)-1].Values["logps/chosen"], m.Data["data"]
	}
	hash := ""
	first := func(pairs []data.Preference, chat string) (logps float64) {
		t.Helper()
		dir := t.TempDir()
		path := filepath.Join(dir, "pairs.parquet")
		if err := data.Write(path, pairs, nil); err != nil {
			t.Fatal(err)
		}
		logps, hash = trained(dir, path, chat)
		return logps
	}
	want, bare, none, templated := first(ids, "auto"), first(text, "none"), first(plain, "none"), first(text, "auto")
	if templated != want || bare != none || templated == bare || math.IsNaN(templated) {
		t.Errorf("log-probs of the chosen completions: %v in the template, want %v; %v plain, want %v", templated, want, bare, none)
	}
	// The same as TRL has them, in lines of JSON.
	var lines []byte
	for _, p := range text {
		row := map[string]any{"prompt": p.Prompt, "chosen": p.Chosen, "rejected": p.Rejected}
		if p.Messages != nil {
			say := func(text string) []data.Message { return []data.Message{{Role: "assistant", Content: text}} }
			row = map[string]any{"prompt": p.Messages, "chosen": say(p.Chosen), "rejected": say(p.Rejected)}
		}
		line, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(append(lines, line...), '\n')
	}
	if got, same := trained(t.TempDir(), writeFile(t, "trl.jsonl", string(lines)), "auto"); got != templated || same != hash || hash == "" {
		t.Errorf("as lines: %v and %s, want %v and %s", got, same, templated, hash)
	}
}

// A turn ends with the special token that the template writes after it, not always with EOS.
func TestTurnEnd(t *testing.T) {
	tok, err := tokenizer.FromWords([]string{"tea"})
	if err != nil {
		t.Fatal(err)
	}
	pad, eos := tok.Pad(), tok.EOS()
	for template, want := range map[string]int32{
		"": eos,
		"{% for m in messages %}<{{ m.role }}>{{ m.content }}<|pad|>\n{% endfor %}":                                   pad, // as Gemma's
		"{% for m in messages %}{{ m.content }}\n<|pad|>{% endfor %}<|endoftext|>":                                    pad, // as Phi-3's
		"{% for m in messages %}{% if loop.index == 1 %}<|pad|>{% endif %}{{ m.content }}{% endfor %}{{ eos_token }}": eos,
		"{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}":                                          eos, // no special token at all
		"{{ raise_exception('no') }}": eos,
	} {
		m := &models.Model{Tokenizer: tok, ChatTemplate: template}
		if got := turnEnd(m, "auto"); got != want {
			t.Errorf("%s ends turns with %d, want %d", template, got, want)
		}
		if got := turnEnd(m, "none"); got != eos {
			t.Errorf("without a template %d", got)
		}
		if p := (&Policy{Model: m, Chat: "auto"}); !slices.Contains(p.Stop(), want) || !slices.Contains(p.Stop(), eos) {
			t.Errorf("stops at %v", p.Stop())
		}
	}
}

// Every experiment that is shipped is valid, and those that name an earlier study run after it in the order of their names.
func TestShippedExperiments(t *testing.T) {
	for _, pattern := range []string{"*.yaml", "paper/*.yaml", "related/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		studies, swept, sweeps := map[string]bool{}, []string(nil), [][]Trial(nil)
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
			swept, sweeps = append(swept, file), append(sweeps, trials)
		}
		if err := errors.Join(InOrder(sweeps), OneTable(swept, sweeps)); err != nil {
			t.Error(err)
		}
		slices.Reverse(sweeps)
		if err := InOrder(sweeps); pattern == "related/*.yaml" && (err == nil || !strings.Contains(err.Error(), "whose file comes after its own")) {
			t.Errorf("%s the other way round: %v", pattern, err)
		}
	}
}
