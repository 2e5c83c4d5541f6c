package models

import "testing"

// Few widths: powers of two from 64.
func TestCoarseBucket(t *testing.T) {
	for n, want := range map[int]int{0: 64, 1: 64, 64: 64, 65: 128, 128: 128, 300: 512} {
		if got := CoarseBucket(n); got != want {
			t.Errorf("%d tokens: %d, want %d", n, got, want)
		}
	}
}
