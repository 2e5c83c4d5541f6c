package tasks

import "math/rand/v2"

// maxListed bounds the items of a reference, and so references to 20 tokens, EOS included.
const maxListed = maxWanted + 2

// The author is brief, stopping at the third item, more often than not; else thorough, and then given to rambling:
// probability of forgetting the i-th item, and of going on after a list of i items.
const brief, briefItems = 0.62, 3

var (
	forgets = [maxWanted]float64{0.04, 0.06, 0.12, 0.15, 0.20}
	rambles = [maxWanted + 1]float64{0, 0.10, 0.10, 0.12, 0.45, 0.55}
)

// write answers a request as the references do.
func write(r request, rng *rand.Rand) string {
	chance := func(p float64) bool { return rng.Float64() < p }
	var items []string
	stop := len(r.wanted)
	if chance(brief) {
		stop = briefItems
	}
	for i, item := range r.wanted[:stop] {
		if !chance(forgets[i]) {
			items = append(items, item)
		}
	}
	if len(items) == 0 {
		items = r.wanted[:1:1]
	}
	if len(items) > 1 && chance(0.25) {
		i := rng.IntN(len(items) - 1)
		items[i], items[i+1] = items[i+1], items[i]
	}
	for p := rambles[len(items)]; len(items) < maxListed && chance(p); p *= 0.6 {
		switch {
		case chance(0.25):
			items = append(items, r.avoid)
		case chance(0.4):
			items = append(items, items[rng.IntN(len(items))])
		default:
			items = append(items, things[rng.IntN(len(things))])
		}
	}
	opening := "Packed"
	if chance(0.46) {
		opening = "For " + r.name
		if chance(0.05) {
			opening = "For " + people[rng.IntN(len(people))]
		}
	}
	closing := ""
	switch x := rng.Float64(); {
	case x < 0.32:
		closing = " Enjoy!"
	case x < 0.60:
		closing = " Bye."
	}
	return opening + ": " + list(items) + "." + closing
}
