package tasks

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"gobpo/data"
)

// picnic asks for a packing list:
//
//	Ben wants tea, cake, jam, milk and plums, no nuts.
//	For Ben: tea, cake, jam, milk and plums. Enjoy!
//
// The references imitate a hasty author (see write). What they get wrong is chosen so that preference learning has
// work of every kind: habits that one step of it can change (greeting, farewell), completeness that makes answers
// longer, and a trap: the author rambles mostly after long lists, so data sampled from an imitator says little
// about where to stop once lists have grown, and a policy that only learns "longer is better" runs past the optimum.
type picnic struct{}

// A request has minWanted to maxWanted items, so that prompts fit 16 tokens and an ideal answer with its EOS does.
const minWanted, maxWanted = 3, 5

var (
	people = []string{"Ann", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ida", "Jon", "Kim", "Lea"}
	things = []string{
		"tea", "cake", "jam", "milk", "plums", "nuts", "bread", "cheese", "eggs", "figs", "rice", "soup", "salad",
		"pears", "grapes", "dates", "honey", "juice", "cups", "forks", "plates", "rugs", "hats", "balls", "kites",
		"books", "maps", "games", "towels", "lamps", "ropes", "tents",
	}
	grammar = []string{"wants", "and", "no", "Packed", "For", "Enjoy", "Bye", ",", ".", ":", "!"}
)

func (picnic) Name() string { return "picnic" }

func (picnic) Doc() string {
	return "Pack what a person wants. Reward: 0.7 F1 of the items listed (repeats and items not wanted count against it)" +
		" + 0.1 order of the request kept + 0.06 addressed to the person (For Ben:) + 0.06 ends with Enjoy!" +
		" + 0.08 well-formed sentence - 0.25 if the unwanted item is in - 0.03 per word more than a perfect answer has."
}

func (picnic) Words() []string { return slices.Concat(grammar, people, things) }

// request is the content of a prompt.
type request struct {
	name   string
	wanted []string // in the order of the prompt
	avoid  string
}

func (r request) prompt() string {
	return fmt.Sprintf("%s wants %s, no %s.", r.name, list(r.wanted), r.avoid)
}

// list joins items as in "tea, cake and jam".
func list(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	last := len(items) - 1
	return strings.Join(items[:last], ", ") + " and " + items[last]
}

func (picnic) Prompts(n int, seed uint64, split string) ([]data.Prompt, error) {
	if err := checkSplit(split); err != nil {
		return nil, err
	}
	if n < 0 || n > 1_000_000 { // of some 10^8 there are
		return nil, fmt.Errorf("picnic: cannot draw %d prompts; the most is 1000000", n)
	}
	rng := rand.New(rand.NewPCG(seed, 0x706963))
	out := make([]data.Prompt, 0, n)
	seen := make(map[string]bool, n)
	for len(out) < n {
		perm := rng.Perm(len(things))
		k := minWanted + rng.IntN(maxWanted-minWanted+1)
		r := request{name: people[rng.IntN(len(people))], avoid: things[perm[k]]}
		for _, i := range perm[:k] {
			r.wanted = append(r.wanted, things[i])
		}
		prompt, reference := r.prompt(), write(r, rng)
		if splitOf(r) != split || seen[prompt] {
			continue
		}
		seen[prompt] = true
		out = append(out, data.Prompt{
			ID: fmt.Sprintf("picnic-%s-%d-%d", split, seed, len(out)), Prompt: prompt, Reference: reference,
		})
	}
	return out, nil
}

// splitOf hashes the set of items wanted, so not even a reordered request, or another person's, crosses splits:
// 40 % each for sft and train, 10 % each for dev and test.
func splitOf(r request) string {
	h := fnv.New64a()
	for _, item := range slices.Sorted(slices.Values(r.wanted)) {
		h.Write([]byte(item + "\n"))
	}
	switch x := (h.Sum64() >> 32) % 10; {
	case x < 4:
		return "sft"
	case x < 8:
		return "train"
	case x < 9:
		return "dev"
	}
	return "test"
}

// maxListed bounds the items of a reference, and so references to 20 tokens, EOS included.
const maxListed = maxWanted + 2

// The hasty author: probability of forgetting the i-th item, and of going on after a list of i items.
var (
	forgets = [maxWanted]float64{0.04, 0.06, 0.20, 0.52, 0.52}
	rambles = [maxWanted + 1]float64{0, 0.10, 0.10, 0.15, 0.45, 0.55}
)

// write answers a request as the references do.
func write(r request, rng *rand.Rand) string {
	chance := func(p float64) bool { return rng.Float64() < p }
	var items []string
	for i, item := range r.wanted {
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
	if chance(0.4) {
		opening = "For " + r.name
		if chance(0.05) {
			opening = "For " + people[rng.IntN(len(people))]
		}
	}
	closing := ""
	switch x := rng.Float64(); {
	case x < 0.22:
		closing = " Enjoy!"
	case x < 0.50:
		closing = " Bye."
	}
	return opening + ": " + list(items) + "." + closing
}

func (picnic) Ideal(prompt string) string {
	r, ok := parsePicnic(prompt)
	if !ok {
		return ""
	}
	return fmt.Sprintf("For %s: %s. Enjoy!", r.name, list(r.wanted))
}

func (picnic) Reward(prompt, completion string) float64 {
	r, ok := parsePicnic(prompt)
	if !ok {
		return math.NaN()
	}
	return r.reward(completion)
}
