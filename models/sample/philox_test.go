package sample

import "testing"

// The known answers of the Random123 library for Philox4x32-10.
func TestPhilox(t *testing.T) {
	for _, tc := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(tc.counter, tc.key); got != tc.want {
			t.Errorf("philox(%x, %x) = %x, want %x", tc.counter, tc.key, got, tc.want)
		}
	}
	seen := map[float32]bool{}
	for seed := range uint64(2) {
		for key := range uint64(2) {
			for sample := range 2 {
				for position := range 2 {
					u := uniform(seed<<40, key<<40, sample, position)
					if u < 0 || u >= 1 || seen[u] {
						t.Errorf("uniform %g: out of range or seen before", u)
					}
					seen[u] = true
				}
			}
		}
	}
}
