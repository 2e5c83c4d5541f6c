package tasks

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	askBen = "Ben visits the lake with kids for lunch, no eggs."
	forBen = "For Ben: boats, towels, kites and bread. Enjoy!"
)

// Each value is the formula of Doc worked out by hand; F1 is 2 hits/(mentions + 4).
func TestPicnicRewardByHand(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   float64
	}{
		{forBen, 1},
		{"Packed: boats, towels, kites and bread.", 1 - 0.06 - 0.06},
		{"Packed: boats, towels, kites and bread. Bye.", 1 - 0.06 - 0.06},
		{"For Ann: boats, towels, kites and bread. Enjoy!", 1 - 0.06},                          // another person
		{"For Ben: towels, boats, kites and bread. Enjoy!", 1 - 0.1/3},                         // one step of three backwards
		{"For Ben: bread, kites, towels and boats. Enjoy!", 1 - 0.1},                           // all of them
		{"Packed: boats, towels and kites.", 0.7*6/7 + 0.1*2/3 + 0.08},                         // one forgotten
		{"Packed: boats, boats and towels.", 0.7*4/7 + 0.1/3 + 0.08},                           // a repeat counts against precision
		{"Packed: boats, towels, kites and eggs. Bye.", 0.7*6/8 + 0.1*2/3 + 0.08 - 0.25},       // what he does not want
		{"Packed: boats, towels, kites and hats. Bye.", 0.7*6/8 + 0.1*2/3 + 0.08},              // what he did not ask for
		{"Packed: kites.", 0.7*2/5 + 0.08},                                                     //
		{"kites", 0.7 * 2 / 5},                                                                 // no sentence
		{"boats, towels, kites, bread", 0.7 + 0.1},                                             // no sentence
		{"Packed: boats towels kites bread", 0.7 + 0.1},                                        // no sentence
		{"Packed: boats, towels, kites and bread. Enjoy!!", 1 - 0.06 - 0.06 - 0.08},            // nor this
		{"Packed: Boats, Towels, kites and bread.", 0.7*4/6 + 0.1/3},                           // case counts
		{"For Ben: boats, towels, kites, bread and hats. Enjoy!", 0.7*8/9 + 0.3 - 0.03},        // 9 words, 8 are enough
		{"For Ben: boats, towels, kites, bread, hats and hats. Enjoy!", 0.7*8/10 + 0.3 - 0.06}, //
		{forBen + " " + forBen, 0.7*8/12 + 0.1 + 0.06 + 0.06 - 0.24},                           // goes on after the end
		{"", 0},
		{"Packed: eggs.", 0}, // 0.08 - 0.25 below zero
		{"The quick brown fox", 0},
		{strings.Repeat("boats ", 100), 0},
	} {
		if got := (picnic{}).Reward(askBen, c.answer); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%q: %v, want %.6f", c.answer, got, c.want)
		}
	}
}

func TestPicnicParsesItsPrompts(t *testing.T) {
	for _, split := range Splits {
		prompts, err := picnic{}.Prompts(500, 9, split)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range prompts {
			r, ok := parsePicnic(p.Prompt)
			if !ok || r.prompt() != p.Prompt || splitOf(r) != split {
				t.Fatalf("%q of %s parsed as %+v (%v), split %s", p.Prompt, split, r, ok, splitOf(r))
			}
			if k := len(r.wanted); k < minWanted || k > maxWanted || slices.Contains(r.wanted, r.avoid) {
				t.Fatalf("%q: %d items, or it wants what it does not want", p.Prompt, k)
			}
			if !wellFormed.MatchString(p.Reference) {
				t.Fatalf("reference %q is not well-formed", p.Reference)
			}
		}
	}
}

// The split follows what is asked for: neither person nor unwanted item can carry a request across.
func TestPicnicSplitIgnoresTheRest(t *testing.T) {
	a, _ := parsePicnic("Ben visits the lake with kids for lunch, no eggs.")
	b, ok := parsePicnic("Ann visits the lake with kids for lunch, no rugs.")
	if !ok || splitOf(a) != splitOf(b) {
		t.Errorf("%s and %s", splitOf(a), splitOf(b))
	}
	count := map[string]int{} // over all 5,040 combinations
	for _, place := range places {
		for _, with := range append(company, need{}) {
			for _, meal := range meals {
				for _, in := range append(weather, need{}) {
					count[splitOf(request{place: place, with: with, meal: meal, in: in})]++
				}
			}
		}
	}
	for split, want := range map[string]int{"sft": 2016, "train": 2016, "dev": 504, "test": 504} {
		if got := count[split]; math.Abs(float64(got-want)) > 120 {
			t.Errorf("%s has %d combinations, want about %d", split, got, want)
		}
	}
}

// Each thing is called for by one word, and no word has two meanings, so what is wanted is never in doubt.
func TestPicnicWordsAreUnambiguous(t *testing.T) {
	words := picnic{}.Words()
	if unique := slices.Compact(slices.Sorted(slices.Values(words))); len(unique) != len(words) {
		t.Errorf("%d words, %d different", len(words), len(unique))
	}
	r, ok := parsePicnic("Ben visits the lake with kids for lunch in rain, no eggs.")
	if got := fmt.Sprint(r.wanted); !ok || got != "[boats towels kites bread coats]" {
		t.Errorf("got %s", got)
	}
	for _, broken := range []string{
		"Ben visits the lake, no eggs.", "Ben visits the lake with rain for lunch, no eggs.", "Ben visits lunch for lake, no eggs.",
		"Bob visits the lake for lunch, no eggs.", "Ben visits the lake for lunch, no elephants.", "Ben visits the lake for lunch.",
	} {
		if _, ok := parsePicnic(broken); ok {
			t.Errorf("%q was taken for a prompt", broken)
		}
	}
}

// Golden rows: a run's data must not change under it.
func TestPicnicGolden(t *testing.T) {
	prompts, err := picnic{}.Prompts(3, 0, "test")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range goldenRows {
		if got := fmt.Sprint(prompts[i].ID, " | ", prompts[i].Prompt, " | ", prompts[i].Reference); got != want {
			t.Errorf("row %d:\n got %s\nwant %s", i, got, want)
		}
	}
}

func TestPicnicNothingBeatsTheIdeal(t *testing.T) {
	vocabulary := picnic{}.Words()
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(vocabulary), 0, 30).Draw(t, "words"), " ")
		if r := (picnic{}).Reward(askBen, text); r < 0 || r >= 1 {
			t.Fatalf("%q has reward %v", text, r)
		}
	})
}

// TestPicnicIsGradedAsDocumented measures what the quickstart relies on, over 5,000 test prompts.
func TestPicnicIsGradedAsDocumented(t *testing.T) {
	prompts, err := picnic{}.Prompts(5000, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	type sums struct{ win, tie, mean float64 }
	got := map[string]*sums{}
	for _, p := range prompts {
		r, _ := parsePicnic(p.Prompt)
		extra := func(n int) string { // the ideal answer with n things that nobody wants
			items := slices.Clone(r.wanted)
			for _, i := range rng.Perm(len(things)) {
				if !slices.Contains(r.wanted, things[i]) && things[i] != r.avoid && len(items) < len(r.wanted)+n {
					items = append(items, things[i])
				}
			}
			return fmt.Sprintf("For %s: %s. Enjoy!", r.name, list(items))
		}
		random := make([]string, 10)
		for i := range random {
			random[i] = things[rng.IntN(len(things))]
		}
		reference := r.reward(p.Reference)
		for name, answer := range map[string]string{
			"imitation": write(r, rng),                                                    // a perfect imitator at temperature 1
			"mode":      "Packed: " + list(r.wanted[:3]) + ".",                            // about what its greedy answer is
			"styled":    "For " + r.name + ": " + list(r.wanted[:3]) + ". Enjoy!",         // the two habits learned
			"complete":  "Packed: " + list(r.wanted) + ".",                                // nothing forgotten
			"forbidden": "Packed: " + list(append(slices.Clone(r.wanted), r.avoid)) + ".", // too eager
			"ideal":     picnic{}.Ideal(p.Prompt), "+1": extra(1), "+2": extra(2), "+4": extra(4), "+8": extra(8),
			"random": strings.Join(random, " "), "empty": "",
		} {
			s := got[name]
			if s == nil {
				s = &sums{}
				got[name] = s
			}
			v := r.reward(answer)
			s.mean += v / float64(len(prompts))
			switch {
			case v == reference:
				s.tie += 1 / float64(len(prompts))
				s.win += 0.5 / float64(len(prompts))
			case v > reference:
				s.win += 1 / float64(len(prompts))
			}
		}
	}
	for name, want := range map[string][4]float64{ // win rate against the reference and mean reward, from and to
		"imitation": {0.47, 0.53, 0.74, 0.78},
		"mode":      {0.36, 0.45, 0.72, 0.79},
		"styled":    {0.80, 0.88, 0.84, 0.91},
		"complete":  {0.74, 0.84, 0.88, 0.88},
		"forbidden": {0.00, 0.30, 0.50, 0.62},
		"ideal":     {0.98, 1, 1, 1},
		"+1":        {0.70, 0.84, 0.85, 0.93},
		"+2":        {0.45, 0.62, 0.74, 0.83},
		"+4":        {0.08, 0.30, 0.55, 0.68},
		"+8":        {0.00, 0.03, 0.30, 0.46},
		"random":    {0.00, 0.01, 0.00, 0.20},
		"empty":     {0, 0.001, 0, 0},
	} {
		s := got[name]
		t.Logf("%-9s wins %.3f of references (ties %.3f), mean reward %.3f", name, s.win, s.tie, s.mean)
		if s.win < want[0] || s.win > want[1] || s.mean < want[2]-1e-9 || s.mean > want[3]+1e-9 {
			t.Errorf("%s: win rate %.3f, mean %.3f, want within %v", name, s.win, s.mean, want)
		}
	}
	if tie := got["imitation"].tie; tie > 0.1 {
		t.Errorf("two noisy answers tie in %.3f of prompts; preferences should be informative", tie)
	}
}

var goldenRows = []string{
	"picnic-test-0-0 | Carl visits the beach with twins for brunch in sun, no cards. | For Carl: spades, hats, dolls and dolls.",
	"picnic-test-0-1 | Carl visits the garden with friends for brunch in snow, no figs. | Packed: chairs, seeds, games and plums. Enjoy!",
	"picnic-test-0-2 | Carl visits the farm with twins for supper in sun, no bread. | For Carl: gloves, baskets and dolls. Enjoy!",
}
