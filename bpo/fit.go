package bpo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gomlx/compute"
	"gobpo/data"
	"gobpo/internal/atomicfile"
	"gobpo/models"
)

// Fit is what trainings on given texts, SFT and reward models, need besides what to learn.
type Fit struct {
	Config  SFTConfig
	Backend compute.Backend
	Model   *models.Model
	Start   models.Policy // its adapter is trained, or with Full every weight
	Full    bool
	// Checkpointing is Config.GradientCheckpointing.
	Checkpointing bool
	Mesh          models.Mesh
	Seed          uint64
	End           int32 // as Setup.End, for SFT
	// Dir holds a checkpoint while the training goes on and until RemoveCheckpoint, and one found there is continued. "" = none.
	Dir string
	// SaveEvery is the time that a kill can cost at most; 0 = five minutes.
	SaveEvery time.Duration
	Begin     func(step int) error // before the first step: so many are done already
	Log       func(step int, m Metrics) error
	Progress  func(what string, step, of int)
}

// run minimises an objective on rows, in an order that is a function of the seed; weigh gives the rows of a step their
// weights. It returns the trained policy under the name of what was done.
func (f *Fit) run(ctx context.Context, what string, obj objective, rows []example, weigh func(batch []example)) (models.Policy, error) {
	if err := f.Mesh.Check(f.Backend); err != nil {
		return f.Start, err
	}
	if len(rows) == 0 {
		return f.Start, fmt.Errorf("%s: there is no example to learn from", what)
	}
	l, err := newLearner(f.Start, f.Full, f.Config.Optimizer)
	if err != nil {
		return f.Start, err
	}
	defer l.finalize()
	spec := trainSpec{
		Optimizer: f.Config.Optimizer, Steps: f.Config.Steps, Batch: f.Config.BatchSize, Micro: f.Config.Micro(), Checkpoints: f.Checkpointing, Mesh: f.Mesh,
	}
	if f.Model.Config.Reward {
		spec.Bucket = models.CoarseBucket
	}
	t := newTrainer(f.Backend, f.Model.Config, l, obj, spec)
	defer t.finalize()
	first, err := f.load(l)
	if err != nil {
		return f.Start, fmt.Errorf("%s: checkpoint: %w", what, err)
	}
	if f.Begin != nil {
		if err := f.Begin(first); err != nil {
			return f.Start, err
		}
	}
	every, saved := f.SaveEvery, time.Now()
	if every == 0 {
		every = 5 * time.Minute
	}
	var order []int
	for step, epoch := first, -1; step < f.Config.Steps; step++ {
		if err := ctx.Err(); err != nil {
			return f.Start, errors.Join(err, f.save(l, step))
		}
		if step > first && time.Since(saved) >= every {
			if err := f.save(l, step); err != nil {
				return f.Start, fmt.Errorf("%s: checkpoint: %w", what, err)
			}
			saved = time.Now()
		}
		batch := make([]example, f.Config.BatchSize)
		for i := range batch {
			g := step*f.Config.BatchSize + i
			if g/len(rows) != epoch {
				epoch = g / len(rows)
				order = data.Order(len(rows), f.Seed, epoch)
				if f.Config.GroupByLength {
					groupByLength(order, rows, f.Config.BatchSize, t.Bucket, f.Seed, epoch)
				}
			}
			batch[i] = rows[order[g%len(rows)]]
		}
		weigh(batch)
		start := time.Now()
		res, err := t.step(l, batch, step, mix(f.Seed^mix(uint64(step))))
		if err != nil {
			return f.Start, fmt.Errorf("%s step %d: %w", what, step+1, err)
		}
		if f.Log != nil {
			m := Metrics{"loss": res.loss, "grad_norm": res.gradNorm, "learning_rate": res.rate}
			m.speed(time.Since(start).Seconds(), res.tokens, res.padded)
			for name, v := range res.metrics {
				m[name] = v
			}
			if err := f.Log(step+1, m); err != nil {
				return f.Start, err
			}
		}
		if f.Progress != nil {
			f.Progress(what, step+1, f.Config.Steps)
		}
	}
	if first < f.Config.Steps { // writing what it gave may be long, too
		if err := f.save(l, f.Config.Steps); err != nil {
			return f.Start, fmt.Errorf("%s: checkpoint: %w", what, err)
		}
	}
	return l.policy(f.Backend, what)
}

// RemoveCheckpoint removes what a training kept in its Dir, once what it gave is written.
func (f *Fit) RemoveCheckpoint() error {
	if f.Dir == "" {
		return nil
	}
	dir := f.checkpoint()
	return errors.Join(atomicfile.RecoverDir(dir), os.RemoveAll(dir), os.RemoveAll(dir+".tmp"))
}

// groupByLength sorts every 16 batches of an epoch's order by length, and puts the batches of like lengths in a random
// order. Rows that end a batch of the epoch before, and those that begin one of the next, stay where they are.
func groupByLength(order []int, rows []example, batch int, bucket func(int) int, seed uint64, epoch int) {
	begun := epoch * len(order) % batch
	if begun > 0 {
		order = order[min(batch-begun, len(order)):]
	}
	order = order[:len(order)/batch*batch]
	for at := 0; at < len(order); at += 16 * batch {
		window := order[at:min(at+16*batch, len(order))]
		slices.SortStableFunc(window, func(a, b int) int { return byLength(rows[a], rows[b], bucket) })
		groups := slices.Collect(slices.Chunk(slices.Clone(window), batch))
		next := 0
		for _, g := range data.Order(len(groups), mix(seed)+uint64(at), epoch) {
			next += copy(window[next:], groups[g])
		}
	}
}

// byLength sorts rows so that neighbours pad to about the same widths: by the prompt's bucket, then by the completions.
func byLength(a, b example, bucket func(int) int) int {
	ap, ac, _, _ := widths([]models.Row{a.row})
	bp, bc, _, _ := widths([]models.Row{b.row})
	return cmp.Or(cmp.Compare(bucket(ap), bucket(bp)), cmp.Compare(ac, bc), cmp.Compare(ap, bp))
}

func (f *Fit) checkpoint() string { return filepath.Join(f.Dir, "checkpoint") }

// save writes a checkpoint beside the old one and puts it in its place.
func (f *Fit) save(l *learner, step int) error {
	if f.Dir == "" || step == 0 {
		return nil
	}
	dir := f.checkpoint()
	tmp := dir + ".tmp"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o777)); err != nil {
		return err
	}
	text, err := json.Marshal(state{Step: step, Learners: 1})
	if err == nil {
		err = errors.Join(
			l.save(filepath.Join(tmp, "learner.safetensors"), "learner"),
			writeSet(filepath.Join(tmp, "optimizer.safetensors"), l.state, map[string]string{"optimizer": l.opt.Name}),
			atomicfile.WriteBytes(filepath.Join(tmp, stateFile), append(text, '\n')))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return atomicfile.ReplaceDir(tmp, dir)
}

// load restores the learner from the checkpoint, if there is one, and gives its step.
func (f *Fit) load(l *learner) (step int, err error) {
	if f.Dir == "" {
		return 0, nil
	}
	dir := f.checkpoint()
	if err := atomicfile.RecoverDir(dir); err != nil {
		return 0, err
	}
	st, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	p, err := LoadPolicy(filepath.Join(dir, "learner.safetensors"), f.Model)
	if err != nil {
		return 0, err
	}
	return st.Step, l.restore(p, filepath.Join(dir, "optimizer.safetensors"))
}
