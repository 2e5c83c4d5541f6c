package tasks_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gobpo/data"
	"gobpo/experiments/tasks"
	"gobpo/models/tokenizer"
)

// each runs a check on every task: what any task promises.
func each(t *testing.T, check func(t *testing.T, task tasks.Task)) {
	for _, name := range tasks.Names() {
		t.Run(name, func(t *testing.T) {
			task, err := tasks.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			if task.Name() != name {
				t.Fatalf("Get(%q) is %q", name, task.Name())
			}
			check(t, task)
		})
	}
}

func draw(t *testing.T, task tasks.Task, n int, seed uint64, split string) []data.Prompt {
	t.Helper()
	prompts, err := task.Prompts(n, seed, split)
	if err != nil {
		t.Fatal(err)
	}
	if len(prompts) != n {
		t.Fatalf("%d prompts, want %d", len(prompts), n)
	}
	return prompts
}

func TestGetUnknown(t *testing.T) {
	if _, err := tasks.Get("picnick"); err == nil || err.Error() != `no task "picnick"; there is picnic` {
		t.Errorf("got %v", err)
	}
}

func TestPromptsRefuses(t *testing.T) {
	each(t, func(t *testing.T, task tasks.Task) {
		if _, err := task.Prompts(1, 0, "trian"); err == nil || err.Error() != `no split "trian"; did you mean "train"?` {
			t.Errorf("got %v", err)
		}
		for _, n := range []int{-1, 1 << 30} {
			if _, err := task.Prompts(n, 0, "test"); err == nil {
				t.Errorf("%d prompts were drawn", n)
			}
		}
	})
}

func TestPromptsAreDeterministicPrefixes(t *testing.T) {
	each(t, func(t *testing.T, task tasks.Task) {
		draw(t, task, 0, 1, "dev")
		long, short := draw(t, task, 300, 1, "dev"), draw(t, task, 100, 1, "dev")
		ids, texts := map[string]bool{}, map[string]bool{}
		for i, p := range long {
			if i < len(short) && fmt.Sprint(p) != fmt.Sprint(short[i]) {
				t.Fatalf("row %d of 300 is %v, of 100 %v", i, p, short[i])
			}
			if ids[p.ID] || texts[p.Prompt] || p.Reference == "" || p.Prompt != strings.TrimSpace(p.Prompt) {
				t.Fatalf("row %d is a duplicate, has no reference or outer space: %v", i, p)
			}
			ids[p.ID], texts[p.Prompt] = true, true
		}
		if other := draw(t, task, 100, 2, "dev"); other[0].Prompt == short[0].Prompt || other[0].ID == short[0].ID {
			t.Error("seeds 1 and 2 begin alike")
		}
	})
}

func TestSplitsAreDisjoint(t *testing.T) {
	each(t, func(t *testing.T, task tasks.Task) {
		owner := map[string]string{}
		for _, split := range tasks.Splits {
			for seed := range uint64(3) {
				for _, p := range draw(t, task, 2000, seed, split) {
					if o := owner[p.Prompt]; o != "" && o != split {
						t.Fatalf("%q is in %s and %s", p.Prompt, o, split)
					}
					owner[p.Prompt] = split
				}
			}
		}
		if len(owner) < 20_000 { // of 24,000 draws: seeds rarely repeat one another
			t.Errorf("only %d different prompts", len(owner))
		}
	})
}

func TestRewardRange(t *testing.T) {
	each(t, func(t *testing.T, task tasks.Task) {
		prompts := draw(t, task, 200, 3, "test")
		for i, p := range prompts {
			for _, text := range []string{
				"", " ", "\n", p.Prompt, p.Reference, prompts[(i+1)%200].Reference, strings.Repeat(p.Reference, 50), "\xff", "日本",
				strings.Join(task.Words(), " "), strings.ToUpper(p.Reference),
			} {
				r := task.Reward(p.Prompt, text)
				if !(r >= 0 && r <= 1) {
					t.Fatalf("reward of %q for %q is %v", text, p.Prompt, r)
				}
				if padded := task.Reward(p.Prompt, " "+text+"\n"); padded != r {
					t.Fatalf("outer space changes the reward of %q from %v to %v", text, r, padded)
				}
			}
			if r := task.Reward(p.Prompt, task.Ideal(p.Prompt)); r != 1 {
				t.Fatalf("ideal answer %q to %q has reward %v", task.Ideal(p.Prompt), p.Prompt, r)
			}
		}
		for _, foreign := range []string{"", "What is the capital of France?", prompts[0].Prompt + " " + prompts[1].Prompt} {
			if r := task.Reward(foreign, "x"); !math.IsNaN(r) || task.Ideal(foreign) != "" {
				t.Errorf("%q is no prompt of the task, but has reward %v and ideal answer %q", foreign, r, task.Ideal(foreign))
			}
		}
	})
}

// Every word of the task is one token, so widths stay in the smallest buckets: 16 for prompts and ideal answers.
func TestTokenCounts(t *testing.T) {
	each(t, func(t *testing.T, task tasks.Task) {
		words := task.Words()
		if sorted := slices.Compact(slices.Sorted(slices.Values(words))); len(sorted) != len(words) {
			t.Errorf("%d words, %d of them different", len(words), len(sorted))
		}
		tok, err := tokenizer.FromWords(words)
		if err != nil {
			t.Fatal(err)
		}
		longest, mean := map[string]int{}, map[string]float64{}
		const n = 3000
		for _, p := range draw(t, task, n, 4, "sft") {
			for what, text := range map[string]string{"prompt": p.Prompt, "reference": p.Reference, "ideal": task.Ideal(p.Prompt)} {
				ids := tok.EncodePlain(text)
				for _, id := range ids {
					if w := strings.TrimSpace(tok.Decode([]int32{id})); !slices.Contains(words, w) {
						t.Fatalf("%q has a token %q, which is no word of the task", text, w)
					}
				}
				if tok.Decode(ids) != text {
					t.Fatalf("%q decodes to %q", text, tok.Decode(ids))
				}
				if what != "prompt" {
					ids = append(ids, tok.EOS())
				}
				longest[what] = max(longest[what], len(ids))
				mean[what] += float64(len(ids)) / n
			}
		}
		t.Logf("vocabulary %d; tokens, EOS included: longest %v, mean %v", tok.VocabSize(), longest, mean)
		if longest["prompt"] > 16 || longest["ideal"] > 16 || longest["reference"] > 20 {
			t.Errorf("longest %v, want at most 16, 16 and 20", longest)
		}
	})
}
