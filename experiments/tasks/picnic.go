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
//	Ben visits the lake with kids for lunch in rain, no eggs.
//	For Ben: boats, towels, kites, bread and coats. Enjoy!
//
// What to pack follows from the words of the request (see needs), so a small model learns it as a lookup, which takes
// a few hundred steps; copying arbitrary words from the prompt would take thousands.
//
// The references imitate a hasty author (see write). What they get wrong is chosen so that preference learning has
// work of every kind: habits that one step of it can change (greeting, farewell), completeness that makes answers
// longer, and a trap: the author rambles mostly after long lists, so data sampled from an imitator says little
// about where to stop once lists have grown, and a policy that only learns "longer is better" runs past the optimum.
type picnic struct{}

// A request has minWanted to maxWanted items, so that prompts fit 16 tokens and an ideal answer with its EOS does.
const minWanted, maxWanted = 3, 5

// need is a word of a request and the items it calls for.
type need struct {
	word  string
	items []string
}

// needs are the words that can stand in each of the four places of a request; company and weather may be left out.
var places, company, meals, weather = []need{
	{"lake", []string{"boats", "towels"}}, {"beach", []string{"hats", "spades"}}, {"park", []string{"balls", "rugs"}},
	{"hills", []string{"boots", "maps"}}, {"farm", []string{"gloves", "baskets"}}, {"woods", []string{"tents", "ropes"}},
	{"river", []string{"rods", "nets"}}, {"castle", []string{"books", "lamps"}}, {"garden", []string{"chairs", "seeds"}},
	{"island", []string{"sails", "knives"}},
}, []need{
	{"kids", []string{"kites"}}, {"friends", []string{"games"}}, {"dogs", []string{"bones"}}, {"parents", []string{"cards"}},
	{"cousins", []string{"drums"}}, {"babies", []string{"milk"}}, {"students", []string{"pens"}}, {"twins", []string{"dolls"}},
}, []need{
	{"breakfast", []string{"eggs"}}, {"lunch", []string{"bread"}}, {"tea", []string{"cakes"}}, {"supper", []string{"soup"}},
	{"dinner", []string{"rice"}}, {"brunch", []string{"plums"}}, {"snacks", []string{"nuts"}}, {"dessert", []string{"figs"}},
}, []need{
	{"rain", []string{"coats"}}, {"sun", []string{"lotion"}}, {"wind", []string{"scarves"}}, {"snow", []string{"sleds"}},
	{"fog", []string{"torches"}}, {"heat", []string{"water"}},
}

var (
	people  = []string{"Ann", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ida", "Jon", "Kim", "Lea"}
	grammar = []string{"visits", "the", "with", "for", "in", "no", "and", "Packed", "For", "Enjoy", "Bye", ",", ".", ":", "!"}
	things  = func() (all []string) {
		for _, n := range slices.Concat(places, company, meals, weather) {
			all = append(all, n.items...)
		}
		return all
	}()
)

func (picnic) Name() string { return "picnic" }

func (picnic) Doc() string {
	return "Pack what a visit calls for: two things for the place and one each for company, meal and weather. Reward: 0.7 F1 of the items listed (repeats and items not wanted count against it)" +
		" + 0.1 order of the request kept + 0.06 addressed to the person (For Ben:) + 0.06 ends with Enjoy!" +
		" + 0.08 well-formed sentence - 0.25 if the unwanted item is in - 0.03 per word more than a perfect answer has."
}

func (picnic) Words() []string {
	words := slices.Concat(grammar, people, things)
	for _, n := range slices.Concat(places, company, meals, weather) {
		words = append(words, n.word)
	}
	return words
}

// request is the content of a prompt.
type request struct {
	name        string
	place, meal need
	with, in    need     // company and weather; no word = not mentioned
	wanted      []string // the items they call for, in the order of the prompt
	avoid       string
}

func (r request) complete() request {
	r.wanted = slices.Concat(r.place.items, r.with.items, r.meal.items, r.in.items)
	return r
}

func (r request) prompt() string {
	text := r.name + " visits the " + r.place.word
	if r.with.word != "" {
		text += " with " + r.with.word
	}
	text += " for " + r.meal.word
	if r.in.word != "" {
		text += " in " + r.in.word
	}
	return text + ", no " + r.avoid + "."
}

// ask draws a request, of each size equally often.
func ask(rng *rand.Rand) request {
	r := request{
		name:  people[rng.IntN(len(people))],
		place: places[rng.IntN(len(places))], with: company[rng.IntN(len(company))],
		meal: meals[rng.IntN(len(meals))], in: weather[rng.IntN(len(weather))],
	}
	size, either := minWanted+rng.IntN(maxWanted-minWanted+1), rng.IntN(2)
	if size == minWanted || size < maxWanted && either == 0 {
		r.with = need{}
	}
	if size == minWanted || size < maxWanted && either == 1 {
		r.in = need{}
	}
	r = r.complete()
	for r.avoid == "" || slices.Contains(r.wanted, r.avoid) {
		r.avoid = things[rng.IntN(len(things))]
	}
	return r
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
	if n < 0 || n > 20_000 { // a tenth of all is in the smaller splits, some 200,000
		return nil, fmt.Errorf("picnic: cannot draw %d prompts; the most is 20000", n)
	}
	rng := rand.New(rand.NewPCG(seed, 0x706963))
	out := make([]data.Prompt, 0, n)
	seen := make(map[string]bool, n)
	for len(out) < n {
		r := ask(rng)
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

// splitOf hashes what is asked for, so the same request by another person, or with another unwanted item, stays in its
// split: 40 % each for sft and train, 10 % each for dev and test, of 5,040 combinations.
func splitOf(r request) string {
	h := fnv.New64a()
	for _, n := range []need{r.place, r.with, r.meal, r.in} {
		h.Write([]byte(n.word + "\n"))
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
