package stats

import (
	"math"

	"gonum.org/v1/gonum/stat"
)

// lengthPenalty is AlpacaEval's L2 penalty on the length's coefficient: C = 100 in its logistic regression.
const lengthPenalty = 1.0 / 100

// LengthControlled is the win rate that a logistic regression predicts for outputs as long as their opponents, as in
// AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): logit P(win) = θ + φ·tanh(Δ/σ), with Δ the difference of lengths in words and
// σ its standard deviation; the rate is σ(θ). AlpacaEval's third term, the prompt's difficulty over many models, is left
// out: there are no other models here. A tie is half a win and half a loss. The three slices run in parallel. NaN for
// no outcomes; where all lengths differ alike it is the plain rate.
func LengthControlled(outcomes []float64, words, opponentWords []int) float64 {
	n := len(outcomes)
	if n == 0 {
		return math.NaN()
	}
	z := make([]float64, n)
	for i := range z {
		z[i] = float64(words[i] - opponentWords[i])
	}
	if sd := stat.PopStdDev(z, nil); sd > 0 {
		for i := range z {
			z[i] = math.Tanh(z[i] / sd)
		}
	} else {
		clear(z)
	}
	theta, _ := logistic(z, outcomes)
	return 1 / (1 + math.Exp(-theta))
}

// logistic fits logit P = θ + φz to outcomes in [0, 1] by Newton's method, with a penalty on φ, and a very small one on θ,
// which keeps it finite where every outcome is the same.
func logistic(z, outcomes []float64) (theta, phi float64) {
	const thetaPenalty = 1e-6
	for range 100 {
		// gradient and Hessian of the penalised log-likelihood
		g0, g1 := -thetaPenalty*theta, -lengthPenalty*phi
		h00, h01, h11 := thetaPenalty, 0.0, lengthPenalty
		for i, y := range outcomes {
			p := 1 / (1 + math.Exp(-(theta + phi*z[i])))
			w := p * (1 - p)
			g0, g1 = g0+y-p, g1+(y-p)*z[i]
			h00, h01, h11 = h00+w, h01+w*z[i], h11+w*z[i]*z[i]
		}
		det := h00*h11 - h01*h01
		d0, d1 := (h11*g0-h01*g1)/det, (h00*g1-h01*g0)/det
		if most := max(math.Abs(d0), math.Abs(d1)); most > 4 { // far from the optimum a full step may overshoot
			d0, d1 = 4*d0/most, 4*d1/most
		}
		theta, phi = theta+d0, phi+d1
		if math.Abs(d0)+math.Abs(d1) < 1e-10 {
			break
		}
	}
	return theta, phi
}
