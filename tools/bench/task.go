package main

import (
	"encoding/json"
	"fmt"

	"gobpo/models"
)

// task is one thing that both sides do; it travels to them as JSON.
type task struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // train | sample | matmul

	Pairs      int   `json:"pairs,omitempty"` // train: preference pairs a step
	Batch      int   `json:"batch,omitempty"` // sample: sequences at a time
	Prompt     int   `json:"prompt,omitempty"`
	Completion int   `json:"completion,omitempty"` // train: tokens of each of a pair's two; sample: new tokens
	Folded     bool  `json:"folded,omitempty"`     // sample: adapter folded into the dense weights first (PEFT: merged)
	Sizes      []int `json:"sizes,omitempty"`      // matmul: n of [n,n]·[n,n]

	Rank    int           `json:"rank"`
	Alpha   float64       `json:"alpha"`
	Model   string        `json:"model"`
	Config  models.Config `json:"config"`
	Backend string        `json:"backend"`
}

// tasks lists the cases; quick ones are those whose numbers are quoted most.
func tasks(quick bool) []task {
	list := []task{{Name: "matmul", Kind: "matmul", Sizes: []int{1024, 1536, 2048}}}
	for _, r := range []int{64, 128} {
		if quick && r != 64 {
			continue
		}
		list = append(list, task{Name: fmt.Sprintf("train 4 pairs 64+%d", r), Kind: "train", Pairs: 4, Prompt: 64, Completion: r})
	}
	for _, folded := range []bool{true, false} {
		if quick && !folded {
			continue
		}
		name := map[bool]string{true: "merged", false: "adapter"}[folded]
		for _, b := range []int{1, 8, 32} {
			list = append(list, task{Name: fmt.Sprintf("sample %s batch %d", name, b), Kind: "sample", Batch: b, Prompt: 64, Completion: 64, Folded: folded})
		}
	}
	for i := range list {
		list[i].Rank, list[i].Alpha = 16, 32
	}
	return list
}

func (t task) json() string {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // plain fields
	}
	return string(text)
}

// tokens are fixed ids [rows][width] that look random and avoid the special ones; peer.py makes the same.
func (t task) tokens(rows, width, salt int) [][]int32 {
	out := make([][]int32, rows)
	span := uint64(t.Config.VocabSize - 100)
	for i := range out {
		out[i] = make([]int32, width)
		for j := range out[i] {
			x := uint64(salt<<20+i*width+j) * 2654435761 % (1 << 32)
			out[i][j] = int32(100 + x%span)
		}
	}
	return out
}

// count is how many tokens a run is credited with, alike for both sides. A training step counts each pair as the peer
// lays it out, two sequences of prompt and completion; sampling counts new tokens.
func (t task) count() int {
	if t.Kind == "train" {
		return t.Pairs * 2 * (t.Prompt + t.Completion)
	}
	return t.Batch * t.Completion
}

// flops is what one training step of ours needs, in floating-point operations (a multiply-add is two): the gradient
// step, and the reference's forward pass if there is one. With N linear weights in the blocks, A in the adapter,
// V·H in the vocabulary matrix, s = P + 2R computed positions and 2R predicting ones a pair, and L·h·d the attention's
// width over all layers:
//
//	learn     = pairs · [ s·(4N + 6A) + 2R·4VH + 3·4·L·h·d·(P² + 2R(P + R)) ]
//	reference = pairs · [ s·(2N + 2A) + 2R·2VH +   4·L·h·d·(P² + 2R(P + R)) ]
//
// The base is frozen, so its backward pass has no weight gradient (4N, not 6N). Attention counts masked places too;
// norms, activations, softmax and the optimizer are left out.
func (t task) flops() (learn, reference float64) {
	c, p, r := t.Config, float64(t.Prompt), float64(t.Completion)
	n, a := 0.0, 0.0
	for _, l := range c.Linears() {
		n += float64(l.In) * float64(l.Out)
		a += float64(t.Rank) * float64(l.In+l.Out)
	}
	vocab := float64(c.VocabSize) * float64(c.HiddenSize)
	attention := 4 * float64(c.NumLayers*c.NumHeads*c.HeadDim) * (p*p + 2*r*(p+r))
	pairs, s := float64(t.Pairs), p+2*r
	return pairs * (s*(4*n+6*a) + 2*r*4*vocab + 3*attention), pairs * (s*(2*n+2*a) + 2*r*2*vocab + attention)
}

// decodeBytes is the memory that one decoding step cannot avoid reading, float32: the blocks' weights, the vocabulary
// matrix, the adapter unless folded, and the keys and values of the mean length.
func (t task) decodeBytes() float64 {
	c := t.Config
	n := c.VocabSize*c.HiddenSize + (2*c.NumLayers+1)*c.HiddenSize
	for _, l := range c.Linears() {
		n += l.In * l.Out
		if !t.Folded {
			n += t.Rank * (l.In + l.Out)
		}
	}
	n += t.Batch * (t.Prompt + t.Completion/2) * 2 * c.NumLayers * c.NumKVHeads * c.HeadDim
	return 4 * float64(n)
}
