// Package losstest is the conformance suite of DAP losses. A new loss's test is one call:
//
//	func TestMyLoss(t *testing.T) {
//		losstest.Run(t, "myloss",
//			losstest.Point{Config: bpo.LossConfig{Beta: 0.1}, Chosen: -10, Rejected: -12, RefChosen: -11, RefRejected: -11,
//				ChosenLen: 4, RejectedLen: 6, Want: 0.598139},
//		)
//	}
//
// It checks the values at hand-computed points and of the table that tools/goldens/losses.py computes from the published
// formulas, gradients against that table and finite differences, the identity value, what swapping chosen and rejected
// does, independence of batch mates (unless the loss is Coupled), finiteness at extreme margins, and shapes and dtypes.
package losstest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/support/exceptions"
	"gobpo/bpo"
	"gobpo/models/backend/backendtest"
)

// Point is a pair, summed log-probs in nats, and the loss that was computed for it by hand.
type Point struct {
	Config                                   bpo.LossConfig // Name is filled in
	Chosen, Rejected, RefChosen, RefRejected float64
	ChosenLen, RejectedLen                   float64
	ChosenAgreement, RejectedAgreement       float64 // of bpo.Logps, for weighted losses
	Want                                     float64
}

const inputs = 8

func (p Point) values() [inputs]float64 {
	return [inputs]float64{p.Chosen, p.Rejected, p.RefChosen, p.RefRejected, p.ChosenLen, p.RejectedLen, p.ChosenAgreement, p.RejectedAgreement}
}

func (p Point) swapped() Point {
	p.Chosen, p.Rejected = p.Rejected, p.Chosen
	p.RefChosen, p.RefRejected = p.RefRejected, p.RefChosen
	p.ChosenLen, p.RejectedLen = p.RejectedLen, p.ChosenLen
	p.ChosenAgreement, p.RejectedAgreement = p.RejectedAgreement, p.ChosenAgreement
	return p
}

// Run checks the registered loss of that name on every test backend. At least one point is required.
func Run(t *testing.T, name string, points ...Point) {
	t.Helper()
	if len(points) == 0 {
		t.Fatalf("loss %q: give at least one hand-computed point", name)
	}
	var loss *bpo.Loss
	for _, l := range bpo.Losses() {
		if l.Name == name {
			loss = &l
			break
		}
	}
	if loss == nil {
		t.Fatalf("loss %q is not registered", name)
	}
	if loss.Doc == "" || (loss.Identity == nil) != loss.ReferenceFree {
		t.Errorf("loss %q: a Doc is required, and an Identity unless ReferenceFree", name)
	}
	for i := range points {
		points[i].Config.Name = name
	}
	backendtest.Each(t, func(t *testing.T, b compute.Backend) {
		s := suite{t, b, *loss, map[string]*Exec{}}
		t.Run("values", func(t *testing.T) { s.with(t).values(points) })
		t.Run("formula", func(t *testing.T) { s.with(t).formula() })
		if !loss.Coupled { // those move with their neighbours; the table has their gradients
			t.Run("gradients", func(t *testing.T) { s.with(t).gradients(points) })
		}
		t.Run("identity", func(t *testing.T) { s.with(t).identity(points) })
		t.Run("swap", func(t *testing.T) { s.with(t).swap(points) })
		t.Run("batch", func(t *testing.T) { s.with(t).batchMates(points[0].Config) })
		t.Run("extreme", func(t *testing.T) { s.with(t).extreme(points[0].Config) })
	})
}

type suite struct {
	t       *testing.T
	backend compute.Backend
	loss    bpo.Loss
	execs   map[string]*Exec // by config
}

func (s suite) with(t *testing.T) suite { t.Helper(); s.t = t; return s }

// batch is the size of every call, so that each config compiles once.
const batch = 17

// eval computes per-pair losses and the gradients of their sum by the four log-probs; at most batch pairs.
func (s suite) eval(c bpo.LossConfig, pairs []Point) (losses []float64, grads [4][]float64) {
	s.t.Helper()
	columns := make([]any, inputs)
	for k := range inputs {
		flat := make([]float32, batch)
		for i := range flat {
			flat[i] = float32(pairs[min(i, len(pairs)-1)].values()[k])
		}
		columns[k] = tensors.FromFlatDataAndDimensions(flat, batch)
	}
	key := fmt.Sprint(c)
	if s.execs[key] == nil {
		exec, err := NewExec(s.backend, func(in []*Node) []*Node {
			l := c.Apply(bpo.Logps{Chosen: in[0], Rejected: in[1], RefChosen: in[2], RefRejected: in[3], ChosenLen: in[4], RejectedLen: in[5], ChosenAgreement: in[6], RejectedAgreement: in[7]})
			if l.Shape().Check(dtypes.Float32, batch) != nil {
				exceptions.Panicf("the loss is %s, must be (Float32)[%d]", l.Shape(), batch)
			}
			return append([]*Node{l}, Gradient(ReduceAllSum(l), in[:4]...)...)
		})
		if err != nil {
			s.t.Fatal(err)
		}
		s.execs[key] = exec
	}
	out, err := s.execs[key].Call(columns...)
	if err != nil {
		s.t.Fatal(err)
	}
	read := func(t *tensors.Tensor) []float64 {
		all := make([]float64, len(pairs))
		for i, v := range tensors.MustCopyFlatData[float32](t)[:len(pairs)] {
			all[i] = float64(v)
		}
		return all
	}
	for k := range grads {
		grads[k] = read(out[k+1])
	}
	return read(out[0]), grads
}

func (s suite) values(points []Point) {
	for _, p := range points {
		if got, _ := s.eval(p.Config, []Point{p}); !near(got[0], p.Want, 1e-5) {
			s.t.Errorf("%+v: got %.7f, want %.7f", p, got[0], p.Want)
		}
	}
}

// gradients compares with central differences; inputs near a kink (where one-sided slopes differ) are skipped, and at
// least one must remain.
func (s suite) gradients(points []Point) {
	const h = 0.02
	compared := 0
	for _, p := range points {
		_, grads := s.eval(p.Config, []Point{p})
		for k, field := range []func(*Point) *float64{
			func(p *Point) *float64 { return &p.Chosen }, func(p *Point) *float64 { return &p.Rejected },
			func(p *Point) *float64 { return &p.RefChosen }, func(p *Point) *float64 { return &p.RefRejected },
		} {
			shifted := []Point{p, p, p}
			*field(&shifted[0]) -= h
			*field(&shifted[2]) += h
			v, _ := s.eval(p.Config, shifted)
			left, right := (v[1]-v[0])/h, (v[2]-v[1])/h
			scale := max(math.Abs(left), math.Abs(right), 1e-3)
			if math.Abs(left-right) > 0.2*scale {
				continue
			}
			compared++
			if want, got := (left+right)/2, grads[k][0]; math.Abs(got-want) > 0.02*scale+2e-4*math.Abs(v[1]) {
				s.t.Errorf("%+v: derivative by input %d is %.6f, finite differences give %.6f", p, k, got, want)
			}
		}
	}
	if compared == 0 {
		s.t.Error("every point lies on a kink: add a point where the loss is smooth")
	}
}

// identity: a policy equal to its reference gives the documented value, whatever the log-probs are.
func (s suite) identity(points []Point) {
	if s.loss.Identity == nil {
		return
	}
	for _, p := range points {
		p.RefChosen, p.RefRejected = p.Chosen, p.Rejected
		if got, _ := s.eval(p.Config, []Point{p}); !near(got[0], s.loss.Identity(p.Config), 1e-5) {
			s.t.Errorf("policy == reference at %+v: got %.7f, want %.7f", p, got[0], s.loss.Identity(p.Config))
		}
	}
}

// swap: L(h) − L(−h) is the closed form that the loss gives, where it gives one.
func (s suite) swap(points []Point) {
	for _, p := range points {
		v, _ := s.eval(p.Config, []Point{p, p.swapped()})
		if s.loss.Odd == nil {
			continue
		}
		h := (p.Chosen - p.Rejected) - (p.RefChosen - p.RefRejected)
		if s.pooled(p.Config) {
			h = (p.Chosen-p.RefChosen)/p.ChosenLen - (p.Rejected-p.RefRejected)/p.RejectedLen
		}
		if want := s.loss.Odd(h, p.Config); !near(v[0]-v[1], want, 2e-5) {
			s.t.Errorf("%+v: L(h)-L(-h) = %.6f, want %.6f", p, v[0]-v[1], want)
		}
	}
}

func (s suite) pooled(c bpo.LossConfig) bool {
	return c.Length == "mean" || ((c.Length == "" || c.Length == "default") && s.loss.Length == "mean")
}

// batchMates: the loss of a pair is the same alone, in a batch, and wherever in the batch it stands.
func (s suite) batchMates(c bpo.LossConfig) {
	rng := rand.New(rand.NewPCG(1, 2))
	pairs := make([]Point, batch)
	for i := range pairs {
		n, m := 1+rng.IntN(30), 1+rng.IntN(30)
		lp := func(n int) float64 { return -float64(n) * (0.5 + 2*rng.Float64()) }
		pairs[i] = Point{Chosen: lp(n), Rejected: lp(m), RefChosen: lp(n), RefRejected: lp(m), ChosenLen: float64(n), RejectedLen: float64(m)}
	}
	all, _ := s.eval(c, pairs)
	order := rng.Perm(len(pairs))
	shuffled := make([]Point, len(pairs))
	for i, from := range order {
		shuffled[i] = pairs[from]
	}
	permuted, _ := s.eval(c, shuffled)
	for i, from := range order {
		if !near(permuted[i], all[from], 1e-6) {
			s.t.Errorf("pair %d: loss %v in one order, %v in another", from, all[from], permuted[i])
		}
	}
	if s.loss.Coupled {
		return
	}
	alone, _ := s.eval(c, pairs[3:4])
	if !near(alone[0], all[3], 1e-6) {
		s.t.Errorf("pair 3: loss %v alone, %v in a batch", alone[0], all[3])
	}
}

// extreme: margins of ±10⁴ nats give finite losses and gradients.
func (s suite) extreme(c bpo.LossConfig) {
	for _, h := range []float64{-1e4, -300, 0, 300, 1e4} {
		p := Point{Chosen: h, Rejected: -1, RefChosen: -1, RefRejected: -1, ChosenLen: 1, RejectedLen: 1}
		v, grads := s.eval(c, []Point{p})
		all := []float64{v[0]}
		for k := range 4 {
			all = append(all, grads[k][0])
		}
		for _, x := range all {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				s.t.Errorf("margin %g: loss %v, gradients %v", h, v[0], fmt.Sprint(all[1:]))
				break
			}
		}
	}
}

func near(got, want, tol float64) bool { return math.Abs(got-want) <= tol*max(1, math.Abs(want)) }
