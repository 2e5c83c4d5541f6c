package bpo

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
)

// objective turns the token log-probs of a micro-batch into what is minimised.
//
// logps [batch, k, completion] float32 are 0 where masked; lens [batch, k] float32 are the scored tokens (≥ 1); weight
// [batch] is the rows' share of the step's loss, 0 for padding; extra are the objective's own inputs. A reward model gives
// rewards [batch, k] in place of logps. It returns the loss of each row [batch] and the rows' metrics, [batch] each.
type objective struct {
	Key string // equal keys are equal functions
	// Agreement: the last of extra is log Σ_v π_θ(v)² of each token [batch, k, completion], 0 where masked, without a gradient.
	Agreement bool
	Metrics   []string
	Fn        func(logps, lens, weight *Node, extra []*Node) (loss *Node, metrics []*Node)
}

// learner is one trainable weight set with its optimizer's state, in flat float32 vectors that are replaced at every
// step. A bfloat16 model is trained through them: its forward pass sees them rounded.
type learner struct {
	start  models.Policy // what it began as; its own tensors stay as they were
	full   bool          // every weight is trained, else the adapter
	opt    OptimizerConfig
	blocks []layout
	w      models.Weights // [n] of each block, by its name
	state  models.Weights // the optimizer's, by stateName
	mesh   *onMesh        // where they are while a mesh trains them; nil: in w and state
}

// onMesh are a learner's weights and optimizer state on a mesh; the learner's own are then out of date.
type onMesh struct{ w, state models.Sharded }

// place puts the learner on a mesh, where it stays until it is looked at. On one device it is there already.
func (l *learner) place(m models.Mesh) (at onMesh, err error) {
	if l.mesh != nil {
		return *l.mesh, nil
	}
	if at.w, err = models.Shard(m, l.w); err != nil {
		return at, err
	}
	if at.state, err = models.Shard(m, l.state); err != nil {
		return at, err
	}
	if m.Devices() > 1 {
		l.w.Finalize()
		l.state.Finalize()
		l.mesh = &at
	}
	return at, nil
}

// settle brings the learner back from its mesh into w and state.
func (l *learner) settle() error {
	if l.mesh == nil {
		return nil
	}
	w, err := l.mesh.w.Gather()
	if err != nil {
		return err
	}
	state, err := l.mesh.state.Gather()
	if err != nil {
		return err
	}
	l.drop()
	l.w, l.state = w, state
	return nil
}

// drop forgets what is on the mesh.
func (l *learner) drop() {
	if l.mesh != nil {
		l.mesh.w.Finalize()
		l.mesh.state.Finalize()
		l.mesh = nil
	}
}

// adapterBlock is the name of an adapter's one block.
const adapterBlock = "adapter"

func stateName(state, block string) string { return state + "." + block }

// newLearner starts a learner; without an optimizer it has weights only.
func newLearner(start models.Policy, full bool, opt OptimizerConfig) (*learner, error) {
	l := &learner{start: start, full: full, opt: opt, w: models.Weights{}, state: models.Weights{}}
	trained, adapter := start.Sets()
	if full {
		for _, name := range trained.Names() {
			l.blocks = append(l.blocks, layoutOf(name, trained, []string{name}))
		}
	} else {
		if trained = adapter; len(adapter) == 0 {
			return nil, fmt.Errorf("learner %q has no adapter to train", start.Name)
		}
		l.blocks = []layout{layoutOf(adapterBlock, trained, trained.Names())}
	}
	for _, block := range l.blocks {
		if opt.Name == "" {
			break // not to be trained
		}
		for name, dims := range optimizers[opt.Name].State(opt, block.dims) {
			l.state[stateName(name, block.name)] = zeros(dims...)
		}
	}
	return l, l.pack(trained)
}

// pack makes the learner's weights those of a set.
func (l *learner) pack(set models.Weights) error {
	for _, block := range l.blocks {
		flat, err := block.pack(set)
		if err != nil {
			return err
		}
		if old := l.w[block.name]; old != nil {
			old.MustFinalizeAll()
		}
		l.w[block.name] = flat
	}
	return nil
}

// policy is the learner as it is now, in tensors of its own: those of an adapter float32, those of a full model in the
// model's dtype.
func (l *learner) policy(b compute.Backend, name string) (models.Policy, error) {
	if err := l.settle(); err != nil {
		return models.Policy{}, err
	}
	return l.policyOf(b, name, l.w)
}

// policyOf is the policy that flat vectors like the learner's stand for.
func (l *learner) policyOf(b compute.Backend, name string, w models.Weights) (models.Policy, error) {
	p := models.Policy{Name: name, Base: l.start.Base, Override: l.start.Override}
	set := models.Weights{}
	for _, block := range l.blocks {
		if err := block.unpack(b, w[block.name], set); err != nil {
			set.Finalize()
			return p, err
		}
	}
	if l.full {
		p.Override = set
	} else {
		p.Adapter = &models.Adapter{LoRA: l.start.Adapter.LoRA, Weights: set}
	}
	return p, nil
}

func (l *learner) finalize() {
	l.drop()
	l.w.Finalize()
	l.state.Finalize()
}

// trainSpec is what the steps of a trainer are made of.
type trainSpec struct {
	Optimizer   OptimizerConfig
	Steps       int  // of the learning-rate schedule
	Batch       int  // rows of a step
	Micro       int  // rows of a gradient call
	Checkpoints bool // gradient checkpointing
	Mesh        models.Mesh
	Bucket      func(int) int // of widths; nil: models.Bucket
}

// trainer compiles an objective and runs optimizer steps on any learner of one shape.
// A step is gradient calls on micro-batches, summed, then an update of each block: accumulation is the large batch.
type trainer struct {
	trainSpec
	backend compute.Backend
	rule    Optimizer
	metrics []string
	base    models.Sharded // on the mesh, of the learners' common base, once there is a step
	grad    *models.Exec
	zeros   *models.Exec
	update  map[string]*models.Exec // by block
}

// newTrainer builds the functions of a step, for learners alike to the given one; LoRA dropout makes gradients stochastic.
func newTrainer(b compute.Backend, c models.Config, like *learner, obj objective, spec trainSpec) *trainer {
	if spec.Bucket == nil {
		spec.Bucket = models.Bucket
	}
	blocks, lora, full := like.blocks, like.start.LoRA(), like.full
	t := &trainer{trainSpec: spec, backend: b, rule: optimizers[spec.Optimizer.Name], metrics: obj.Metrics, update: map[string]*models.Exec{}}
	shape := fmt.Sprintf("%v %v %v %v %v", c, lora, full, blocks, spec.Checkpoints)

	// grad: sets base, weights, sums (none where one call makes the step); inputs: the packed rows, row weights [batch],
	// RNG state, extra…; outputs: the new sums, and the loss [batch], the squared norm of the sums [], metrics [batch].
	t.grad = models.SharedOn(b, spec.Mesh, "grad", shape+obj.Key, func(sets []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
		trained, p := models.NodeSet{}, models.Params{Base: sets[0], LoRA: lora, Checkpointing: spec.Checkpoints}
		var parts []*Node
		seen := models.NodeSet{} // as the forward pass computes with them
		for _, block := range blocks {
			for i, x := range block.cut(sets[1][block.name]) {
				trained[block.names[i]] = x
				seen[block.names[i]] = ConvertDType(x, block.dtypes[i])
				parts = append(parts, x)
			}
		}
		if full {
			p.Base = seen
		} else if p.Adapter = seen; lora.Dropout > 0 {
			p.RNG = in[5]
		}
		completionMask, weight := in[3], in[4]
		var values *Node // [batch, k, completion], rewards [batch, k]
		extra := in[6:]
		switch {
		case c.Reward:
			values = c.Rewards(p, in[0], in[1], in[2], completionMask)
		case obj.Agreement:
			var agreement *Node
			values, agreement = c.CompletionLikelihoods(p, in[0], in[1], in[2], completionMask)
			extra = append(slices.Clone(extra), agreement)
		default:
			values = c.CompletionLogProbs(p, in[0], in[1], in[2], completionMask)
		}
		lens := MaxScalar(ReduceSum(ConvertDType(completionMask, dtypes.Float32), -1), 1)
		loss, metrics := obj.Fn(values, lens, weight, extra)
		grads := Gradient(ReduceAllSum(Mul(loss, weight)), parts...)
		sums := models.NodeSet{}
		var square *Node
		for _, block := range blocks {
			sum := block.join(grads[:len(block.names)])
			grads = grads[len(block.names):]
			if old := sets[2][block.name]; old != nil {
				sum = Add(old, sum)
			}
			sums[block.name] = sum
			if s := ReduceAllSum(Square(sum)); square == nil {
				square = s
			} else {
				square = Add(square, s)
			}
		}
		return []models.NodeSet{sums}, append([]*Node{loss, square}, metrics...)
	})
	t.zeros = models.SharedOn(b, spec.Mesh, "zeros", "", func(sets []models.NodeSet, _ []*Node) ([]models.NodeSet, []*Node) {
		return []models.NodeSet{{flatSums: ZerosLike(sets[0][flatWeights])}}, nil
	})

	// update: a block's set {weights, sums, state…}, donated; inputs lr, the clipping factor, the rule's scalars.
	for i, block := range blocks {
		block.name, block.names = "", nil // blocks of one shape share the function
		t.update[blocks[i].name] = models.SharedOn(b, spec.Mesh, "update", fmt.Sprint(spec.Optimizer, block), func(sets []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
			s := sets[0]
			w, state := t.rule.Update(spec.Optimizer, Step{
				Weights: s[flatWeights], Grad: Mul(s[flatSums], in[1]), State: s, LR: in[0], Scalars: in[2:], block: block,
			})
			out := models.NodeSet{flatWeights: w}
			maps.Copy(out, state)
			return []models.NodeSet{out}, nil
		})
	}
	return t
}

// Names of vectors in an update beside the optimizer's own.
const flatWeights, flatSums = "weights", "sums"

// example is one row of training: completions that share a prompt, the row's weight in the summed loss, extra scalars.
type example struct {
	id     string
	row    models.Row
	weight float64
	extra  []float32
}

// stepResult are the weighted means of the objective's metrics over the step's rows, and its loss and gradient norm.
type stepResult struct {
	loss, gradNorm, rate float64
	metrics              map[string]float64
	tokens, padded       int // real and computed token positions
}

// nonFinite is returned when a loss or gradient is not a number; the learner is as before the step.
type nonFinite struct {
	what string
	ids  []string
}

func (e *nonFinite) Error() string {
	return fmt.Sprintf("%s is not finite at pairs %s", e.what, summarize(e.ids, 8))
}

// step runs one optimizer step of l on rows. Weights should sum to 1. seed drives dropout. Where the loss or the gradient
// is not finite the learner stays as it was.
func (t *trainer) step(l *learner, rows []example, step int, seed uint64) (stepResult, error) {
	res := stepResult{metrics: map[string]float64{}, rate: t.Optimizer.rate(step, t.Steps)}
	where, err := l.place(t.Mesh)
	if err == nil {
		err = t.placeBase(l)
	}
	if err != nil {
		return res, err
	}
	sums := models.NewSharded(t.Mesh)
	defer func() { sums.Finalize() }()
	if t.Micro < t.Batch {
		for _, block := range l.blocks {
			w := models.NewSharded(t.Mesh)
			w.Put(flatWeights, where.w, block.name)
			sets, _, err := t.zeros.CallSharded([]models.ShardedArg{{Set: w}})
			if err != nil {
				return res, err
			}
			sums.Put(block.name, sets[0], flatSums)
		}
	}
	if t.Micro < len(rows) { // texts of about one length share a call, so that less of it is padding
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, func(a, b example) int { return byLength(b, a, t.Bucket) }) // a last, short one the narrowest
	}
	var bad []string
	square := 0.0
	for at := 0; at < len(rows); at += t.Micro {
		batch := rows[at:min(at+t.Micro, len(rows))]
		in, tokens, padded := t.pack(batch, seed+uint64(at)*0x9e3779b97f4a7c15)
		sets, out, err := t.grad.CallSharded([]models.ShardedArg{{Set: t.base}, {Set: where.w}, {Set: sums, Donate: true}}, in...)
		for _, x := range in {
			x.MustFinalizeAll()
		}
		if err != nil {
			return res, fmt.Errorf("gradient at step %d: %w", step, err)
		}
		sums = sets[0]
		res.tokens, res.padded = res.tokens+tokens, res.padded+padded
		square = float64(tensors.ToScalar[float32](out[1]))
		values := tensors.MustCopyFlatData[float32](out[0])
		for i, ex := range batch {
			v := float64(values[i])
			res.loss += v * ex.weight
			if math.IsNaN(v) || math.IsInf(v, 0) {
				bad = append(bad, ex.id)
			}
		}
		for k, name := range t.metrics {
			values := tensors.MustCopyFlatData[float32](out[2+k])
			for i, ex := range batch {
				res.metrics[name] += float64(values[i]) * ex.weight
			}
		}
		finalize(out)
	}
	if bad != nil {
		return res, &nonFinite{"the loss", bad}
	}
	res.gradNorm = math.Sqrt(square)
	if math.IsNaN(res.gradNorm) || math.IsInf(res.gradNorm, 0) {
		ids := make([]string, len(rows))
		for i, ex := range rows {
			ids[i] = ex.id
		}
		return res, &nonFinite{"the gradient", ids}
	}
	given := sums
	sums = models.NewSharded(t.Mesh)
	return res, t.apply(l, given, step, res.gradNorm)
}

// placeBase puts the frozen weights on the mesh, once for all learners, which have them in common.
func (t *trainer) placeBase(l *learner) (err error) {
	base, _ := l.start.Sets()
	if l.full {
		base = models.Weights{}
	}
	if t.Mesh.Devices() == 1 || len(t.base.Names()) != len(base) {
		t.base, err = models.Shard(t.Mesh, base)
	}
	return err
}

// finalize frees what the trainer put on a mesh.
func (t *trainer) finalize() {
	if t.Mesh.Devices() > 1 {
		t.base.Finalize()
	}
}

// apply updates every block of l by its summed gradient, which it consumes.
func (t *trainer) apply(l *learner, sums models.Sharded, step int, norm float64) error {
	where, err := l.place(t.Mesh)
	if err != nil {
		return err
	}
	values := []float64{t.Optimizer.rate(step, t.Steps), t.Optimizer.clip(norm)}
	if t.rule.Scalars != nil {
		values = append(values, t.rule.Scalars(t.Optimizer, step+1)...)
	}
	scalars := make([]models.Input, len(values))
	for i, v := range values {
		scalars[i].Tensor = tensors.FromScalar(float32(v))
		defer scalars[i].MustFinalizeAll()
	}
	for _, block := range l.blocks {
		state := t.rule.State(t.Optimizer, block.dims)
		set := models.NewSharded(t.Mesh)
		set.Put(flatWeights, where.w, block.name)
		set.Put(flatSums, sums, block.name)
		for name := range state {
			set.Put(name, where.state, stateName(name, block.name))
		}
		sets, _, err := t.update[block.name].CallSharded([]models.ShardedArg{{Set: set, Donate: true}}, scalars...)
		if err != nil {
			return fmt.Errorf("update at step %d: %w", step, err)
		}
		where.w.Put(block.name, sets[0], flatWeights)
		for name := range state {
			where.state.Put(stateName(name, block.name), sets[0], name)
		}
	}
	return nil
}

// pack pads a micro-batch to its bucket and to t.Micro rows; padding rows weigh nothing.
func (t *trainer) pack(batch []example, seed uint64) (in []models.Input, tokens, padded int) {
	rows := make([]models.Row, len(batch))
	weight := make([]float32, t.Micro)
	extra := make([][]float32, len(batch[0].extra))
	for i, ex := range batch {
		rows[i] = ex.row
		weight[i] = float32(ex.weight)
		for j, v := range ex.extra {
			if extra[j] == nil {
				extra[j] = make([]float32, t.Micro)
			}
			extra[j][i] = v
		}
	}
	p, r, k, tokens := widths(rows)
	p, r = t.Bucket(p), t.Bucket(r)
	for _, x := range models.PackRows(rows, t.Micro, p, r, k, 0) {
		in = append(in, models.Input{Tensor: x, Rows: true})
	}
	column := func(x []float32) models.Input {
		return models.Input{Tensor: tensors.FromFlatDataAndDimensions(x, t.Micro), Rows: true}
	}
	in = append(in, column(weight), models.Input{Tensor: rngState(seed)})
	for _, x := range extra {
		in = append(in, column(x))
	}
	return in, tokens, t.Micro * (p + k*r)
}

// widths are the prompt and completion widths that hold all rows, their k, and their real tokens.
func widths(rows []models.Row) (prompt, completion, k, tokens int) {
	for _, row := range rows {
		prompt = max(prompt, len(row.Prompt))
		tokens += len(row.Prompt)
		k = len(row.Completions)
		for _, c := range row.Completions {
			completion = max(completion, len(c))
			tokens += len(c)
		}
	}
	return prompt, completion, k, tokens
}

func rngState(seed uint64) *tensors.Tensor {
	return tensors.FromValue([]uint64{seed, seed ^ 0xda942042e4dd58b5, 0x6c62272e07bb0142})
}

func finalize(all []*tensors.Tensor) {
	for _, t := range all {
		t.MustFinalizeAll()
	}
}

func summarize(ids []string, n int) string {
	if len(ids) <= n {
		return fmt.Sprint(ids)
	}
	return fmt.Sprintf("%v and %d more", ids[:n], len(ids)-n)
}
