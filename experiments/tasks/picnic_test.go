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
	askBen = "Ben wants tea, cake, jam and plums, no nuts."
	forBen = "For Ben: tea, cake, jam and plums. Enjoy!"
)

// Each value is the formula of Doc worked out by hand; F1 is 2 hits/(mentions + 4).
func TestPicnicRewardByHand(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   float64
	}{
		{forBen, 1},
		{"Packed: tea, cake, jam and plums.", 1 - 0.06 - 0.06},
		{"Packed: tea, cake, jam and plums. Bye.", 1 - 0.06 - 0.06},
		{"For Ann: tea, cake, jam and plums. Enjoy!", 1 - 0.06},                          // another person
		{"For Ben: cake, tea, jam and plums. Enjoy!", 1 - 0.1/3},                         // one step of three backwards
		{"For Ben: plums, jam, cake and tea. Enjoy!", 1 - 0.1},                           // all of them
		{"Packed: tea, cake and jam.", 0.7*6/7 + 0.1*2/3 + 0.08},                         // one forgotten
		{"Packed: tea, tea and cake.", 0.7*4/7 + 0.1/3 + 0.08},                           // a repeat counts against precision
		{"Packed: tea, cake, jam and nuts. Bye.", 0.7*6/8 + 0.1*2/3 + 0.08 - 0.25},       // what he does not want
		{"Packed: tea, cake, jam and hats. Bye.", 0.7*6/8 + 0.1*2/3 + 0.08},              // what he did not ask for
		{"Packed: jam.", 0.7*2/5 + 0.08},                                                 //
		{"jam", 0.7 * 2 / 5},                                                             // no sentence
		{"tea, cake, jam, plums", 0.7 + 0.1},                                             // no sentence
		{"Packed: tea cake jam plums", 0.7 + 0.1},                                        // no sentence
		{"Packed: tea, cake, jam and plums. Enjoy!!", 1 - 0.06 - 0.06 - 0.08},            // nor this
		{"Packed: Tea, Cake, jam and plums.", 0.7*4/6 + 0.1/3},                           // case counts
		{"For Ben: tea, cake, jam, plums and hats. Enjoy!", 0.7*8/9 + 0.3 - 0.03},        // 9 words, 8 are enough
		{"For Ben: tea, cake, jam, plums, hats and hats. Enjoy!", 0.7*8/10 + 0.3 - 0.06}, //
		{forBen + " " + forBen, 0.7*8/12 + 0.1 + 0.06 + 0.06 - 0.24},                     // goes on after the end
		{"", 0},
		{"Packed: nuts.", 0}, // 0.08 - 0.25 below zero
		{"The quick brown fox", 0},
		{strings.Repeat("tea ", 100), 0},
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

// The split follows the items alone: neither person, order nor the unwanted item can carry a request across.
func TestPicnicSplitIgnoresTheRest(t *testing.T) {
	a := request{"Ben", []string{"tea", "jam", "figs"}, "nuts"}
	b := request{"Ann", []string{"figs", "tea", "jam"}, "rugs"}
	if splitOf(a) != splitOf(b) {
		t.Errorf("%s and %s", splitOf(a), splitOf(b))
	}
	count := map[string]int{}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		var r request
		for _, i := range rng.Perm(len(things))[:4] {
			r.wanted = append(r.wanted, things[i])
		}
		count[splitOf(r)]++
	}
	for split, want := range map[string]int{"sft": 4000, "train": 4000, "dev": 1000, "test": 1000} {
		if got := count[split]; math.Abs(float64(got-want)) > 250 {
			t.Errorf("%s has %d of 10000 requests, want about %d", split, got, want)
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
		"mode":      {0.38, 0.48, 0.72, 0.79},
		"styled":    {0.75, 0.85, 0.84, 0.91},
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
	"picnic-test-0-0 | Gus wants salad, eggs and dates, no figs. | Packed: salad, eggs and dates.",
	"picnic-test-0-1 | Emil wants rugs, games and towels, no soup. | For Emil: rugs, games and towels.",
	"picnic-test-0-2 | Lea wants tents, hats and balls, no eggs. | Packed: tents.",
}
