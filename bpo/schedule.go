package bpo

import (
	"fmt"
	"math"
)

// BetaSchedule moves the proximity coefficient during a run, whatever the loss. Compiled steps take β as an input, so it
// costs nothing.
type BetaSchedule struct {
	// Name is constant (or empty), linear or cosine from loss.beta to End over the T steps, or adaptive.
	Name string  `mapstructure:"name" yaml:"name,omitempty"`
	End  float64 `mapstructure:"end" yaml:"end,omitempty"`
	// Adaptive multiplies β after every step by 1 + clip(KL/TargetKL − 1, ±0.2)/Horizon, KL being kl/behavior, nats a
	// completion (Ziegler et al. 2019, arXiv 1909.08593 §2.2, with K_β = 1/Horizon): the prior's weight follows how far the
	// policy went, as in LINVIT (arXiv 2402.16181).
	TargetKL float64 `mapstructure:"target_kl" yaml:"target_kl,omitempty"`
	Horizon  int     `mapstructure:"horizon" yaml:"horizon,omitempty"` // steps; 0 = 10
}

func (s BetaSchedule) validate() error {
	moves := s.Name == "linear" || s.Name == "cosine"
	switch {
	case s.Name != "" && s.Name != "constant" && s.Name != "adaptive" && !moves:
		return fmt.Errorf("loss.schedule.name: %q is not one of constant, linear, cosine, adaptive", s.Name)
	case moves != (s.End > 0) || math.IsInf(s.End, 0) || math.IsNaN(s.End):
		return fmt.Errorf("loss.schedule.end: %g, must be positive for linear and cosine, and absent otherwise", s.End)
	case (s.Name == "adaptive") != (s.TargetKL > 0) || math.IsInf(s.TargetKL, 0) || math.IsNaN(s.TargetKL):
		return fmt.Errorf("loss.schedule.target_kl: %g nats, must be positive for adaptive, and absent otherwise", s.TargetKL)
	case s.Horizon < 0 || s.Horizon > 0 && s.Name != "adaptive":
		return fmt.Errorf("loss.schedule.horizon: %d steps, must be positive, for adaptive only", s.Horizon)
	}
	return nil
}

// at is β at a step of T, from the first one's; adaptive ones are moved by after.
func (s BetaSchedule) at(first float64, step, of int) float64 {
	t := float64(step) / float64(max(of-1, 1))
	switch s.Name {
	case "linear":
		return first + (s.End-first)*t
	case "cosine":
		return s.End + (first-s.End)*(1+math.Cos(math.Pi*t))/2
	}
	return first
}

// after is the adaptive β behind a step that ended with a KL.
func (s BetaSchedule) after(beta, kl float64) float64 {
	if s.Name != "adaptive" || math.IsNaN(kl) {
		return beta
	}
	horizon := s.Horizon
	if horizon == 0 {
		horizon = 10
	}
	e := min(max(kl/s.TargetKL-1, -0.2), 0.2)
	return beta * (1 + e/float64(horizon))
}
