package annotate

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/agnivade/levenshtein"
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
	// Weight of this annotator inside a sum; 0 or unset = 1.
	Weight float64 `mapstructure:"weight" yaml:"weight,omitempty" json:"weight,omitempty"`
	// Of are the terms of a sum.
	Of []Config `mapstructure:"of" yaml:"of,omitempty" json:"of,omitempty"`
	// Params are the parameters of the kind, see [Kind].Params.
	Params map[string]any `mapstructure:",remain" yaml:",inline" json:"params,omitempty"`
}

// Param documents one parameter of a kind. The type of Default (float64, string or bool) is the parameter's type.
type Param struct {
	Name    string
	Default any
	Doc     string
}

// Kind is a registered sort of annotator.
type Kind struct {
	Name   string
	Doc    string // one sentence
	Params []Param
	// Build makes the annotator from complete, type-checked parameters; its errors read "param: message".
	Build func(a Args) (Annotator, error)
}

// Args are the resolved parameters of one node of a config tree.
type Args struct {
	Name    string // canonical name with the parameters that were set: "length(max=20)"
	Of      []Annotator
	Weights []float64 // of Of
	values  map[string]any
}

// Float, String and Bool return a declared parameter; they panic on one that the kind does not declare.
func (a Args) Float(name string) float64 { return a.values[name].(float64) }

// String returns a declared string parameter.
func (a Args) String(name string) string { return a.values[name].(string) }

// Bool returns a declared boolean parameter.
func (a Args) Bool(name string) bool { return a.values[name].(bool) }

var registry = map[string]Kind{}

// Register adds a kind; call it from init. It panics on a duplicate or unusable declaration.
func Register(k Kind) {
	if _, dup := registry[k.Name]; dup || k.Name == "" || k.Build == nil {
		panic(fmt.Sprintf("annotate.Register: kind %q is a duplicate, or has no name or Build", k.Name))
	}
	for _, p := range k.Params {
		if slices.Contains(commonKeys, p.Name) {
			panic(fmt.Sprintf("annotate.Register: parameter %q of %s is a common key", p.Name, k.Name))
		}
		switch p.Default.(type) {
		case float64, string, bool:
		default:
			panic(fmt.Sprintf("annotate.Register: parameter %q of %s has a default of type %T", p.Name, k.Name, p.Default))
		}
	}
	registry[k.Name] = k
}

var commonKeys = []string{"name", "noise", "temperature", "weight", "of"}

// Kinds lists the registered kinds by name.
func Kinds() []Kind {
	out := make([]Kind, 0, len(registry))
	for _, k := range registry {
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
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
	case c.Weight != 0:
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
		w := term.Weight
		if w == 0 {
			w = 1
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

func lookup(name string, extra []Kind) (Kind, error) {
	for _, k := range extra {
		if k.Name == name {
			return k, nil
		}
	}
	if k, ok := registry[name]; ok {
		return k, nil
	}
	names := make([]string, 0, len(registry)+len(extra))
	for _, k := range append(Kinds(), extra...) {
		names = append(names, k.Name)
	}
	if name == "" {
		return Kind{}, fmt.Errorf("name: no annotator named; one of %s", strings.Join(slices.Compact(slices.Sorted(slices.Values(names))), ", "))
	}
	return Kind{}, fmt.Errorf("name: no annotator %q; did you mean %q?", name, nearest(name, names))
}

// resolve fills in defaults and checks names and types.
func resolve(kind Kind, given map[string]any) (map[string]any, error) {
	values, names := map[string]any{}, slices.Clone(commonKeys)
	for _, p := range kind.Params {
		values[p.Name] = p.Default
		names = append(names, p.Name)
	}
	keys := make([]string, 0, len(given)) // sorted: the same mistake gives the same message
	for k := range given {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, key := range keys {
		def, ok := values[key]
		if !ok {
			return nil, fmt.Errorf("%s: %s has no such parameter; did you mean %q?", key, kind.Name, nearest(key, names))
		}
		v, ok := coerce(given[key], def)
		if !ok {
			return nil, fmt.Errorf("%s: %v (%T) is not a %s", key, given[key], given[key], typeName(def))
		}
		values[key] = v
	}
	return values, nil
}

// coerce accepts for a number any finite YAML or JSON number, else the very type of the default.
func coerce(v, def any) (any, bool) {
	switch def.(type) {
	case float64:
		var f float64
		switch n := v.(type) {
		case float64:
			f = n
		case float32:
			f = float64(n)
		case int:
			f = float64(n)
		case int64:
			f = float64(n)
		case uint64:
			f = float64(n)
		default:
			return nil, false
		}
		return f, !math.IsNaN(f) && !math.IsInf(f, 0)
	case string:
		s, ok := v.(string)
		return s, ok
	default:
		b, ok := v.(bool)
		return b, ok
	}
}

func typeName(def any) string {
	switch def.(type) {
	case float64:
		return "finite number"
	case string:
		return "string"
	}
	return "boolean"
}

// nearest returns the candidate with the fewest edits from name, the first in order among equals.
func nearest(name string, candidates []string) string {
	return slices.MinFunc(candidates, func(a, b string) int {
		return levenshtein.ComputeDistance(name, a) - levenshtein.ComputeDistance(name, b)
	})
}
