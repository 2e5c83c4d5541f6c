// Package sample draws completions from a policy: prompts prefilled once and shared by their samples, a key-value
// cache that never leaves the device, and a decoding loop inside the graph.
package sample

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	op "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/models"
)

// Options say how to sample. The distribution is softmax(logits/Temperature), cut to the TopK most likely tokens, then
// to the smallest set of mass TopP of what is left; tokens tied at either edge all stay.
type Options struct {
	Temperature  float64 // > 0
	TopK         int     // 0: no cut
	TopP         float64 // in (0, 1]; 1 (or 0): no cut
	Greedy       bool    // take the most likely token; the three above do not matter
	MaxNewTokens int
	Limit        int // if not 0, tokens are no more than this; MaxNewTokens is then the size that is compiled, and may exceed the context
	N            int // completions a prompt; 0 means 1
	Seed         uint64
	Stop         []int32 // tokens that end a completion (and are its last token)
	Batch        int     // prompts a batch; 0 means 16
	// Partial, if not nil, hears every few tokens what the prompts of a batch have so far, and stops are then looked for as
	// often. It is called from many goroutines where several devices sample.
	Partial func([][]Completion)
	Fold    bool // fold the adapter into dense weights first: faster, at the price of a copy of them
}

func (o Options) withDefaults() (Options, error) {
	o.N = max(o.N, 1)
	if o.Limit == 0 {
		o.Limit = o.MaxNewTokens
	}
	if o.Batch == 0 {
		o.Batch = 16
	}
	if o.TopP == 0 {
		o.TopP = 1
	}
	if o.Greedy {
		o.Temperature, o.TopK, o.TopP = 1, 0, 1
	}
	switch {
	case o.Temperature <= 0 || math.IsInf(o.Temperature, 0) || math.IsNaN(o.Temperature):
		return o, fmt.Errorf("temperature: %g, must be positive (greedy for the most likely token)", o.Temperature)
	case o.TopK < 0:
		return o, fmt.Errorf("top_k: %d, must not be negative", o.TopK)
	case !(o.TopP > 0 && o.TopP <= 1):
		return o, fmt.Errorf("top_p: %g, must be in (0, 1]", o.TopP)
	case o.MaxNewTokens < 1:
		return o, fmt.Errorf("max_new_tokens: %d, must be at least 1", o.MaxNewTokens)
	case o.Limit < 1 || o.Limit > o.MaxNewTokens:
		return o, fmt.Errorf("limit: %d, must be in 1..%d", o.Limit, o.MaxNewTokens)
	case o.Batch < 0:
		return o, fmt.Errorf("batch: %d, must not be negative", o.Batch)
	}
	return o, nil
}

// Prompt is what to complete. The same Key, seed, sample index and position always meet the same random number,
// whatever else is in the batch.
type Prompt struct {
	Key    uint64
	Tokens []int32 // at least one
}

// Completion is one sample. Log-probs are per token, in nats: under the distribution it was drawn from (0 for greedy),
// and under the policy itself at temperature 1.
type Completion struct {
	Tokens         []int32
	SampleLogProbs []float32
	PolicyLogProbs []float32
	Stopped        bool // a stop token was sampled; it is the last token
}

// Sampler holds the compiled functions for one architecture. Safe for concurrent use.
type Sampler struct {
	backend compute.Backend
	config  models.Config
	bucket  func(int) int
	models.Replicas
	mu    sync.Mutex
	execs map[string]*models.Exec
}

// New makes a sampler; bucket rounds prompt lengths up to the widths that are compiled, nil is models.Bucket.
func New(b compute.Backend, c models.Config, bucket func(int) int) *Sampler {
	if bucket == nil {
		bucket = models.Bucket
	}
	return &Sampler{backend: b, config: c, bucket: bucket, execs: map[string]*models.Exec{}}
}

// Finalize frees the compiled functions, and copies of weights.
func (s *Sampler) Finalize() {
	s.Replicas.Finalize()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.execs {
		e.Finalize()
	}
	clear(s.execs)
}

// chunk is the number of tokens between two looks at ctx and reports of progress.
const chunk = 32

// partialChunk is the number of tokens between two partial results.
const partialChunk = 4

// Sample draws o.N completions of every prompt: [prompt][sample], in the prompts' order. progress, if not nil, hears
// how many of the prompts are done. ctx is looked at every few dozen tokens.
func (s *Sampler) Sample(ctx context.Context, p models.Policy, prompts []Prompt, o Options, progress func(done, total int)) ([][]Completion, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	order := make([]int, len(prompts))
	for i, prompt := range prompts {
		order[i] = i
		if len(prompt.Tokens) == 0 {
			return nil, fmt.Errorf("sample: prompt %d has no tokens", i)
		}
		if err := s.config.CheckLength(len(prompt.Tokens) + o.Limit); err != nil {
			return nil, fmt.Errorf("sample: prompt %d and max_new_tokens %d: %w", i, o.Limit, err)
		}
	}
	if o.Fold && p.Adapter != nil {
		folded, err := models.Fold(s.backend, p)
		if err != nil {
			return nil, err
		}
		kept := p.Override
		p = folded
		defer func() { // only what folding made
			for name, t := range folded.Override {
				if kept[name] != t {
					_ = t.FinalizeAll()
				}
			}
		}()
	}
	// longest first: alike lengths share a batch, and a batch too large for the memory fails at once
	slices.SortStableFunc(order, func(a, b int) int { return len(prompts[b].Tokens) - len(prompts[a].Tokens) })
	out := make([][]Completion, len(prompts))
	var mu sync.Mutex // of taken and done
	taken, done := 0, 0
	take := func() []int {
		mu.Lock()
		defer mu.Unlock()
		from := taken
		taken = min(taken+o.Batch, len(order))
		return order[from:taken]
	}
	err = s.Each(p, func(device int, p models.Policy) error {
		for some := take(); len(some) > 0; some = take() {
			batch := make([]Prompt, len(some))
			for i, at := range some {
				batch[i] = prompts[at]
			}
			completions, err := s.batch(ctx, device, p, batch, o)
			if err != nil {
				return err
			}
			for i, c := range completions {
				out[some[i]] = c
			}
			mu.Lock()
			if done += len(some); progress != nil {
				progress(done, len(order))
			}
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// batchSize is 1, a quarter of the limit or the limit: short batches stay cheap and few sizes are compiled.
func batchSize(n, limit int) int {
	for _, size := range []int{1, (limit + 3) / 4} {
		if n <= size {
			return size
		}
	}
	return limit
}

func (s *Sampler) batch(ctx context.Context, device int, p models.Policy, prompts []Prompt, o Options) ([][]Completion, error) {
	size := batchSize(len(prompts), o.Batch)
	rows := make([]models.Row, len(prompts))
	width := 0
	for i, prompt := range prompts {
		rows[i] = models.Row{Prompt: prompt.Tokens}
		width = max(width, len(prompt.Tokens))
	}
	in := models.PackRows(rows, size, s.bucket(width), 1, 1, 0)[:2] // prompt, mask
	defer finalize(in...)
	base, adapter := p.Sets()
	weights := []models.Arg{{Set: base}, {Set: adapter}}
	sets, _, err := s.prefill(p.LoRA(), o).CallOn(device, weights, in...)
	if err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	prefix := sets[0]
	defer prefix.Finalize()

	uniforms := make([]float32, size*o.N*o.MaxNewTokens)
	for i, prompt := range prompts {
		for j := range o.N {
			for k := range o.MaxNewTokens {
				uniforms[(i*o.N+j)*o.MaxNewTokens+k] = uniform(o.Seed, prompt.Key, j, k)
			}
		}
	}
	u := tensors.FromFlatDataAndDimensions(uniforms, size, o.N, o.MaxNewTokens)
	defer finalize(u)
	state := s.start(prompts, size, o)
	maps.Copy(state, sets[1])
	defer func() { state.Finalize() }()
	stride := chunk
	if o.Partial != nil {
		stride = partialChunk
	}
	if !hasSlices(s.backend) {
		stride = 1
	}
	for step := 0; step < o.Limit; step += stride {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		limit := tensors.FromScalar(int32(min(step+stride, o.Limit)))
		args := append(slices.Clone(weights), models.Arg{Set: prefix}, models.Arg{Set: state, Donate: true})
		sets, _, err := s.decode(p.LoRA(), o).CallOn(device, args, in[1], u, limit)
		finalize(limit)
		if err != nil {
			return nil, fmt.Errorf("sample: %w", err)
		}
		state = sets[0]
		if tensors.ToScalar[bool](state["done"]) {
			break
		}
		if o.Partial != nil && step+stride < o.Limit {
			soFar, err := collect(state, len(prompts), o, step+stride)
			if err != nil {
				return nil, err
			}
			o.Partial(soFar)
		}
	}
	return collect(state, len(prompts), o, o.Limit)
}

// start is the state before the first token but for the caches: the prompts' last tokens to feed, dummy rows finished.
func (s *Sampler) start(prompts []Prompt, size int, o Options) models.Weights {
	last, finished := make([]int32, size*o.N), make([]bool, size*o.N)
	for i := range finished {
		if row := i / o.N; row < len(prompts) {
			last[i] = prompts[row].Tokens[len(prompts[row].Tokens)-1]
		} else {
			finished[i] = true
		}
	}
	results := func(d dtypes.DType) *tensors.Tensor {
		return tensors.FromShape(shapes.Make(d, size, o.N, o.MaxNewTokens))
	}
	return models.Weights{
		"step":     tensors.FromScalar(int32(0)),
		"done":     tensors.FromScalar(false),
		"last":     tensors.FromFlatDataAndDimensions(last, size, o.N),
		"finished": tensors.FromFlatDataAndDimensions(finished, size, o.N),
		"tokens":   results(dtypes.Int32), "sampled": results(dtypes.Float32), "policy": results(dtypes.Float32),
	}
}

func (s *Sampler) exec(key string, name string, fn models.Fn) *models.Exec {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.execs[key]
	if !ok {
		e = models.NewExec(s.backend, name, fn)
		s.execs[key] = e
	}
	return e
}

func (s *Sampler) prefill(l models.LoRA, o Options) *models.Exec {
	key := fmt.Sprint("prefill ", l.Key(), o.N, o.MaxNewTokens)
	return s.exec(key, "prefill", func(sets []models.NodeSet, in []*op.Node) ([]models.NodeSet, []*op.Node) {
		p := &models.Params{Base: sets[0], Adapter: sets[1], LoRA: l}
		prefix := prefill(s.config, p, in[0], in[1])
		own := models.NodeSet{}
		for layer := range s.config.NumLayers {
			zeros := func(dims ...int) *op.Node {
				dims = append([]int{in[0].Shape().Dim(0), s.config.NumKVHeads, o.N}, dims...)
				return op.Zeros(in[0].Graph(), shapes.Make(prefix[prefixName("k", layer)].DType(), dims...))
			}
			own[ownName("k", layer)] = zeros(s.config.HeadDim, o.MaxNewTokens)
			own[ownName("v", layer)] = zeros(o.MaxNewTokens, s.config.HeadDim)
		}
		return []models.NodeSet{prefix, own}, nil
	})
}

func (s *Sampler) decode(l models.LoRA, o Options) *models.Exec {
	key := fmt.Sprint("decode ", l.Key(), o.Temperature, o.TopK, o.TopP, o.Greedy, o.Stop) // the constants of the graph
	return s.exec(key, "decode", func(sets []models.NodeSet, in []*op.Node) ([]models.NodeSet, []*op.Node) {
		d := decoder{config: s.config, options: o, lora: l, slices: hasSlices(s.backend)}
		return []models.NodeSet{d.run(sets, in[0], in[1], in[2])}, nil
	})
}

// collect cuts the result tensors into completions of at most so many tokens.
func collect(state models.Weights, prompts int, o Options, most int) ([][]Completion, error) {
	tokens, err := tensors.CopyFlatData[int32](state["tokens"])
	if err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	sampled, policy := tensors.MustCopyFlatData[float32](state["sampled"]), tensors.MustCopyFlatData[float32](state["policy"])
	out := make([][]Completion, prompts)
	for i := range out {
		for j := range o.N {
			from := (i*o.N + j) * o.MaxNewTokens
			n := most
			c := Completion{}
			for k, token := range tokens[from : from+n] {
				if slices.Contains(o.Stop, token) {
					n, c.Stopped = k+1, true
					break
				}
			}
			c.Tokens, c.SampleLogProbs, c.PolicyLogProbs = tokens[from:from+n:from+n], sampled[from:from+n:from+n], policy[from:from+n:from+n]
			out[i] = append(out[i], c)
		}
	}
	return out, nil
}

func finalize(ts ...*tensors.Tensor) {
	for _, t := range ts {
		_ = t.FinalizeAll()
	}
}
