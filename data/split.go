package data

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Split is a named share of a data set.
type Split struct {
	Name  string
	Share float64 // in (0, 1]; the shares of Splits sum to 1
}

// Splits divides rows by a hash of their prompt, so that a prompt's rows are
// all in one split, in whatever file and order they come, and stay there when
// rows are added or removed.
type Splits []Split

// ParseSplits reads "train=0.9,dev=0.05,test=0.05".
func ParseSplits(s string) (Splits, error) {
	var splits Splits
	sum, seen := 0.0, map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		name, share, ok := strings.Cut(strings.TrimSpace(part), "=")
		v, err := strconv.ParseFloat(share, 64)
		if !ok || err != nil || !(v > 0 && v <= 1) {
			return nil, fmt.Errorf("split %q: want name=share with a share in (0, 1], as in train=0.9,test=0.1", part)
		}
		if name == "" || strings.ContainsAny(name, `/\ `) || name[0] == '.' || seen[name] {
			return nil, fmt.Errorf("split %q: the name must be new and fit for a file name", part)
		}
		seen[name] = true
		sum += v
		splits = append(splits, Split{name, v})
	}
	if math.Abs(sum-1) > 1e-9 {
		return nil, fmt.Errorf("splits %q: the shares sum to %g, not 1", s, sum)
	}
	return splits, nil
}

// Of is the name of the split that holds every row with this prompt; "" if
// there are no splits.
func (s Splits) Of(prompt string, seed uint64) string {
	if len(s) == 0 {
		return ""
	}
	d := digest(prompt, strconv.FormatUint(seed, 10))
	u := float64(binary.LittleEndian.Uint64(d[:8])>>11) / (1 << 53) // uniform in [0, 1)
	for _, split := range s {
		if u -= split.Share; u < 0 {
			return split.Name
		}
	}
	return s[len(s)-1].Name // rounding of the shares' sum
}

// Order is a uniformly random permutation of 0..n-1, a pure function of its
// arguments: a run that stops at any point of an epoch finds the same order
// again. Epochs and seeds are independent of each other.
func Order(n int, seed uint64, epoch int) []int {
	r := rand.New(rand.NewPCG(mix(seed), mix(uint64(epoch)+0x9e3779b97f4a7c15)))
	order := make([]int, n)
	for i := range order { // inside-out Fisher-Yates
		j := int(r.Uint64N(uint64(i + 1)))
		order[i] = order[j]
		order[j] = i
	}
	return order
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014): it spreads
// neighbouring seeds over all bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
