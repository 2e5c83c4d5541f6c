package annotate

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Param documents one parameter of a kind. The type of Default (float64, string or bool) is the parameter's type.
type Param struct {
	Name    string
	Default any
	Doc     string
	// File says of a value whether it names a file or directory that the annotator reads, and whose content so belongs to
	// what it is; nil: no value does.
	File func(value string) bool
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
