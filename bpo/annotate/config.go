package annotate

import (
	"fmt"
	"math"
	"strings"
)

// Config describes an annotator. In YAML the parameters of the kind stand beside the common keys:
//
//	annotator: {name: length, min: 5, max: 20, noise: 0.1}
//	annotator:
//	  name: sum
//	  of:
//	    - {name: rouge_l, weight: 1}
//	    - {name: length, weight: 0.2, max: 30}
type Config struct {
	// Name is one of [Kinds].
	Name string `mapstructure:"name" yaml:"name" json:"name"`
	// Noise is the probability in [0, 0.5] that a preference is reversed (a whole ranking, where k > 2).
	Noise float64 `mapstructure:"noise" yaml:"noise,omitempty" json:"noise,omitempty"`
	// Temperature > 0 samples labels from Bradley–Terry: P(a ≻ b) = σ((score_a − score_b)/temperature). 0 = by score.
	Temperature float64 `mapstructure:"temperature" yaml:"temperature,omitempty" json:"temperature,omitempty"`
	// Weight of this annotator inside a sum; nil = 1.
	Weight *float64 `mapstructure:"weight" yaml:"weight,omitempty" json:"weight,omitempty"`
	// Of are the terms of a sum.
	Of []Config `mapstructure:"of" yaml:"of,omitempty" json:"of,omitempty"`
	// Params are the parameters of the kind, see [Kind].Params.
	Params map[string]any `mapstructure:",remain" yaml:",inline" json:"params,omitempty"`
}

// Gold makes the kind "gold" from the exactly known reward of a procedural task, for one call of [New].
func Gold(reward func(prompt, completion string) float64) Kind {
	return Kind{Name: "gold", Doc: goldDoc, Build: func(a Args) (Annotator, error) {
		return FromScore(a.Name, func(r Request, completion string) (float64, error) {
			return reward(r.Prompt, completion), nil
		}), nil
	}}
}

// New builds the annotator that c describes. extra kinds are known to this call only and come before registered ones
// of the same name; [Gold] is made for that. Errors are one line, "key: message", with the key relative to c.
func New(c Config, extra ...Kind) (Annotator, error) {
	base, err := build(c, extra)
	if err != nil {
		return nil, err
	}
	switch {
	case !(c.Noise >= 0 && c.Noise <= 0.5):
		return nil, fmt.Errorf("noise: %v is not a probability in [0, 0.5]", c.Noise)
	case !(c.Temperature >= 0) || math.IsInf(c.Temperature, 0):
		return nil, fmt.Errorf("temperature: %v is negative or not finite", c.Temperature)
	case c.Weight != nil:
		return nil, fmt.Errorf("weight: only the terms of a sum have weights")
	}
	return WithNoise(WithTemperature(base, c.Temperature), c.Noise), nil
}

func build(c Config, extra []Kind) (Annotator, error) {
	kind, err := lookup(c.Name, extra)
	if err != nil {
		return nil, err
	}
	a := Args{values: map[string]any{}}
	if a.values, err = resolve(kind, c.Params); err != nil {
		return nil, err
	}
	if len(c.Of) > 0 && kind.Name != "sum" {
		return nil, fmt.Errorf("of: only sum has terms, not %s", kind.Name)
	}
	var shown []string
	for _, p := range kind.Params {
		if v := a.values[p.Name]; v != p.Default {
			shown = append(shown, fmt.Sprintf("%s=%v", p.Name, v))
		}
	}
	for i, term := range c.Of {
		at := fmt.Sprintf("of[%d].", i)
		if term.Noise != 0 || term.Temperature != 0 {
			return nil, fmt.Errorf("%snoise: labels are made from the whole sum; set noise and temperature beside it", at)
		}
		w := 1.0
		if term.Weight != nil {
			w = *term.Weight
		}
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return nil, fmt.Errorf("%sweight: %v is not finite", at, w)
		}
		sub, err := build(term, extra)
		if err != nil {
			return nil, fmt.Errorf("%s%w", at, err)
		}
		a.Of, a.Weights = append(a.Of, sub), append(a.Weights, w)
		shown = append(shown, fmt.Sprintf("%v*%s", w, sub.Name()))
	}
	a.Name = kind.Name
	if len(shown) > 0 {
		a.Name += "(" + strings.Join(shown, ", ") + ")"
	}
	return kind.Build(a)
}
