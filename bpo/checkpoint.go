package bpo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/internal/atomicfile"
	"gobpo/models"
	"gobpo/models/weights"
)

// state is where a run stands, beside its tensors. Randomness needs no state: every draw is a function of the seed
// and of counters that follow from Step.
type state struct {
	Step             int     `json:"step"`  // optimizer steps done
	Phase            int     `json:"phase"` // collection phase the behavior policy belongs to
	BehaviorVersion  int     `json:"behavior_version"`
	ReferenceVersion int     `json:"reference_version"`
	Learners         int     `json:"learners"`
	Loss             string  `json:"loss"`
	Beta             float64 `json:"beta,omitempty"` // of an adaptive schedule
	// Unlogged are the metrics of step Step where the run stopped before it had evaluated the policy, or told them.
	Unlogged Metrics `json:"unlogged,omitempty"`
}

const (
	checkpointsDir  = "checkpoints"
	keepCheckpoints = 2
	stateFile       = "state.json"
)

// writeSet writes tensors one by one, so that the host holds a copy of one at a time.
func writeSet(path string, set models.Weights, meta map[string]string) error {
	all := map[string]shapes.Shape{}
	for name, t := range set {
		all[name] = t.Shape()
	}
	return weights.WriteFunc(path, all, meta, func(name string, w io.Writer) error {
		defer dropHostCopies(models.Weights{name: set[name]})
		return writeRange(w, set[name], 0, int(set[name].ByteSize()))
	})
}

// writeRange writes the bytes [from, to) of a tensor.
func writeRange(w io.Writer, t *tensors.Tensor, from, to int) error {
	var written error
	err := t.ConstBytes(func(b []byte) { _, written = w.Write(b[from:to]) })
	return errors.Join(err, written)
}

// save writes the learner's float32 weights as a policy's file, straight from its vectors.
func (l *learner) save(path, name string) error {
	type place struct {
		block layout
		at    int
	}
	if err := l.settle(); err != nil {
		return err
	}
	defer dropHostCopies(l.w)
	all, places, prefix := map[string]shapes.Shape{}, map[string]place{}, adapterPrefix
	if l.full {
		prefix = overridePrefix
	}
	for _, block := range l.blocks {
		for i, n := range block.names {
			all[prefix+n] = shapes.Make(dtypes.Float32, block.dims[i]...)
			places[prefix+n] = place{block, i}
		}
	}
	return weights.WriteFunc(path, all, policyMeta(name, l.start.Adapter), func(name string, w io.Writer) error {
		p := places[name]
		if l.full { // a vector of its own for each tensor
			defer dropHostCopies(models.Weights{name: l.w[p.block.name]})
		}
		return writeRange(w, l.w[p.block.name], 4*p.block.at[p.at], 4*p.block.at[p.at+1])
	})
}

func readSet(path string) (models.Weights, map[string]string, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	set := models.Weights{}
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, nil, err
		}
		set[name] = t
	}
	return set, f.Metadata(), nil
}

// save writes a checkpoint into a temporary directory and renames it into place: a kill leaves the old one or the new.
// unlogged are the step's metrics if they are still to be told.
func (r *run) save(learners []*learner, behavior versioned, ref *reference, step, phase int, unlogged Metrics) error {
	root := filepath.Join(r.setup.Dir, checkpointsDir)
	final := filepath.Join(root, checkpointName(step))
	tmp := final + ".tmp"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o777)); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	write := func() error {
		for i, l := range learners {
			name := fmt.Sprintf("learner-%d", i)
			if err := l.save(filepath.Join(tmp, name+".safetensors"), name); err != nil {
				return err
			}
			if err := writeSet(filepath.Join(tmp, fmt.Sprintf("optimizer-%d.safetensors", i)), l.state, map[string]string{"optimizer": l.opt.Name}); err != nil {
				return err
			}
		}
		if err := SavePolicy(filepath.Join(tmp, "behavior.safetensors"), behavior.policy); err != nil {
			return err
		}
		if ref.kind == "ema" {
			if err := SavePolicy(filepath.Join(tmp, "reference.safetensors"), ref.policy); err != nil {
				return err
			}
		}
		return writeState(tmp, state{
			Step: step, Phase: phase, BehaviorVersion: behavior.version, ReferenceVersion: ref.version,
			Learners: len(learners), Loss: r.cfg.Loss.String(), Beta: r.beta, Unlogged: unlogged,
		})
	}
	if err := write(); err != nil {
		return errors.Join(fmt.Errorf("checkpoint %s: %w", final, err), os.RemoveAll(tmp))
	}
	if err := atomicfile.ReplaceDir(tmp, final); err != nil {
		return fmt.Errorf("checkpoint %s: %w", final, err)
	}
	steps, err := checkpoints(r.setup.Dir)
	for _, old := range steps[:max(0, len(steps)-keepCheckpoints)] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(root, old)))
	}
	return err
}

func checkpointName(step int) string { return fmt.Sprintf("step-%06d", step) }

func writeState(dir string, st state) error {
	st.Unlogged = maps.Clone(st.Unlogged)
	maps.DeleteFunc(st.Unlogged, func(_ string, v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) // JSON has no word for them
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, stateFile), append(text, '\n'))
}

func readState(dir string) (st state, err error) {
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return st, fmt.Errorf("%s: %w", path, err)
	}
	return st, nil
}

// logged notes in the checkpoint of a step that its metrics are told.
func (r *run) logged(step int) error {
	dir := filepath.Join(r.setup.Dir, checkpointsDir, checkpointName(step))
	st, err := readState(dir)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	st.Unlogged = nil
	return writeState(dir, st)
}

// load restores the newest checkpoint, if there is one.
func (r *run) load(learners []*learner, behavior *versioned, ref *reference) (st state, ok bool, err error) {
	steps, err := checkpoints(r.setup.Dir)
	if err != nil || len(steps) == 0 {
		return st, false, err
	}
	dir := filepath.Join(r.setup.Dir, checkpointsDir, steps[len(steps)-1])
	if st, err = readState(dir); err != nil {
		return st, false, fmt.Errorf("checkpoint: %w", err)
	}
	if st.Learners != len(learners) || st.Loss != r.cfg.Loss.String() {
		return st, false, fmt.Errorf("checkpoint %s is of another run: %d learners with %s, want %d with %s", dir, st.Learners, st.Loss, len(learners), r.cfg.Loss)
	}
	for i, l := range learners {
		p, err := LoadPolicy(filepath.Join(dir, fmt.Sprintf("learner-%d.safetensors", i)), r.setup.Model)
		if err != nil {
			return st, false, fmt.Errorf("checkpoint: %w", err)
		}
		if err := l.restore(p, filepath.Join(dir, fmt.Sprintf("optimizer-%d.safetensors", i))); err != nil {
			return st, false, fmt.Errorf("checkpoint: %w", err)
		}
	}
	if behavior.policy, err = LoadPolicy(filepath.Join(dir, "behavior.safetensors"), r.setup.Model); err != nil {
		return st, false, fmt.Errorf("checkpoint: %w", err)
	}
	if ref.kind == "ema" {
		if ref.policy, err = LoadPolicy(filepath.Join(dir, "reference.safetensors"), r.setup.Model); err != nil {
			return st, false, fmt.Errorf("checkpoint: %w", err)
		}
		ref.version = st.ReferenceVersion
	}
	behavior.version = st.BehaviorVersion
	if st.Beta > 0 {
		r.beta = st.Beta
	}
	return st, true, nil
}

// restore gives a learner the weights of p, which it frees, and the optimizer state in a file.
func (l *learner) restore(p models.Policy, path string) error {
	trained, adapter := p.Sets()
	if !l.full {
		trained = adapter
	}
	l.drop()
	err := l.pack(trained)
	release(p)
	if err != nil {
		return fmt.Errorf("%s: learner: %w", filepath.Dir(path), err)
	}
	state, meta, err := readSet(path)
	if err != nil {
		return err
	}
	if got := meta["optimizer"]; got != l.opt.Name {
		return fmt.Errorf("%s: state of optimizer %q, the run has %q", path, got, l.opt.Name)
	}
	if len(state) != len(l.state) {
		return fmt.Errorf("%s: %d tensors of optimizer state, want %d", path, len(state), len(l.state))
	}
	for name, old := range l.state {
		if t := state[name]; t == nil || !t.Shape().Equal(old.Shape()) {
			return fmt.Errorf("%s: optimizer state %q is missing or not %s", path, name, old.Shape())
		}
		old.MustFinalizeAll()
	}
	l.state = state
	return nil
}

// checkpoints lists the complete checkpoints of a run, oldest first.
func checkpoints(dir string) ([]string, error) {
	root := filepath.Join(dir, checkpointsDir)
	err := atomicfile.RecoverDirs(root)
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(root)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	var steps []string
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "step-")
		if _, err := strconv.Atoi(number); ok && err == nil {
			steps = append(steps, e.Name())
		}
	}
	slices.Sort(steps)
	return steps, nil
}
