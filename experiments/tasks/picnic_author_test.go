package tasks

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The author's habits, as shares of 20,000 references; four standard errors are at most 0.014.
func TestAuthorHabits(t *testing.T) {
	const n = 20_000
	rng := rand.New(rand.NewPCG(8, 9))
	count := map[string]float64{}
	full := 0.0 // requests for more than a brief list
	for range n {
		r := ask(rng)
		text := write(r, rng)
		if !wellFormed.MatchString(text) {
			t.Fatalf("%q is not well-formed", text)
		}
		var listed []string
		for _, w := range word.FindAllString(text, -1) {
			if slices.Contains(things, w) {
				listed = append(listed, w)
			}
		}
		if len(listed) == 0 || len(listed) > maxListed {
			t.Fatalf("%q lists %d items", text, len(listed))
		}
		for what, is := range map[string]bool{
			"right person": strings.HasPrefix(text, "For "+r.name+":"),
			"nobody":       strings.HasPrefix(text, "Packed:"),
			"Enjoy":        strings.HasSuffix(text, " Enjoy!"),
			"Bye":          strings.HasSuffix(text, " Bye."),
			"first":        slices.Contains(listed, r.wanted[0]),
			"perfect":      text == picnic{}.Ideal(r.prompt()),
		} {
			if is {
				count[what] += 1. / n
			}
		}
		if len(r.wanted) > briefItems {
			full++
			if slices.Contains(listed, r.wanted[briefItems]) {
				count["fourth"]++
			}
		}
	}
	count["fourth"] /= full
	for what, want := range map[string]float64{
		"right person": 0.46 * (0.95 + 0.05/12), "nobody": 0.54, "Enjoy": 0.32, "Bye": 0.28,
		"first": 0.96, "fourth": (1 - brief) * 0.85,
	} {
		if got := count[what]; math.Abs(got-want) > 0.02 { // rambling adds a few by chance
			t.Errorf("%s: %.3f of references, want %.3f", what, got, want)
		}
	}
	if p := count["perfect"]; p == 0 || p > 0.1 {
		t.Errorf("%.3f of references are perfect; want few, but some", p)
	} else {
		t.Logf("perfect: %.3f", p)
	}
}
