package sample

import "math/bits"

// philox is one block of Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011: "Parallel random numbers: as easy as 1, 2, 3").
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	const m0, m1, w0, w1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
	for range 10 {
		hi0, lo0 := bits.Mul32(m0, counter[0])
		hi1, lo1 := bits.Mul32(m1, counter[2])
		counter = [4]uint32{hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0}
		key[0] += w0
		key[1] += w1
	}
	return counter
}

// uniform is the number in [0, 1) that decides one token: a function of the seed, the prompt's key, the sample's index
// among the prompt's samples and the token's position in the completion, and of nothing else. It has 24 bits, so it is
// exact in float32; a token less likely than 2⁻²⁴ may never be drawn.
func uniform(seed, prompt uint64, sample, position int) float32 {
	word := philox([4]uint32{uint32(prompt), uint32(prompt >> 32), uint32(sample), uint32(position)}, [2]uint32{uint32(seed), uint32(seed >> 32)})[0]
	return float32(word>>8) / (1 << 24)
}
