package stats

import "math"

// Bin is a share of pairs of like confidence.
type Bin struct {
	Low, High  float64 // of the confidence, σ(|margin|)
	N          int
	Confidence float64 // mean
	Accuracy   float64
}

// Calibrated says how good probabilities of preference are: P(chosen ≻ rejected) = σ(margin) of pairs whose chosen text
// is known to be preferred.
type Calibrated struct {
	NLL  float64 // mean −ln σ(margin), nats; ln 2 is knowing nothing
	ECE  float64 // expected calibration error: Σ share·|accuracy − confidence| over ten bins (Guo et al. 2017, arXiv 1706.04599 eq. 3)
	Bins []Bin   // those that hold pairs
}

// Calibration measures margins, r(chosen) − r(rejected), of which none is NaN. A pair's prediction is the text with the
// higher reward, its confidence σ(|margin|) in [0.5, 1]; equal rewards are half right.
func Calibration(margins []float64) Calibrated {
	const bins = 10
	var c Calibrated
	all := make([]Bin, bins)
	for _, m := range margins {
		confidence := 1 / (1 + math.Exp(-math.Abs(m)))
		b := &all[min(bins-1, int((confidence-0.5)*2*bins))]
		b.N++
		b.Confidence += confidence
		b.Accuracy += Preferred(m)
		c.NLL += math.Log1p(math.Exp(-math.Abs(m))) + max(0, -m)
	}
	n := float64(len(margins))
	c.NLL /= n
	for i, b := range all {
		if b.N == 0 {
			continue
		}
		b.Low, b.High = 0.5+float64(i)/(2*bins), 0.5+float64(i+1)/(2*bins)
		b.Confidence, b.Accuracy = b.Confidence/float64(b.N), b.Accuracy/float64(b.N)
		c.ECE += float64(b.N) / n * math.Abs(b.Accuracy-b.Confidence)
		c.Bins = append(c.Bins, b)
	}
	return c
}

// Preferred is 1 where a margin is above zero, 0 below, a half at zero.
func Preferred(margin float64) float64 {
	switch {
	case margin > 0:
		return 1
	case margin < 0:
		return 0
	}
	return 0.5
}
