package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"gobpo/bpo"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/backend"
	"gobpo/models/sample"
)

// talk is the worker's side of the protocol.
type talk struct {
	in    *bufio.Scanner
	out   io.Writer
	begun time.Time
	ready bool
}

var errNoMore = errors.New("no more runs asked for")

// turn reports a finished run and waits for the next to be asked for. The first run is the warm-up.
func (t *talk) turn(r reply) error {
	if !t.ready {
		t.ready = true
		for _, c := range models.Compilations() {
			r.Compiled++
			r.Compile += c.Seconds
		}
		r.Warmup = time.Since(t.begun).Seconds()
		r.Seconds = nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(t.out, "%s%s\n", replyMark, text); err != nil {
		return err
	}
	if !t.in.Scan() {
		return errors.Join(errNoMore, t.in.Err())
	}
	return nil
}

// work runs the case described by text, once to warm up and then once for each line of in.
func work(text string, in io.Reader, out io.Writer) error {
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return fmt.Errorf("case: %w", err)
	}
	start := time.Now()
	b, err := backend.Open(backend.Options{Name: t.Backend, Log: os.Stderr})
	if err != nil {
		return err
	}
	first := reply{Versions: b.Description()}
	io := &talk{in: bufio.NewScanner(in), out: out}
	var m *models.Model
	if t.Kind != "matmul" {
		if m, err = models.Load(t.Model, dtypes.Float32); err != nil {
			return err
		}
		first.Note = m.Source
	}
	first.Load = time.Since(start).Seconds()
	io.begun = time.Now()
	switch t.Kind {
	case "train":
		err = t.train(b, m, io, first)
	case "sample":
		err = t.sample(b, m, io, first)
	case "matmul":
		err = t.matmul(b, io, first)
	default:
		err = fmt.Errorf("case %q: unknown kind %q", t.Name, t.Kind)
	}
	if errors.Is(err, errNoMore) {
		return nil
	}
	return err
}

// train is bpo.Train on an offline file of preferences, reference sft; each turn is one of its steps.
func (t task) train(b compute.Backend, m *models.Model, io *talk, first reply) error {
	dir, err := os.MkdirTemp(os.Getenv("GOBPO_BENCH_DIR"), "run-")
	if err != nil {
		return err
	}
	prompts, chosen, rejected := t.tokens(t.Pairs, t.Prompt, 0), t.tokens(t.Pairs, t.Completion, 1), t.tokens(t.Pairs, t.Completion, 2)
	rows := make([]data.Preference, t.Pairs)
	for i := range rows {
		rows[i] = data.Preference{ID: fmt.Sprint(i), PromptIDs: prompts[i], ChosenIDs: chosen[i], RejectedIDs: rejected[i]}
	}
	path := filepath.Join(dir, "pairs.parquet")
	if err := data.Write(path, rows, nil); err != nil {
		return err
	}
	c := bpo.DefaultConfig()
	c.Data, c.Reference, c.Behavior, c.Refresh = "offline:"+path, "sft", "sft", 1
	c.LoRA = models.LoRA{Rank: t.Rank, Alpha: t.Alpha, Targets: []string{models.AllLinear}}
	c.Steps, c.BatchSize = 1<<20, t.Pairs // ends when no more steps are asked for
	c.MaxPromptTokens, c.MaxCompletionTokens = t.Prompt, t.Completion
	_, err = bpo.Train(context.Background(), bpo.Setup{Config: c, Backend: b, Model: m, Dir: filepath.Join(dir, "run"), Log: func(step int, m bpo.Metrics) error {
		r := reply{Seconds: map[string]float64{"learn": m["time/learn"], "reference": m["time/reference"]}}
		if step == 1 {
			first.Check = m["logps/chosen"]
			r = first
		}
		return io.turn(r)
	}})
	return err
}

// sample draws one batch a turn. Folding is timed apart: a phase of training does it once for all its prompts.
func (t task) sample(b compute.Backend, m *models.Model, io *talk, first reply) error {
	adapted := models.Policy{Base: m.Base, Adapter: models.NewAdapter(t.Config, models.LoRA{Rank: t.Rank, Alpha: t.Alpha, Targets: []string{models.AllLinear}}, 0)}
	s := sample.New(b, m.Config, models.Bucket)
	defer s.Finalize()
	prompts := make([]sample.Prompt, t.Batch)
	for i, ids := range t.tokens(t.Batch, t.Prompt, 0) {
		prompts[i] = sample.Prompt{Key: uint64(i), Tokens: ids}
	}
	for seed := uint64(0); ; seed++ {
		r := reply{Seconds: map[string]float64{}}
		policy := adapted
		if t.Folded {
			start := time.Now()
			var err error
			if policy, err = models.Fold(b, adapted); err != nil {
				return err
			}
			r.Seconds["fold"] = time.Since(start).Seconds()
		}
		start := time.Now()
		out, err := s.Sample(context.Background(), policy, prompts, sample.Options{
			Temperature: 1, MaxNewTokens: t.Completion, N: 1, Seed: seed, Batch: t.Batch, // no Stop: every row is full
		}, nil)
		if err != nil {
			return err
		}
		r.Seconds["sample"] = time.Since(start).Seconds()
		policy.Override.Finalize()
		for i := range out {
			if n := len(out[i][0].Tokens); n != t.Completion {
				return fmt.Errorf("row %d has %d tokens, not %d", i, n, t.Completion)
			}
		}
		if seed == 0 {
			r = first
		}
		if err := io.turn(r); err != nil {
			return err
		}
	}
}

// matmul times [n,n]·[n,n] float32 products, the best of a few of each size.
func (t task) matmul(b compute.Backend, io *talk, first reply) error {
	exec, err := graph.NewExec(b, func(a, b *graph.Node) *graph.Node { return graph.Dot(a, b).MatMul() })
	if err != nil {
		return err
	}
	defer exec.Finalize()
	inputs := make([]*tensors.Tensor, len(t.Sizes))
	for i, n := range t.Sizes {
		x := make([]float32, n*n)
		for j := range x {
			x[j] = float32(j%7) - 3
		}
		inputs[i] = tensors.FromFlatDataAndDimensions(x, n, n)
	}
	for ; ; first = (reply{}) {
		seconds := map[string]float64{}
		for i, n := range t.Sizes {
			best := time.Hour
			for range 8 {
				start := time.Now()
				result, err := exec.Call1(inputs[i], inputs[i])
				if err != nil {
					return err
				}
				if err := result.ConstBytes(func([]byte) {}); err != nil { // waits for the result
					return err
				}
				best = min(best, time.Since(start))
				result.FinalizeAll()
			}
			seconds[fmt.Sprint(n)] = best.Seconds()
		}
		first.Seconds = seconds
		if err := io.turn(first); err != nil {
			return err
		}
	}
}
