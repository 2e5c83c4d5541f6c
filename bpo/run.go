package bpo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gomlx/compute"
	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/sample"
)

// Metrics are named numbers of one step, under TRL's names where TRL has them.
type Metrics map[string]float64

// Setup is everything a run needs besides its config.
type Setup struct {
	Config  Config
	Backend compute.Backend
	Model   *models.Model
	Start   []models.Policy // one starting policy a learner; nil: fresh adapters on the base, of MemberSeed
	Prompts []Prompt        // unused by an offline run
	// EncodePrompt gives the ids of a prompt that a file of given pairs has as text and, maybe, as a conversation, in the way in
	// which Prompts were made; nil: Tokenizer.EncodePrompt of its text.
	EncodePrompt func(text string, conversation []data.Message) ([]int32, error)
	// End ends the texts to learn from, and samples; 0: the tokenizer's EOS. A chat template ends a turn with what may be another.
	End       int32
	Annotator annotate.Annotator
	Dir       string // checkpoints, pairs and the final policy go here; a checkpoint found here is resumed

	// Sampler and Scorer for this model and backend, shared with whoever else uses them; nil: made for the run.
	Sampler *sample.Sampler
	Scorer  *models.Scorer

	EvalEvery int // steps between evaluations, besides the one of the final policy; 0 = only that
	// Evaluate measures a policy; what it returns joins the metrics of that step.
	Evaluate func(ctx context.Context, step int, p models.Policy) (Metrics, error)
	// Log takes each step's metrics, steps counted from 1 (0 is the evaluation before training).
	Log func(step int, m Metrics) error
	// Resumed is called before a run goes on from a checkpoint; Log takes the metrics of the steps after this one.
	Resumed func(step int) error
	// Progress reports what is being done ("sample", "train", …) at a step of T.
	Progress func(what string, step, of int)
}

// PolicyFile is the name, in a run's directory, of the final merged policy.
const PolicyFile = "policy.safetensors"

// ExtrapolatedFile is the policy that a run ends with where it was extrapolated from the trained one.
const ExtrapolatedFile = "extrapolated.safetensors"

// PolicyPath is the file of the policy that a run ended with.
func PolicyPath(dir string) string {
	if path := filepath.Join(dir, ExtrapolatedFile); exists(path) {
		return path
	}
	return filepath.Join(dir, PolicyFile)
}

type run struct {
	setup   Setup
	cfg     *Config
	loss    Loss
	beta    float64 // of an adaptive schedule, else the first one's
	trainer *trainer
	start   []models.Policy // the caller's; their tensors outlive the run
}

func (r *run) progress(what string, step, of int) {
	if r.setup.Progress != nil {
		r.setup.Progress(what, step, of)
	}
}

func (r *run) stop() []int32 { return r.setup.Model.Stop(r.setup.End) }

// Train runs T steps in F data-collection phases (paper, algorithm 1) and returns the merged policy,
// which is also written to Dir/policy.safetensors. It resumes where a checkpoint in Dir ends.
func Train(ctx context.Context, s Setup) (models.Policy, error) {
	var none models.Policy
	cfg := &s.Config
	loss, err := cfg.Loss.resolve()
	if err = errors.Join(err, cfg.Validate()); err != nil {
		return none, err
	}
	if err := cfg.Mesh.Check(s.Backend); err != nil {
		return none, err
	}
	if s.End == 0 {
		s.End = s.Model.Tokenizer.EOS()
	}
	if s.Sampler == nil {
		s.Sampler = sample.New(s.Backend, s.Model.Config, models.Bucket)
		defer s.Sampler.Finalize()
	}
	if s.Scorer == nil {
		s.Scorer = models.NewScorer(s.Backend, s.Model.Config, models.Bucket)
		defer s.Scorer.Finalize()
	}
	s.Sampler.Spread(cfg.Mesh.Devices())
	s.Scorer.Spread(cfg.Mesh.Devices())
	r := &run{setup: s, cfg: cfg, loss: loss, beta: cfg.Loss.Beta}
	start := s.Start
	if start == nil {
		for i := range cfg.Learners {
			p := models.Policy{Name: "sft", Base: s.Model.Base}
			if !cfg.full() {
				p.Adapter = models.NewAdapter(s.Model.Config, cfg.LoRA, MemberSeed(cfg.Seed, i))
			}
			start = append(start, p)
		}
	}
	if len(start) != cfg.Learners {
		return none, fmt.Errorf("learners: %d starting policies for %d learners", len(start), cfg.Learners)
	}
	var learners []*learner
	for _, p := range start {
		l, err := newLearner(p, cfg.full(), cfg.Optimizer)
		if err != nil {
			return none, err
		}
		learners = append(learners, l)
	}
	r.start = start
	sft := start[0]
	if len(start) > 1 {
		if sft, err = merged(s.Backend, cfg.Merge, "sft", learners); err != nil {
			return none, err
		}
	}
	behavior := versioned{policy: sft}
	ref := &reference{kind: cfg.Reference, versioned: versioned{policy: sft}}
	if path := cfg.ReferencePath(); path != "" {
		ref.kind = "checkpoint"
		if ref.policy, err = LoadCheckpoint(path, s.Model); err != nil {
			return none, fmt.Errorf("reference: %w", err)
		}
	}
	r.trainer = newTrainer(s.Backend, s.Model.Config, learners[0], preferenceObjective(cfg.Loss), trainSpec{
		Optimizer: cfg.Optimizer, Steps: cfg.Steps, Batch: cfg.BatchSize, Micro: cfg.Micro(), Checkpoints: cfg.GradientCheckpointing, Mesh: cfg.Mesh,
	})
	defer r.trainer.finalize()

	st, resumed, err := r.load(learners, &behavior, ref)
	if err != nil {
		return none, err
	}
	if resumed && s.Resumed != nil {
		told := st.Step
		if st.Unlogged != nil {
			told--
		}
		if err := s.Resumed(told); err != nil {
			return none, err
		}
	}
	return r.loop(ctx, learners, behavior, ref, st, resumed)
}

// LoadCheckpoint reads what "checkpoint:<path>" means: a policy file, a run's directory, or that of a study whose only run
// it is.
func LoadCheckpoint(path string, m *models.Model) (models.Policy, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		found, err := filepath.Glob(filepath.Join(path, "*", PolicyFile))
		if err != nil {
			return models.Policy{}, err
		}
		if len(found) != 1 || exists(filepath.Join(path, PolicyFile)) {
			found = []string{filepath.Join(path, PolicyFile)}
		}
		path = PolicyPath(filepath.Dir(found[0]))
	}
	return LoadPolicy(path, m)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// loop is the method. At every phase start the behavior LLM becomes the merged learners and collects the phase's
// pairs; at every step each learner takes one step on the same pairs.
func (r *run) loop(ctx context.Context, learners []*learner, behavior versioned, ref *reference, st state, resumed bool) (models.Policy, error) {
	var (
		none      models.Policy
		cfg, s    = r.cfg, &r.setup
		k         = cfg.K()
		pairs     map[int][]*data.Preference // by step, of this phase and of those that are still replayed
		collected bool                       // this phase's
		given     *offline                   // all pairs of an offline run, some of a mixed one's
		samples   = &collector{run: r}
		count     tally
		err       error
	)
	offlineRun := cfg.OfflinePath() != ""
	if path := cmp.Or(cfg.OfflinePath(), cfg.Mix.Pairs); path != "" {
		if given, count, err = loadOffline(s, path); err != nil {
			return none, err
		}
		if err := r.selectPairs(ctx, given, path); err != nil {
			return none, err
		}
		if st.Step > 0 { // told with the first step
			count = tally{}
		}
	}
	if !offlineRun && len(s.Prompts) == 0 {
		return none, errors.New("prompts: there is no prompt to sample from")
	}
	if !resumed && s.EvalEvery > 0 {
		if err := r.evaluate(ctx, 0, behavior.policy, Metrics{}); err != nil {
			return none, err
		}
	}
	saved := -1 // step of the newest checkpoint
	if resumed {
		saved = st.Step
	}
	save := func(step int, unlogged Metrics) error {
		err := r.save(learners, behavior, ref, step, st.Phase, unlogged)
		if err == nil {
			saved = step
		}
		return err
	}
	// stopped keeps what a run that goes no further has done.
	stopped := func(err error, step int, unlogged Metrics) error {
		if err != nil && step > saved {
			err = errors.Join(err, save(step, unlogged))
		}
		return err
	}
	// finish evaluates the policy after a step, where that is due, and tells the step's metrics. The last one's policy is the run's.
	finish := func(done int, m Metrics) (policy models.Policy, err error) {
		last := done == cfg.Steps
		if !last && (s.EvalEvery == 0 || done%s.EvalEvery != 0) {
			return none, stopped(r.log(done, m), done, m)
		}
		if policy, err = merged(s.Backend, cfg.Merge, "policy", learners); err != nil {
			return none, err
		}
		if last && s.Evaluate != nil && saved < done { // the longest evaluation, with all the training behind it
			if err := save(done, m); err != nil {
				return none, err
			}
		}
		if err := r.evaluate(ctx, done, policy, maps.Clone(m)); err != nil {
			return none, stopped(err, done, m)
		}
		if !last {
			release(policy, r.start...)
			return none, nil
		}
		if err := SavePolicy(filepath.Join(s.Dir, PolicyFile), policy); err != nil {
			return policy, err
		}
		if saved < done {
			return policy, save(done, nil)
		}
		return policy, r.logged(done)
	}
	if st.Unlogged != nil {
		if policy, err := finish(st.Step, st.Unlogged); err != nil || st.Step == cfg.Steps {
			return policy, err
		}
		if err := r.logged(st.Step); err != nil {
			return none, err
		}
	}
	for step := st.Step; step < cfg.Steps; step++ {
		if err := ctx.Err(); err != nil {
			return none, stopped(err, step, nil) // told to stop, so nothing need be lost
		}
		phase := step / k
		if phase != st.Phase { // refresh: π_β ← Merge(θ_1..θ_n)
			st.Phase = phase
			if cfg.Behavior != "sft" {
				old := behavior.policy
				if behavior.policy, err = r.refresh(old, learners); err != nil {
					return none, err
				}
				behavior.version++
				release(old, append(r.start, ref.policy)...)
			}
			if err := save(step, nil); err != nil {
				return none, err
			}
			collected = false
		}
		if !offlineRun && !collected {
			fresh, counted, err := samples.phase(ctx, phase, phase*k, min((phase+1)*k, cfg.Steps), behavior, ref)
			if err != nil {
				return none, err
			}
			if phase == cfg.Phases()-1 && len(fresh) == 0 && given == nil {
				if err := samples.nothing(phase, counted); err != nil {
					return none, err
				}
			}
			if err := r.checkSampler(ctx, fresh, behavior); err != nil {
				return none, err
			}
			if pairs, err = samples.keep(ctx, pairs, fresh, phase, behavior, ref); err != nil {
				return none, err
			}
			if err := samples.spend(phase, counted.Usage); err != nil {
				return none, fmt.Errorf("collect phase %d: %w", phase, err)
			}
			counted.Usage = samples.spent
			counted.Truncated += count.Truncated
			counted.Reencoded += count.Reencoded
			count, collected = counted, true
		}
		batch := pairs[step]
		if cfg.Replay > 0 {
			batch = r.draw(pairs, step)
		}
		if given != nil {
			batch = slices.Concat(given.step(step), batch)
		}
		m := Metrics{}
		if err := r.reference(ctx, batch, behavior, ref, m); err != nil {
			return none, stopped(err, step, nil)
		}
		if moved, err := r.step(learners, batch, step, m); err != nil {
			var bad *nonFinite
			if errors.As(err, &bad) {
				if !moved { // the learners are as before this step: keep them
					err = stopped(err, step, nil)
				}
				err = fmt.Errorf("step %d: %w; stopped with a checkpoint of step %d", step+1, err, max(saved, 0)) // without one it begins anew
			}
			return none, err
		}
		if step == 0 {
			if err := r.checkIdentity(m); err != nil {
				return none, err
			}
		}
		if r.isReference(step, ref) { // which margin is above 0 is then a matter of rounding
			delete(m, "rewards/accuracies")
		}
		r.describe(m, step, phase, behavior, ref, count)
		count = tally{} // told, now or before the run was resumed
		if ref.kind == "ema" && (step+1)%cfg.EMAEvery == 0 {
			if err := r.moveEMA(ref, learners, behavior.policy); err != nil {
				return none, err
			}
		}
		if policy, err := finish(step+1, m); err != nil || step+1 == cfg.Steps {
			return policy, err
		}
		if cfg.CheckpointEvery > 0 && (step+1)%cfg.CheckpointEvery == 0 {
			if err := save(step+1, nil); err != nil {
				return none, err
			}
		}
		r.progress("train", step+1, cfg.Steps)
	}
	// A run resumed after its last step.
	return LoadPolicy(filepath.Join(s.Dir, PolicyFile), s.Model)
}

// isReference says whether the only learner is, at the start of a step, the reference of the step's pairs.
func (r *run) isReference(step int, ref *reference) bool {
	switch {
	case r.loss.ReferenceFree:
		return false
	case step == 0: // both are the start policy
		return r.cfg.Learners == 1 && ref.kind != "checkpoint"
	}
	return ref.kind == "behavior" && r.cfg.becomesBehavior() && step%r.cfg.K() == 0
}

// reference makes sure that the batch carries log-probs of the current reference.
func (r *run) reference(ctx context.Context, batch []*data.Preference, behavior versioned, ref *reference, m Metrics) error {
	start := time.Now()
	var lacking []*data.Preference
	for _, p := range batch {
		if len(p.RefChosenLogps) == 0 || ref.kind == "ema" && ref.version > 0 {
			lacking = append(lacking, p)
		}
	}
	if !r.loss.ReferenceFree && len(lacking) > 0 {
		if err := ref.fill(ctx, r.setup.Backend, r.setup.Scorer, ref.of(behavior).policy, lacking, r.cfg.Micro()); err != nil {
			return err
		}
	}
	m["time/reference"] = time.Since(start).Seconds()
	return nil
}

// step trains every learner on the batch; metrics are means over learners. An empty batch (all pairs dropped) is skipped.
// After an error moved says whether a learner has taken the step already.
func (r *run) step(learners []*learner, batch []*data.Preference, step int, m Metrics) (moved bool, err error) {
	start := time.Now()
	rows := make([]example, len(batch))
	beta := r.cfg.Loss.Schedule.at(r.beta, step, r.cfg.Steps)
	behavior := 0.0 // mean over both completions of log π_β
	for i, p := range batch {
		weight := 1 / float64(len(batch))
		rows[i] = example{id: p.ID, row: rowOf(p), weight: weight, extra: []float32{0, 0, float32(beta)}}
		if !r.loss.ReferenceFree { // else rewards are those of log π_θ alone, whatever else the pairs carry
			rows[i].extra[0], rows[i].extra[1] = float32(sum(p.RefChosenLogps)), float32(sum(p.RefRejectedLogps))
		}
		if t := r.cfg.Loss.SoftLabels; t > 0 {
			if p.ChosenScore == nil || p.RejectedScore == nil {
				return false, fmt.Errorf("loss.soft_labels: pair %s has no scores; %s only compares", p.ID, p.Annotator)
			}
			prob := 1 / (1 + math.Exp((*p.RejectedScore-*p.ChosenScore)/t))
			rows[i].extra = append(rows[i].extra, float32(prob))
		}
		behavior += weight * (sum(p.ChosenLogps) + sum(p.RejectedLogps)) / 2
	}
	tokens, padded := 0, 0
	if len(rows) > 0 {
		n := float64(len(learners))
		for i, l := range learners {
			res, err := r.trainer.step(l, rows, step, mix(r.cfg.Seed^mix(uint64(step)))+uint64(i))
			if err != nil {
				return i > 0, err
			}
			for name, v := range res.metrics {
				m[name] += v / n
			}
			m["loss"] += res.loss / n
			m["grad_norm"] += res.gradNorm / n
			m["learning_rate"] = res.rate
			tokens, padded = tokens+res.tokens, padded+res.padded
		}
		if !slices.ContainsFunc(batch, func(p *data.Preference) bool { return len(p.ChosenLogps) == 0 }) { // on samples of π_β: an unbiased estimate of KL(π_β ‖ π_θ)
			m["kl/behavior"] = behavior - (m["logps/chosen"]+m["logps/rejected"])/2
			r.beta = r.cfg.Loss.Schedule.after(r.beta, m["kl/behavior"])
		}
		if r.cfg.Loss.Schedule.Name != "" {
			m["beta"] = beta
		}
	}
	m.speed(time.Since(start).Seconds(), tokens, padded)
	m["num_pairs"] = float64(len(batch))
	return true, nil
}

// speed adds the time that a step's gradients took, and the token positions in it, real and computed.
func (m Metrics) speed(seconds float64, tokens, padded int) {
	m["time/learn"] = seconds
	if tokens > 0 {
		m["tokens_per_second"] = float64(tokens) / seconds
		m["padding_share"] = 1 - float64(tokens)/float64(padded)
	}
}

// describe adds where the run stands, and once per phase what the collection counted.
func (r *run) describe(m Metrics, step, phase int, behavior versioned, ref *reference, count tally) {
	m["phase"] = float64(phase)
	m["behavior/version"] = float64(behavior.version)
	m["reference/version"] = float64(ref.of(behavior).version)
	m["compile/count"] = float64(len(models.Compilations()))
	if count.Prompts == 0 || step%r.cfg.K() != 0 { // a run resumed inside a phase has told these already
		return
	}
	maps.Copy(m, count.Usage) // so far
	m["collect/prompts"] = float64(count.Prompts)
	m["collect/identical"] = float64(count.Identical)
	m["collect/ties"] = float64(count.Ties)
	m["collect/truncated"] = float64(count.Truncated)
	if count.Reencoded > 0 {
		m["collect/reencoded"] = float64(count.Reencoded)
	}
	m["time/sample"] = count.SampleSeconds
	m["time/annotate"] = count.AnnotateSeconds
	m["time/reference"] += count.ReferenceSeconds
	if count.Completions > 0 {
		m["collect/completion_tokens"] = float64(count.Tokens) / float64(count.Completions)
		m["collect/stopped_share"] = float64(count.SampledStops) / float64(count.Completions)
		m["collect/tokens_per_second"] = float64(count.Tokens) / max(count.SampleSeconds, 1e-9)
	}
}

func (r *run) evaluate(ctx context.Context, step int, p models.Policy, m Metrics) error {
	if r.setup.Evaluate != nil {
		start := time.Now()
		r.progress("eval", step, r.cfg.Steps)
		values, err := r.setup.Evaluate(ctx, step, p)
		if err != nil {
			return fmt.Errorf("evaluate at step %d: %w", step, err)
		}
		for name, v := range values {
			m[name] = v
		}
		m["time/eval"] = time.Since(start).Seconds()
	}
	return r.log(step, m)
}

func (r *run) log(step int, m Metrics) error {
	if r.setup.Log == nil {
		return nil
	}
	return r.setup.Log(step, m)
}

// refresh is π_β of the next phase: the merged learners, or the moving average that goes on to them.
func (r *run) refresh(old models.Policy, learners []*learner) (models.Policy, error) {
	policy, err := merged(r.setup.Backend, r.cfg.Merge, "behavior", learners)
	if err != nil || r.cfg.Behavior != "ema" {
		return policy, err
	}
	defer release(policy, r.start...) // a start's dense weights are those of all learners over it
	average, err := models.EMA(r.setup.Backend, old, policy, r.cfg.EMAAlpha)
	average.Name = "behavior"
	if err != nil {
		return average, fmt.Errorf("ema behavior: %w", err)
	}
	return average, nil
}

// draw takes a step's pairs, without replacement, from those of the last Replay steps: a function of seed and step.
func (r *run) draw(pairs map[int][]*data.Preference, step int) []*data.Preference {
	var queue []*data.Preference
	for s := max(0, step-r.cfg.Replay+1); s <= step; s++ {
		queue = append(queue, pairs[s]...)
	}
	order := data.Order(len(queue), mix(r.cfg.Seed^0x7265706c6179), step)
	batch := make([]*data.Preference, 0, r.cfg.Fresh())
	for _, i := range order[:min(len(order), r.cfg.Fresh())] {
		batch = append(batch, queue[i])
	}
	return batch
}

// moveEMA moves the reference to (1−α)·reference + α·merged learners.
func (r *run) moveEMA(ref *reference, learners []*learner, keep models.Policy) error {
	policy, err := merged(r.setup.Backend, r.cfg.Merge, "policy", learners)
	if err != nil {
		return err
	}
	old := ref.policy
	if ref.policy, err = models.EMA(r.setup.Backend, old, policy, r.cfg.EMAAlpha); err != nil {
		return fmt.Errorf("ema reference: %w", err)
	}
	release(policy, r.start...)
	release(old, append(r.start, keep)...)
	ref.version++
	return nil
}
