package models

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Scorer computes completion log-probs under any policy of one architecture, from host slices to host slices.
// Safe for concurrent use.
type Scorer struct {
	backend compute.Backend
	config  Config
	bucket  func(int) int
	Replicas
	mu    sync.Mutex
	execs map[string]*Exec // by LoRA.Key
}

// NewScorer scores with bucket as the padding rule; nil is Bucket.
func NewScorer(b compute.Backend, c Config, bucket func(int) int) *Scorer {
	if bucket == nil {
		bucket = Bucket
	}
	return &Scorer{backend: b, config: c, bucket: bucket, execs: map[string]*Exec{}}
}

// exec is the compiled function of a key, [batch, …] float32 from the base, the adapter and PackRows's inputs.
func (s *Scorer) exec(key string, fn func(sets []NodeSet, in []*graph.Node) *graph.Node) *Exec {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.execs[key]
	if !ok {
		e = NewExec(s.backend, "score", func(sets []NodeSet, in []*graph.Node) ([]NodeSet, []*graph.Node) {
			return nil, []*graph.Node{fn(sets, in)}
		})
		s.execs[key] = e
	}
	return e
}

// LogProbs gives log p of every completion token, as [row][completion][token]; K must be equal over the rows. Rows of
// alike length share a batch of the given size; the result keeps the rows' order. ctx is looked at between batches.
func (s *Scorer) LogProbs(ctx context.Context, p Policy, rows []Row, batch int) ([][][]float32, error) {
	out := make([][][]float32, len(rows))
	l := p.LoRA()
	exec := s.exec(l.Key(), func(sets []NodeSet, in []*graph.Node) *graph.Node {
		return s.config.CompletionLogProbs(Params{Base: sets[0], Adapter: sets[1], LoRA: l}, in[0], in[1], in[2], in[3])
	})
	err := s.batches(ctx, p, exec, rows, batch, func(row int, values []float32, width int) {
		out[row] = make([][]float32, len(rows[row].Completions))
		for j, y := range rows[row].Completions {
			out[row][j] = slices.Clone(values[j*width : j*width+len(y)])
		}
	})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return out, nil
}

// batches runs exec on all rows and takes each row's share of its output; width is the completions' padded one.
func (s *Scorer) batches(ctx context.Context, p Policy, exec *Exec, rows []Row, batch int, take func(row int, values []float32, width int)) error {
	if len(rows) == 0 {
		return nil
	}
	k := len(rows[0].Completions)
	order := make([]int, len(rows))
	for i, row := range rows {
		order[i] = i
		if len(row.Prompt) == 0 {
			return fmt.Errorf("row %d: the prompt has no tokens", i)
		}
		if len(row.Completions) != k {
			return fmt.Errorf("row %d has %d completions, row 0 has %d", i, len(row.Completions), k)
		}
		if err := s.config.CheckLength(len(row.Prompt) + longest(row)); err != nil {
			return fmt.Errorf("row %d: prompt and completion: %w", i, err)
		}
	}
	type widths struct{ prompt, completion int }
	width := func(i int) widths { return widths{s.bucket(len(rows[i].Prompt)), s.bucket(longest(rows[i]))} }
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := width(a), width(b)
		return cmp.Or(cmp.Compare(x.prompt, y.prompt), cmp.Compare(x.completion, y.completion))
	})
	type chunk struct {
		widths
		rows []int
	}
	var chunks []chunk
	for len(order) > 0 {
		w, n := width(order[0]), 1
		for n < min(batch, len(order)) && width(order[n]) == w {
			n++
		}
		chunks, order = append(chunks, chunk{w, order[:n]}), order[n:]
	}
	one := func(device int, p Policy, c chunk) error {
		some := make([]Row, len(c.rows))
		for i, o := range c.rows {
			some[i] = rows[o]
		}
		base, adapter := p.Sets()
		in := PackRows(some, batch, c.prompt, c.completion, k, 0)
		_, res, err := exec.CallOn(device, []Arg{{Set: base}, {Set: adapter}}, in...)
		finalize(in)
		if err != nil {
			return err
		}
		flat, err := tensors.CopyFlatData[float32](res[0])
		finalize(res)
		if err != nil {
			return fmt.Errorf("score: %w", err)
		}
		share := len(flat) / batch
		for i, o := range c.rows {
			take(o, flat[i*share:(i+1)*share], c.completion)
		}
		return nil
	}
	var next atomic.Int64
	return s.Each(p, func(device int, p Policy) error {
		for i := next.Add(1) - 1; int(i) < len(chunks); i = next.Add(1) - 1 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := one(device, p, chunks[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Finalize frees the compiled functions, and copies of weights.
func (s *Scorer) Finalize() {
	s.Replicas.Finalize()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.execs {
		e.Finalize()
	}
	clear(s.execs)
}

func longest(r Row) int {
	n := 0
	for _, c := range r.Completions {
		n = max(n, len(c))
	}
	return n
}

func finalize(ts []*tensors.Tensor) {
	for _, t := range ts {
		_ = t.FinalizeAll()
	}
}
