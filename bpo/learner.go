package bpo

import (
	"fmt"
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
)

// objective turns the token log-probs of a micro-batch into what is minimised.
//
// logps [batch, k, completion] float32 are 0 where masked; lens [batch, k] float32 are the scored tokens (≥ 1);
// extra are the objective's own inputs. It returns the loss of each row [batch] and the rows' metrics, [batch] each.
type objective struct {
	Key     string // equal keys are equal functions
	Metrics []string
	Fn      func(logps, lens *Node, extra []*Node) (loss *Node, metrics []*Node)
}

// learner is one trainable weight set and its AdamW moments, as flat vectors that are replaced at every step.
type learner struct {
	start   models.Policy // what it began as; its own tensors stay as they were
	full    bool          // every weight is trained, else the adapter
	layout  layout
	w, m, v *tensors.Tensor // [n] float32
}

func newLearner(start models.Policy, full bool) (*learner, error) {
	l := &learner{start: start, full: full}
	trained, adapter := start.Sets()
	if !full {
		if trained = adapter; len(adapter) == 0 {
			return nil, fmt.Errorf("learner %q has no adapter to train", start.Name)
		}
	}
	l.layout = layoutOf(trained)
	l.m, l.v = zeros(l.layout.size()), zeros(l.layout.size())
	var err error
	l.w, err = l.layout.pack(trained)
	return l, err
}

// policy is the learner as it is now, in tensors of its own.
func (l *learner) policy(name string) (models.Policy, error) {
	p := models.Policy{Name: name, Base: l.start.Base, Override: l.start.Override}
	set, err := l.layout.unpack(l.w)
	if err != nil {
		return p, err
	}
	if l.full {
		p.Override = set
	} else {
		p.Adapter = &models.Adapter{LoRA: l.start.Adapter.LoRA, Weights: set}
	}
	return p, nil
}

func (l *learner) finalize() { finalize([]*tensors.Tensor{l.w, l.m, l.v}) }

// trainer compiles an objective and runs optimizer steps on any learner of one shape.
// A step is gradient calls on micro-batches, summed, then one update: accumulation is the large batch.
type trainer struct {
	metrics []string
	opt     OptimizerConfig
	steps   int
	grad    *models.Exec
	update  *models.Exec
	decay   *tensors.Tensor // [n]; nil without weight decay
	micro   int
}

// newTrainer builds the two functions of a step, for learners alike to the given one; LoRA dropout makes gradients stochastic.
func newTrainer(b compute.Backend, c models.Config, like *learner, obj objective, opt OptimizerConfig, steps, micro int) *trainer {
	l, lora, full := like.layout, like.start.LoRA(), like.full
	t := &trainer{metrics: obj.Metrics, opt: opt, steps: steps, micro: micro}
	shape := fmt.Sprintf("%v %v %v %v", c, lora, full, l.names)

	// grad: sets base, {weights, sums}; inputs: the packed rows, row weights [batch], RNG state, extra…
	t.grad = models.Shared(b, "grad", shape+obj.Key, func(sets []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
		trained := l.nodes(sets[1][flatWeights])
		p := models.Params{Base: sets[0], Adapter: trained, LoRA: lora}
		if full {
			p = models.Params{Base: trained}
		} else if lora.Dropout > 0 {
			p.RNG = in[5]
		}
		completionMask, weight := in[3], in[4]
		logps := c.CompletionLogProbs(p, in[0], in[1], in[2], completionMask) // [batch, k, completion]
		lens := MaxScalar(ReduceSum(ConvertDType(completionMask, dtypes.Float32), -1), 1)
		loss, metrics := obj.Fn(logps, lens, in[6:])
		sums := Add(sets[2][flatSums], l.gradient(ReduceAllSum(Mul(loss, weight)), trained))
		return []models.NodeSet{{flatSums: sums}}, append([]*Node{loss}, metrics...)
	})

	// update: set {weights, m, v, sums}, donated; inputs lr, c1, c2 and, with weight decay, its mask.
	t.update = models.Shared(b, "update", fmt.Sprint(opt), func(sets []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
		var decay *Node
		if len(in) > 3 {
			decay = in[3]
		}
		s := sets[0]
		w, m, v, norm := adamW(opt, s[flatSums], s[flatWeights], s[flatM], s[flatV], decay, in[0], in[1], in[2])
		return []models.NodeSet{{flatWeights: w, flatM: m, flatV: v}}, []*Node{norm}
	})
	if opt.WeightDecay > 0 {
		t.decay = l.decays()
	}
	return t
}

// Names of a learner's vectors.
const flatWeights, flatM, flatV, flatSums = "weights", "m", "v", "sums"

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

// step runs one optimizer step of l on rows. Weights should sum to 1. seed drives dropout.
func (t *trainer) step(l *learner, rows []example, step int, seed uint64) (stepResult, error) {
	res := stepResult{metrics: map[string]float64{}, rate: t.opt.rate(step, t.steps)}
	base, _ := l.start.Sets()
	if l.full {
		base = models.Weights{}
	}
	sums := models.Weights{flatSums: zeros(l.layout.size())}
	defer func() { sums.Finalize() }()
	var bad []string
	for at := 0; at < len(rows); at += t.micro {
		batch := rows[at:min(at+t.micro, len(rows))]
		in, tokens, padded := t.pack(batch, seed+uint64(at)*0x9e3779b97f4a7c15)
		sets, out, err := t.grad.Call([]models.Arg{{Set: base}, {Set: models.Weights{flatWeights: l.w}}, {Set: sums, Donate: true}}, in...)
		finalize(in)
		if err != nil {
			return res, fmt.Errorf("gradient at step %d: %w", step, err)
		}
		sums = sets[0]
		res.tokens, res.padded = res.tokens+tokens, res.padded+padded
		for k, o := range out {
			values := tensors.MustCopyFlatData[float32](o)
			for i, ex := range batch {
				v := float64(values[i])
				if k == 0 {
					res.loss += v * ex.weight
					if math.IsNaN(v) || math.IsInf(v, 0) {
						bad = append(bad, ex.id)
					}
				} else {
					res.metrics[t.metrics[k-1]] += v * ex.weight
				}
			}
		}
		finalize(out)
	}
	if bad != nil {
		return res, &nonFinite{"the loss", bad}
	}

	n := float64(step + 1)
	scalars := []*tensors.Tensor{
		tensors.FromScalar(float32(res.rate)),
		tensors.FromScalar(float32(1 - math.Pow(t.opt.Beta1, n))),
		tensors.FromScalar(float32(1 - math.Pow(t.opt.Beta2, n))),
	}
	set := models.Weights{flatWeights: l.w, flatM: l.m, flatV: l.v, flatSums: sums[flatSums]}
	sums = nil // given away
	in := scalars
	if t.decay != nil {
		in = append(in, t.decay)
	}
	sets, out, err := t.update.Call([]models.Arg{{Set: set, Donate: true}}, in...)
	finalize(scalars)
	if err != nil {
		return res, fmt.Errorf("update at step %d: %w", step, err)
	}
	l.w, l.m, l.v = sets[0][flatWeights], sets[0][flatM], sets[0][flatV]
	res.gradNorm = float64(tensors.ToScalar[float32](out[0]))
	finalize(out)
	if math.IsNaN(res.gradNorm) || math.IsInf(res.gradNorm, 0) {
		ids := make([]string, len(rows))
		for i, ex := range rows {
			ids[i] = ex.id
		}
		return res, &nonFinite{"the gradient", ids}
	}
	return res, nil
}

// pack pads a micro-batch to its bucket and to t.micro rows; padding rows weigh nothing.
func (t *trainer) pack(batch []example, seed uint64) (in []*tensors.Tensor, tokens, padded int) {
	rows := make([]models.Row, len(batch))
	weight := make([]float32, t.micro)
	extra := make([][]float32, len(batch[0].extra))
	for i, ex := range batch {
		rows[i] = ex.row
		weight[i] = float32(ex.weight)
		for j, v := range ex.extra {
			if extra[j] == nil {
				extra[j] = make([]float32, t.micro)
			}
			extra[j][i] = v
		}
	}
	p, r, k, tokens := widths(rows)
	in = models.PackRows(rows, t.micro, p, r, k, 0)
	in = append(in, tensors.FromFlatDataAndDimensions(weight, t.micro), rngState(seed))
	for _, column := range extra {
		in = append(in, tensors.FromFlatDataAndDimensions(column, t.micro))
	}
	return in, tokens, t.micro * (p + k*r)
}

// widths are the bucketed prompt and completion widths that hold all rows, their k, and their real tokens.
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
	return models.Bucket(prompt), models.Bucket(completion), k, tokens
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
