package tasks

import (
	"math"
	"regexp"
	"slices"
	"strings"
)

var (
	oneThing = "(?:" + strings.Join(things, "|") + ")"
	aList    = oneThing + "(?:(?:, " + oneThing + ")* and " + oneThing + ")?"

	picnicPrompt = regexp.MustCompile(`^(` + strings.Join(people, "|") + `) visits the (\pL+)(?: with (\pL+))? for (\pL+)(?: in (\pL+))?, no (` + oneThing + `)\.$`)
	wellFormed   = regexp.MustCompile(`^(?:Packed|For (?:` + strings.Join(people, "|") + `)): ` + aList + `\.(?: Enjoy!| Bye\.)?$`)
	word         = regexp.MustCompile(`\pL+`)
)

func parsePicnic(prompt string) (request, bool) {
	m := picnicPrompt.FindStringSubmatch(strings.TrimSpace(prompt))
	if m == nil {
		return request{}, false
	}
	r := request{name: m[1], avoid: m[6]}
	for _, slot := range []struct {
		into *need
		from []need
		word string
	}{{&r.place, places, m[2]}, {&r.with, company, m[3]}, {&r.meal, meals, m[4]}, {&r.in, weather, m[5]}} {
		i := slices.IndexFunc(slot.from, func(n need) bool { return n.word == slot.word })
		switch {
		case i >= 0:
			*slot.into = slot.from[i]
		case slot.word != "":
			return request{}, false
		}
	}
	return r.complete(), true
}

// reward is the formula of Doc. Its parts look at the text only, so any string has a reward.
func (r request) reward(text string) float64 {
	text = strings.TrimSpace(text)
	words := word.FindAllString(text, -1)
	mentions, avoided := 0, true
	var hits []int // positions in the request of the wanted items, in the order of their first mention
	for _, w := range words {
		if !slices.Contains(things, w) {
			continue
		}
		mentions++
		if i := slices.Index(r.wanted, w); i >= 0 && !slices.Contains(hits, i) {
			hits = append(hits, i)
		}
		avoided = avoided && w != r.avoid
	}
	// F1 with precision hits/mentions and recall hits/wanted.
	total := 0.7 * 2 * float64(len(hits)) / float64(mentions+len(r.wanted))
	total += 0.1 * inOrder(hits, len(r.wanted))
	if strings.HasPrefix(text, "For "+r.name+":") {
		total += 0.06
	}
	if strings.HasSuffix(text, " Enjoy!") {
		total += 0.06
	}
	if wellFormed.MatchString(text) {
		total += 0.08
	}
	if !avoided {
		total -= 0.25
	}
	// A perfect answer has "For", the name, the items, "and" and "Enjoy".
	total -= 0.03 * float64(max(0, len(words)-(len(r.wanted)+4)))
	return math.Round(min(max(total, 0), 1)*1e6) / 1e6 // sums of equal parts are equal, whatever their order
}

// inOrder is the share of the wanted-1 possible steps between neighbouring hits that go forward in the request.
func inOrder(hits []int, wanted int) float64 {
	forward := 0
	for i := 1; i < len(hits); i++ {
		if hits[i] > hits[i-1] {
			forward++
		}
	}
	return float64(forward) / float64(wanted-1)
}
