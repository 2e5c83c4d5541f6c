package experiments

import (
	"context"
	"fmt"
	"path/filepath"

	"gobpo/bpo"
	"gobpo/models"
)

// extrapolate goes on from the start policy through the trained one, θ + α(θ − θ_start) in weight space (ExPO, arXiv
// 2404.16792), with the α of eval.extrapolate, or 0, that wins most on the eval prompts. That policy is the run's result.
func (r *trial) extrapolate(ctx context.Context, trained models.Policy) (models.Policy, map[string]float64, error) {
	if len(r.cfg.Eval.Extrapolate) == 0 {
		return trained, nil, nil
	}
	metrics := map[string]float64{"expo/dev_win_rate": -1}
	for _, alpha := range append([]float64{0}, r.cfg.Eval.Extrapolate...) {
		p, err := r.beyond(trained, alpha)
		if err != nil {
			return p, nil, err
		}
		e, err := r.evaluator.measure(ctx, p, r.eval, r.cfg.Steps)
		if alpha > 0 {
			p.Override.Finalize()
		}
		if err != nil {
			return p, nil, fmt.Errorf("eval.extrapolate: %w", err)
		}
		rate := e.Metrics["eval/win_rate"]
		metrics[fmt.Sprintf("expo/dev_win_rate@%g", alpha)] = rate
		if rate > metrics["expo/dev_win_rate"] {
			metrics["expo/alpha"], metrics["expo/dev_win_rate"] = alpha, rate
		}
	}
	best, err := r.beyond(trained, metrics["expo/alpha"])
	if err != nil || metrics["expo/alpha"] == 0 {
		return trained, metrics, err
	}
	return best, metrics, bpo.SavePolicy(filepath.Join(r.dir.Path, bpo.ExtrapolatedFile), best)
}

// beyond is the extrapolated policy, in overrides of its own; for α = 0 the trained one.
func (r *trial) beyond(trained models.Policy, alpha float64) (models.Policy, error) {
	if alpha == 0 {
		return trained, nil
	}
	p, err := models.Extrapolate(r.backend, r.evaluator.initial, trained, alpha)
	if err != nil {
		return p, fmt.Errorf("eval.extrapolate: %w", err)
	}
	p.Name = trained.Name
	return p, nil
}
