package main

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// side is one of the two being compared, in one case.
type side struct {
	name string
	args []string
	proc *proc
	measured
}

// measured is what one side of one case gave.
type measured struct {
	Ready  reply                `json:"ready"`
	Runs   []map[string]float64 `json:"runs"` // seconds of each run, by part
	CPU    []float64            `json:"cpu"`  // processor seconds of each run, all threads
	PeakMB float64              `json:"peak_mb"`

	StartCPU float64 `json:"start_cpu"` // processor seconds until ready: loading, compilation, the first run
}

// total is the seconds of each run, summed over the given parts.
func (m *measured) total(parts ...string) []float64 {
	out := make([]float64, len(m.Runs))
	for i, run := range m.Runs {
		for _, p := range parts {
			out[i] += run[p]
		}
	}
	return out
}

// median of the values, 0 of none.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// speedup compares two sides round by round, so that a machine that slows down for a while slows both: the median over
// rounds of theirs/ours, and the lowest and the highest.
func speedup(ours, theirs []float64) (mid, low, high float64) {
	var ratios []float64
	for i := range min(len(ours), len(theirs)) {
		if ours[i] > 0 {
			ratios = append(ratios, theirs[i]/ours[i])
		}
	}
	if len(ratios) == 0 {
		return 0, 0, 0
	}
	return median(ratios), slices.Min(ratios), slices.Max(ratios)
}

// readBandwidth is the rate in GB/s at which all CPUs together read memory that no cache holds, the best pass of
// a second.
func readBandwidth() float64 {
	const words = 1 << 25 // 256 MB
	mem := make([]uint64, words)
	for i := range mem {
		mem[i] = uint64(i) // touched: an untouched page is not memory yet
	}
	n := runtime.NumCPU()
	best := 0.0
	var sink atomic.Uint64
	for begun := time.Now(); time.Since(begun) < time.Second; {
		var wg sync.WaitGroup
		start := time.Now()
		for i := range n {
			wg.Go(func() {
				part := mem[words/n*i : words/n*(i+1)]
				var a, b, c, d uint64 // independent sums: the additions must not be the limit
				for len(part) >= 8 {
					a += part[0] + part[4]
					b += part[1] + part[5]
					c += part[2] + part[6]
					d += part[3] + part[7]
					part = part[8:]
				}
				sink.Add(a + b + c + d)
			})
		}
		wg.Wait()
		best = max(best, 8*words/time.Since(start).Seconds()/1e9)
	}
	return best
}
