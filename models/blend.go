package models

import (
	"fmt"
	"math"
	"runtime"
	"sync"
)

// Over gives the weights of a base with the adapter folded in: W + scale·BA.
func (a *Adapter) Over(base Reader) Reader {
	return func(name string, flat []float32) error {
		if own := a.Weights[name]; own != nil { // a reward model's head
			return own.ConstFlatData(func(all any) { copy(flat, all.([]float32)) })
		}
		if err := base(name, flat); err != nil {
			return err
		}
		if nameA, _ := loraNames(name); a.Weights[nameA] == nil {
			return nil
		}
		f, err := a.factors(moduleOf(name))
		if err != nil {
			return fmt.Errorf("fold %s: %w", name, err)
		}
		f.addTo(flat, storedTransposed(name))
		return nil
	}
}

// addTo adds scale·BA to a weight [out, in], or [in, out] if it is transposed.
func (f factors) addTo(flat []float32, transposed bool) {
	parallel(f.out, func(from, to int) {
		row := make([]float32, f.in)
		for o := from; o < to; o++ {
			clear(row)
			for r := range f.rank {
				b := float32(f.scale * float64(f.b[o*f.rank+r]))
				for i, v := range f.a[r*f.in : (r+1)*f.in] {
					row[i] += b * v
				}
			}
			if !transposed {
				for i, v := range row {
					flat[o*f.in+i] += v
				}
				continue
			}
			for i, v := range row {
				flat[i*f.out+o] += v
			}
		}
	})
}

// Average gives Σ wᵢ·θᵢ: the mean of models for wᵢ = 1/n, (1−α)·θ₀ + α·θ₁ for an EMA's step, and θ₁ + α·(θ₁ − θ₀), with
// weights −α and 1+α, for extrapolation (ExPO, Zheng et al. 2024). It holds one more tensor.
func Average(models []Reader, weights []float64) Reader {
	return func(name string, flat []float32) error {
		sum, part := make([]float64, len(flat)), make([]float32, len(flat))
		for m, read := range models {
			if err := read(name, part); err != nil {
				return err
			}
			for i, v := range part {
				sum[i] += weights[m] * float64(v)
			}
		}
		for i, v := range sum {
			flat[i] = float32(v)
		}
		return nil
	}
}

// TIES says how to merge models by trimming, electing signs and disjoint merging (Yadav et al. 2023).
type TIES struct {
	Density float64   // share of each tensor's numbers that a model keeps of its delta, in (0, 1]; the rest becomes 0
	Weights []float64 // of the models
	Scale   float64   // λ, of the merged delta
}

// Merge gives θ + λ·δ: of every model's delta θᵢ − θ only the largest Density of each tensor stays, the sign of Σ wᵢδᵢ is
// elected, and δ is the mean, weighted by wᵢ, of those δᵢ ≠ 0 that have it. With equal weights that is PEFT's
// merge_utils.ties with weights of 1. It holds one tensor of each model at a time.
func (t TIES) Merge(base Reader, models []Reader) Reader {
	return func(name string, flat []float32) error {
		if err := base(name, flat); err != nil {
			return err
		}
		deltas := make([][]float32, len(models))
		for m, read := range models {
			d := make([]float32, len(flat))
			if err := read(name, d); err != nil {
				return err
			}
			for i := range d {
				d[i] -= flat[i]
			}
			trim(d, int(t.Density*float64(len(d))))
			deltas[m] = d
		}
		for i := range flat {
			sign := 0.0
			for m, d := range deltas {
				sign += t.Weights[m] * float64(d[i])
			}
			sum, weight := 0.0, 0.0
			for m, d := range deltas {
				if v := float64(d[i]); v != 0 && (v > 0) == (sign >= 0) {
					sum += t.Weights[m] * v
					weight += t.Weights[m]
				}
			}
			if weight > 0 {
				flat[i] += float32(t.Scale * sum / weight)
			}
		}
		return nil
	}
}

// trim sets all but the k numbers of largest magnitude to 0; of equal ones the first stay. Magnitudes of float32 are in
// the order of their bits, so counting the upper and then the lower halves finds the smallest that stays, unsorted.
func trim(x []float32, k int) {
	if k >= len(x) {
		return
	}
	bits := func(v float32) uint32 { return math.Float32bits(v) &^ (1 << 31) }
	left := k // how many of those counted stay
	find := func(counts []int) (at uint32) {
		for at = uint32(len(counts) - 1); at > 0 && counts[at] < left; at-- {
			left -= counts[at]
		}
		return at
	}
	counts := make([]int, 1<<16)
	for _, v := range x {
		counts[bits(v)>>16]++
	}
	upper := find(counts)
	clear(counts)
	for _, v := range x {
		if b := bits(v); b>>16 == upper {
			counts[b&0xffff]++
		}
	}
	least := upper<<16 | find(counts)
	for i, v := range x {
		switch b := bits(v); {
		case b < least || b == least && left == 0:
			x[i] = 0
		case b == least:
			left--
		}
	}
}

// parallel cuts 0…n into a piece for each CPU.
func parallel(n int, work func(from, to int)) {
	var wait sync.WaitGroup
	step := (n + runtime.NumCPU() - 1) / runtime.NumCPU()
	for from := 0; from < n; from += step {
		wait.Go(func() { work(from, min(from+step, n)) })
	}
	wait.Wait()
}
