package bpo

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/bpo/annotate"
	"gobpo/models"
	"gobpo/models/backend/backendtest"
)

func TestBetaSchedules(t *testing.T) {
	linear, cosine := BetaSchedule{Name: "linear", End: 0.5}, BetaSchedule{Name: "cosine", End: 0.5}
	for _, c := range []struct {
		s        BetaSchedule
		step, of int
		want     float64
	}{
		{BetaSchedule{}, 7, 11, 0.1},
		{linear, 0, 11, 0.1}, {linear, 5, 11, 0.3}, {linear, 10, 11, 0.5}, {linear, 0, 1, 0.1},
		{cosine, 0, 11, 0.1}, {cosine, 5, 11, 0.3}, {cosine, 10, 11, 0.5}, {cosine, 2, 9, 0.5 - 0.4*(1+math.Sqrt2/2)/2},
	} {
		if got := c.s.at(0.1, c.step, c.of); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%+v at %d of %d: %g, want %g", c.s, c.step, c.of, got, c.want)
		}
	}
	adaptive := BetaSchedule{Name: "adaptive", TargetKL: 4}
	for kl, want := range map[float64]float64{4: 1, 4.4: 1.01, 40: 1.02, 3.6: 0.99, -1: 0.98, math.NaN(): 1} {
		if got := adaptive.after(1, kl); math.Abs(got-want) > 1e-12 {
			t.Errorf("adaptive at a KL of %g: %g, want %g", kl, got, want)
		}
	}
	for _, c := range []struct {
		s    BetaSchedule
		want string
	}{
		{BetaSchedule{Name: "quadratic"}, "loss.schedule.name:"}, {BetaSchedule{Name: "linear"}, "loss.schedule.end:"},
		{BetaSchedule{End: 1}, "loss.schedule.end:"}, {BetaSchedule{Name: "adaptive"}, "loss.schedule.target_kl:"},
		{BetaSchedule{Name: "linear", End: 1, Horizon: 3}, "loss.schedule.horizon:"},
	} {
		if err := c.s.validate(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.s, err, c.want)
		}
	}
}

// tabular minimises a loss over the logits of a bandit's arms, by gradient descent on all ordered pairs of arms, and
// returns the log-probs of the policy that it finds, and the β that it ends with. β goes where its schedule leads in the
// first half, an adaptive one after KL(π ‖ prior) all the way.
func tabular(t *testing.T, c LossConfig, prior, reward []float64, steps int, rate float64) ([]float64, float64) {
	t.Helper()
	var w, l []int32
	var probs []float32
	for i := range reward {
		for j := range reward {
			if i != j {
				w, l = append(w, int32(i)), append(l, int32(j))
				probs = append(probs, float32(1/(1+math.Exp((reward[j]-reward[i])/c.SoftLabels))))
			}
		}
	}
	ref := make([]float32, len(prior))
	for i, p := range prior {
		ref[i] = float32(math.Log(p))
	}
	e := models.NewExec(backendtest.Go(t), "tabular", func(_ []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
		g := in[0].Graph()
		at := func(x *Node, arms []int32) *Node { return Gather(x, InsertAxes(Const(g, arms), -1)) }
		one := OnesLike(Const(g, probs))
		logp := Sub(in[0], Log(ReduceAllSum(Exp(in[0]))))
		loss := ReduceAllMean(c.Apply(Logps{
			Chosen: at(logp, w), Rejected: at(logp, l), RefChosen: at(Const(g, ref), w), RefRejected: at(Const(g, ref), l),
			ChosenLen: one, RejectedLen: one, Prob: Const(g, probs), Beta: Mul(one, in[1]),
		}))
		next := Sub(in[0], MulScalar(Gradient(loss, in[0])[0], rate))
		return nil, []*Node{next, Sub(next, Log(ReduceAllSum(Exp(next))))}
	})
	defer e.Finalize()
	logits, found := ref, make([]float64, len(prior))
	first, beta := c.Beta, 0.0
	for step := range steps {
		beta = c.Schedule.at(first, min(step, steps/2), steps/2+1) // as a run's step and what comes behind it
		_, out, err := e.Call(nil, tensors.FromValue(logits), tensors.FromScalar(float32(beta)))
		if err != nil {
			t.Fatal(err)
		}
		logits = tensors.MustCopyFlatData[float32](out[0])
		for i, v := range tensors.MustCopyFlatData[float32](out[1]) {
			found[i] = float64(v)
		}
		first = c.Schedule.after(first, nats(found, prior))
	}
	return found, beta
}

// nats is KL(π ‖ prior), of log-probs.
func nats(logp, prior []float64) float64 {
	kl := 0.0
	for i, v := range logp {
		kl += math.Exp(v) * (v - math.Log(prior[i]))
	}
	return kl
}

// tilted is log π for π(a) ∝ π_prior(a)·exp(r(a)/β).
func tilted(prior, reward []float64, beta float64) []float64 {
	logp, sum := make([]float64, len(prior)), 0.0
	for i, p := range prior {
		logp[i] = math.Log(p) + reward[i]/beta
		sum += math.Exp(logp[i])
	}
	for i := range logp {
		logp[i] -= math.Log(sum)
	}
	return logp
}

// On a tabular bandit the soft labels of Bradley–Terry rewards have an exact answer: π(a) ∝ π_prior(a)·exp(r(a)/β), the
// optimum of E[r] − β·KL(π ‖ π_prior) (arXiv 2305.18290 eq. 4). DPO finds it, with the β that a schedule ends at too; an
// adaptive one ends where that optimum is as far from the prior as it was told to go, from above and from below. From below
// it has to be slow: DPO's gradient falls with β, and β with a policy that has yet to move. IPO's answer for two arms is
// h = (2p − 1)/(2β).
func TestTabularOptimum(t *testing.T) {
	prior, reward := []float64{0.4, 0.3, 0.2, 0.1}, []float64{0, 0.5, 1, 0.25}
	for _, c := range []LossConfig{
		{Name: "dpo", Beta: 0.5, SoftLabels: 1},
		{Name: "dpo", Beta: 2, SoftLabels: 1},
		{Name: "dpo", Beta: 2, SoftLabels: 1, Schedule: BetaSchedule{Name: "linear", End: 0.5}},
		{Name: "dpo", Beta: 0.1, SoftLabels: 1, Schedule: BetaSchedule{Name: "cosine", End: 1}},
		{Name: "dpo", Beta: 2, SoftLabels: 1, Schedule: BetaSchedule{Name: "adaptive", TargetKL: 0.3}},
		{Name: "dpo", Beta: 0.2, SoftLabels: 1, Schedule: BetaSchedule{Name: "adaptive", TargetKL: 0.3, Horizon: 100}},
		{Name: "dpo", Beta: 0.5, SoftLabels: 1, Schedule: BetaSchedule{Name: "adaptive", TargetKL: 0.1}},
	} {
		got, beta := tabular(t, c, prior, reward, 3000, 2)
		want := c.Schedule.at(c.Beta, 1, 2)
		if target := c.Schedule.TargetKL; target > 0 {
			low, high := 0.01, 100.0 // the optimum's KL falls with β
			for high-low > 1e-9 {
				if want = (low + high) / 2; nats(tilted(prior, reward, want), prior) > target {
					low = want
				} else {
					high = want
				}
			}
			if kl := nats(got, prior); math.Abs(kl-target) > 1e-3*target {
				t.Errorf("%s: the KL ends at %.4f nats", c, kl)
			}
		}
		if math.Abs(beta-want) > 1e-3*want {
			t.Errorf("%s: β ends at %.4f, want %.4f", c, beta, want)
		}
		for i, p := range tilted(prior, reward, beta) {
			if math.Abs(math.Exp(got[i])-math.Exp(p)) > 2e-3 {
				t.Errorf("%s: arm %d has probability %.4f, the optimum %.4f", c, i, math.Exp(got[i]), math.Exp(p))
			}
		}
	}
	ipo := LossConfig{Name: "ipo", Beta: 0.5, SoftLabels: 1}
	got, _ := tabular(t, ipo, []float64{0.5, 0.5}, []float64{1, 0}, 500, 0.3)
	p := 1 / (1 + math.Exp(-1))
	if h, want := got[0]-got[1], (2*p-1)/(2*ipo.Beta); math.Abs(h-want) > 1e-3 {
		t.Errorf("ipo: h = %g, want %g", h, want)
	}
}

// Soft labels are the two hard labels, weighed; a sure one is hard.
func TestSoftLabels(t *testing.T) {
	hard := LossConfig{Name: "dpo", Beta: 0.3}
	soft := hard
	soft.SoftLabels = 1
	value := func(c LossConfig, swap bool, p float32) float64 {
		e := models.NewExec(backendtest.Go(t), "soft", func(_ []models.NodeSet, in []*Node) ([]models.NodeSet, []*Node) {
			at := func(i int) *Node { return Reshape(SliceAxis(in[0], 0, AxisElem(i)), 1) }
			l := Logps{Chosen: at(0), Rejected: at(1), RefChosen: at(2), RefRejected: at(3), ChosenLen: at(4), RejectedLen: at(5), Prob: at(6)}
			if swap {
				l = l.Swapped()
			}
			return nil, []*Node{c.Apply(l)}
		})
		defer e.Finalize()
		_, out, err := e.Call(nil, tensors.FromValue([]float32{-10, -12, -11, -11.5, 4, 6, p}))
		if err != nil {
			t.Fatal(err)
		}
		return float64(tensors.MustCopyFlatData[float32](out[0])[0])
	}
	a, b := value(hard, false, 0), value(hard, true, 0)
	for p, want := range map[float32]float64{1: a, 0: b, 0.5: (a + b) / 2, 0.75: 0.75*a + 0.25*b} {
		if got := value(soft, false, p); math.Abs(got-want) > 1e-6 {
			t.Errorf("p = %g: %g, want %g", p, got, want)
		}
	}
	for _, c := range []LossConfig{{Name: "kto", Beta: 1, SoftLabels: 1}, {Name: "dpo", Beta: 1, SoftLabels: -1}, {Name: "dpo", Beta: 1, SoftLabels: 1, LabelSmoothing: 0.1}} {
		if _, err := c.resolve(); err == nil || !strings.HasPrefix(err.Error(), "loss.soft_labels:") {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

// onlyRanks hides an annotator's scores.
type onlyRanks struct{ annotate.Annotator }

func (o onlyRanks) Annotate(ctx context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error) {
	all, err := o.Annotator.Annotate(ctx, reqs, seed)
	for i, j := range all {
		ranks := make([]int, j.Len())
		for a := range ranks {
			for b := range ranks {
				if j.Compare(b, a) > 0 {
					ranks[a]++
				}
			}
		}
		all[i] = annotate.Judgment{Ranks: ranks}
	}
	return all, err
}

// A run with soft labels and an adaptive β resumes as it was, and tells β.
func TestAdaptiveBetaResumes(t *testing.T) {
	setup := func() Setup {
		s := testSetup(t)
		s.Config.Loss.SoftLabels, s.Config.Loss.Schedule = 0.5, BetaSchedule{Name: "adaptive", TargetKL: 1e-9, Horizon: 2}
		s.Config.CheckpointEvery = 1
		return s
	}
	_, whole := mustRecord(t, setup())
	if first, last := whole[1]["beta"], whole[4]["beta"]; first != setup().Config.Loss.Beta || last == first {
		t.Errorf("β from %g to %g", first, last)
	}
	s := setup()
	s.Log = func(step int, m Metrics) error {
		if step == 3 {
			return errKilled
		}
		return nil
	}
	if _, err := Train(context.Background(), s); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	_, again := mustRecord(t, s)
	if got, want := again[4]["beta"], whole[4]["beta"]; got != want || len(again) != 2 {
		t.Errorf("β ends at %g, uninterrupted at %g; steps %v", got, want, again)
	}
	s = setup()
	s.Annotator = onlyRanks{s.Annotator}
	if _, err := Train(context.Background(), s); err == nil || !strings.Contains(err.Error(), "loss.soft_labels: pair") {
		t.Errorf("an annotator without scores: %v", err)
	}
}
