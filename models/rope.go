package models

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Rope is a scaling of the rotary frequencies, as transformers' rope_parameters name it (modeling_rope_utils.py). The
// zero value scales nothing. Two types depend on how long a text is: "dynamic" beyond max_position_embeddings, and
// "longrope" beyond original_max_position_embeddings. Both are exact below, and longer texts are refused: MaxPositions
// is that length.
type Rope struct {
	Type                 string    `json:"rope_type"`                                  // linear, dynamic, yarn, llama3, longrope
	Factor               float64   `json:"factor,omitempty"`                           // of the context
	OriginalMaxPositions int       `json:"original_max_position_embeddings,omitempty"` // yarn, llama3, longrope; 0: MaxPositions
	LowFreqFactor        float64   `json:"low_freq_factor,omitempty"`                  // llama3
	HighFreqFactor       float64   `json:"high_freq_factor,omitempty"`                 // llama3
	BetaFast             float64   `json:"beta_fast,omitempty"`                        // yarn; 0: 32
	BetaSlow             float64   `json:"beta_slow,omitempty"`                        // yarn; 0: 1
	MScale               float64   `json:"mscale,omitempty"`                           // yarn
	MScaleAllDim         float64   `json:"mscale_all_dim,omitempty"`                   // yarn
	Truncate             *bool     `json:"truncate,omitempty"`                         // yarn; nil: true
	AttentionFactor      float64   `json:"attention_factor,omitempty"`                 // yarn, longrope; 0: what Factor implies
	ShortFactor          []float64 `json:"short_factor,omitempty"`                     // longrope
	LongFactor           []float64 `json:"long_factor,omitempty"`                      // longrope; read, for texts that are refused
}

// ropeTypes lists the keys of each type, those it cannot do without first; the number says how many.
var ropeTypes = map[string]struct {
	required int
	keys     []string
}{
	"linear":   {1, []string{"factor"}},
	"dynamic":  {1, []string{"factor"}},
	"yarn":     {1, []string{"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "attention_factor"}},
	"llama3":   {3, []string{"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}},
	"longrope": {2, []string{"short_factor", "long_factor", "original_max_position_embeddings", "factor", "attention_factor"}},
}

func (r *Rope) field(key string) any {
	return map[string]any{"factor": &r.Factor, "original_max_position_embeddings": &r.OriginalMaxPositions, "low_freq_factor": &r.LowFreqFactor,
		"high_freq_factor": &r.HighFreqFactor, "beta_fast": &r.BetaFast, "beta_slow": &r.BetaSlow, "mscale": &r.MScale,
		"mscale_all_dim": &r.MScaleAllDim, "truncate": &r.Truncate, "attention_factor": &r.AttentionFactor,
		"short_factor": &r.ShortFactor, "long_factor": &r.LongFactor}[key]
}

// rotaryDim is how many features of a head turn with the position.
func (c *Config) rotaryDim() int {
	if c.RotaryDim > 0 {
		return c.RotaryDim
	}
	return c.HeadDim
}

func (c *Config) validateRope() error {
	dim, r := c.rotaryDim(), c.Rope
	switch {
	case dim%2 != 0:
		return fmt.Errorf("head_dim: %d rotary features of a head, must be even: rotary positions need pairs", dim)
	case dim > c.HeadDim:
		return fmt.Errorf("partial_rotary_factor: %d rotary features are more than head_dim %d", dim, c.HeadDim)
	case !(c.RopeTheta > 0):
		return fmt.Errorf("rope_theta is %g, must be positive", c.RopeTheta)
	case r.Type == "":
		return nil
	case ropeTypes[r.Type].keys == nil:
		return fmt.Errorf("rope_type: %q is not supported", r.Type)
	case !(r.Factor > 0):
		return fmt.Errorf("factor is %g, must be positive", r.Factor)
	case r.OriginalMaxPositions < 0:
		return fmt.Errorf("original_max_position_embeddings is %d, must be positive", r.OriginalMaxPositions)
	case r.Type == "llama3" && !(r.HighFreqFactor > r.LowFreqFactor && r.LowFreqFactor > 0):
		return fmt.Errorf("low_freq_factor %g must be positive and below high_freq_factor %g", r.LowFreqFactor, r.HighFreqFactor)
	case r.BetaFast < 0 || r.BetaSlow < 0:
		return fmt.Errorf("beta_fast %g and beta_slow %g must be positive", r.BetaFast, r.BetaSlow)
	case r.AttentionFactor < 0:
		return fmt.Errorf("attention_factor is %g, must be positive", r.AttentionFactor)
	case r.Type == "longrope" && len(r.ShortFactor) != dim/2:
		return fmt.Errorf("short_factor has %d numbers, must have %d", len(r.ShortFactor), dim/2)
	case r.Type == "longrope" && slices.ContainsFunc(r.ShortFactor, func(f float64) bool { return !(f > 0) }):
		return fmt.Errorf("short_factor: %v, must be positive", r.ShortFactor)
	case (r.Type == "dynamic" || r.Type == "yarn") && dim < 4:
		return fmt.Errorf("rope_type: %s needs more than %d rotary features", r.Type, dim)
	}
	return nil
}

// frequencies are the angles by which each pair of rotary features turns from one position to the next, and the factor
// that cosines and sines are multiplied by.
func (c *Config) frequencies() (freq []float32, attention float64) {
	dim, r := c.rotaryDim(), c.Rope
	original := float64(r.OriginalMaxPositions)
	if original == 0 {
		original = float64(c.MaxPositions)
	}
	attention = 1
	inverse := make([]float64, dim/2)
	for i := range inverse {
		inverse[i] = math.Pow(c.RopeTheta, -float64(2*i)/float64(dim))
	}
	switch r.Type {
	case "linear":
		for i := range inverse {
			inverse[i] /= r.Factor
		}
	case "llama3":
		for i, f := range inverse {
			turns := original * f / (2 * math.Pi) // within the context the model was first trained on
			smooth := (turns - r.LowFreqFactor) / (r.HighFreqFactor - r.LowFreqFactor)
			smooth = min(max(smooth, 0), 1)
			inverse[i] = (1-smooth)*f/r.Factor + smooth*f
		}
	case "yarn":
		low, high := c.yarnRange(original)
		for i, f := range inverse {
			ramp := min(max((float64(i)-low)/(high-low), 0), 1)
			inverse[i] = f/r.Factor*ramp + f*(1-ramp)
		}
		attention = r.yarnAttention()
	case "longrope":
		for i := range inverse {
			inverse[i] /= r.ShortFactor[i]
		}
		if attention = r.AttentionFactor; attention == 0 {
			attention = math.Sqrt(1 + math.Log(max(r.Factor, 1))/math.Log(original))
		}
	}
	freq = make([]float32, len(inverse))
	for i, f := range inverse {
		freq[i] = float32(f)
	}
	return freq, attention
}

// yarnRange is where YaRN's ramp from kept to stretched frequencies begins and ends, in pairs of features (Peng et al.
// 2023, section 3.2): at β turns within the original context.
func (c *Config) yarnRange(original float64) (low, high float64) {
	dim, r := float64(c.rotaryDim()), c.Rope
	at := func(turns float64) float64 {
		return dim * math.Log(original/(turns*2*math.Pi)) / (2 * math.Log(c.RopeTheta))
	}
	low, high = at(orDefault(r.BetaFast, 32)), at(orDefault(r.BetaSlow, 1))
	if r.Truncate == nil || *r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, dim-1)
	if low == high {
		high += 0.001
	}
	return low, high
}

// yarnAttention is YaRN's temperature (section 3.3), as transformers infers it.
func (r Rope) yarnAttention() float64 {
	scale := func(m float64) float64 { return 0.1*m*math.Log(max(r.Factor, 1)) + 1 }
	switch {
	case r.AttentionFactor > 0:
		return r.AttentionFactor
	case r.MScale != 0 && r.MScaleAllDim != 0:
		return scale(r.MScale) / scale(r.MScaleAllDim)
	}
	return scale(1)
}

func orDefault(x, otherwise float64) float64 {
	if x == 0 {
		return otherwise
	}
	return x
}

// ropeKeys say how a family's config.json spells its rotary positions beside rope_parameters and the older rope_scaling.
type ropeKeys struct {
	theta, partial string // keys of the base, and of the share of a head that turns ("" if that is always all)
	share          float64
	types          []string // scalings that transformers has for the family
	original       bool     // original_max_position_embeddings stands outside, default 4096
}

// readRope takes rope_parameters (transformers 5) or rope_scaling, rope_theta and the like (before).
func (r *hfReader) readRope(k ropeKeys, c *Config) {
	c.RopeTheta = 10000
	r.read(k.theta, &c.RopeTheta)
	share := 1.0
	if k.share > 0 {
		share = k.share
	}
	if k.partial != "" {
		r.read(k.partial, &share)
	}
	original := 4096
	if k.original {
		r.read("original_max_position_embeddings", &original)
	}
	key, other := "rope_scaling", "rope_parameters"
	if !r.has(key) {
		key, other = other, key
	}
	if r.has(key) && r.has(other) {
		r.fail("%s: given beside %s; keep one", key, other)
	}
	spec := r.sub(key)
	r.drop(other)
	spec.read("rope_theta", &c.RopeTheta)
	spec.read("partial_rotary_factor", &share)
	kind, old := "default", ""
	spec.read("type", &old)
	spec.read("rope_type", &kind)
	if old != "" && kind == "default" {
		kind = old
	}
	if kind == "su" && k.original {
		kind = "longrope" // its first name
	}
	if kind != "default" {
		if !slices.Contains(k.types, kind) {
			spec.fail("rope_type: %q is not supported here (default, %s)", kind, strings.Join(k.types, ", "))
			return
		}
		c.Rope.Type = kind
		scaled := false
		for i, name := range ropeTypes[kind].keys {
			implied := kind == "yarn" && name == "factor" && spec.present(name) // null: follows from the lengths
			read := spec.read(name, c.Rope.field(name))
			if !read && !implied && i < ropeTypes[kind].required {
				spec.fail("%s is missing, rope_type %s needs it", name, kind)
			}
			scaled = scaled || read && name == "factor"
			if read && name == "attention_factor" && c.Rope.AttentionFactor == 0 {
				spec.fail("attention_factor is 0, must be positive")
			}
		}
		if k.original && kind == "longrope" {
			c.Rope.OriginalMaxPositions = original
		}
		if !scaled && (kind == "yarn" || kind == "longrope") {
			c.Rope.Factor = 1
			if o := c.Rope.OriginalMaxPositions; o > 0 {
				c.Rope.Factor = float64(c.MaxPositions) / float64(o)
			}
		}
		if kind == "longrope" {
			c.MaxPositions = min(c.MaxPositions, original)
		}
	}
	spec.done()
	if share != 1 {
		if k.partial == "" {
			r.fail("partial_rotary_factor: %g is not supported by this architecture", share)
		}
		c.RotaryDim = int(float64(c.HeadDim) * share)
		if c.RotaryDim <= 0 {
			r.fail("%s: %g leaves no rotary features of head_dim %d", k.partial, share, c.HeadDim)
		}
	}
}

// writeRope puts rotary positions into a config.json, in the older spelling, which every transformers reads.
func (c *Config) writeRope(k ropeKeys, out map[string]any) {
	out[k.theta] = c.RopeTheta
	if k.partial != "" {
		share := float64(c.rotaryDim()) / float64(c.HeadDim)
		if int(share*float64(c.HeadDim)) < c.rotaryDim() { // readers round down
			share = math.Nextafter(share, 1)
		}
		out[k.partial] = share
	}
	if c.Rope.Type == "" {
		return
	}
	out["rope_scaling"] = c.Rope
	if k.original && c.Rope.OriginalMaxPositions > 0 {
		out["original_max_position_embeddings"] = c.Rope.OriginalMaxPositions
	}
}
