package experiments

import (
	"fmt"
	"math"
	"reflect"
	"sort"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"
)

// schema is the tree of keys a configuration may hold, read off the Config struct's mapstructure tags, so
// that checks, environment names and suggestions can never drift from the type that is decoded into.
type schema struct {
	typ      reflect.Type
	children map[string]*schema
	free     bool   // a map whose keys are not ours to check (annotator options, loss params)
	listed   string // at the root: what lists the keys, for errors
}

func schemaOf(t reflect.Type) *schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := &schema{typ: t}
	switch t.Kind() {
	case reflect.Map:
		s.free = true
	case reflect.Struct:
		s.children = map[string]*schema{}
		for i := range t.NumField() {
			f := t.Field(i)
			name, opts, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
			switch {
			case !f.IsExported() || name == "-":
			case strings.Contains(opts, "squash"):
				for k, c := range schemaOf(f.Type).children {
					s.children[k] = c
				}
			case strings.Contains(opts, "remain"):
				s.free = true
			default:
				if name == "" {
					name = strings.ToLower(f.Name)
				}
				s.children[name] = schemaOf(f.Type)
			}
		}
	}
	return s
}

func listedSchema(t reflect.Type, listed string) *schema {
	s := schemaOf(t)
	s.listed = listed
	return s
}

// find walks to a dotted path. Below a free map every path is found, with a nil type.
func (s *schema) find(path string) (*schema, bool) {
	for _, part := range strings.Split(path, ".") {
		if part == "" {
			return nil, false
		}
		next, ok := s.children[part]
		if !ok {
			if s.free {
				return &schema{free: true}, true
			}
			return nil, false
		}
		s = next
	}
	return s, true
}

// paths lists every dotted key below s, sorted; inner keys (sections) only when sections is set.
func (s *schema) paths(sections bool) []string {
	var out []string
	var walk func(*schema, string)
	walk = func(s *schema, prefix string) {
		for name, c := range s.children {
			if c.children == nil || sections || c.free {
				out = append(out, prefix+name)
			}
			walk(c, prefix+name+".")
		}
	}
	walk(s, "")
	sort.Strings(out)
	return out
}

// nearest is the valid key closest to a mistyped one: one that ends in it (beta → loss.beta), else the
// smallest edit distance within a third of its length, else "".
func (s *schema) nearest(key string) string {
	all := s.paths(true)
	for _, p := range all {
		if strings.HasSuffix(p, "."+key) {
			return p
		}
	}
	best, bestDistance := "", max(2, len(key)/3)+1
	for _, p := range all {
		d := levenshtein.ComputeDistance(key, p)
		if parent, leaf := cutLast(p); parent != "" && !strings.Contains(key, ".") {
			d = min(d, levenshtein.ComputeDistance(key, leaf)+1)
		}
		if d < bestDistance && d < len(key) {
			best, bestDistance = p, d
		}
	}
	return best
}

func cutLast(path string) (parent, leaf string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func (s *schema) unknown(key string) error {
	if near := s.nearest(key); near != "" {
		return fmt.Errorf("unknown key %s; did you mean %s?", key, near)
	}
	return fmt.Errorf("unknown key %s; %s lists the keys", key, s.listed)
}

// locatedError says on which line of its file a value stands.
type locatedError struct {
	line int
	err  error
}

func (e *locatedError) Error() string { return e.err.Error() }
func (e *locatedError) Unwrap() error { return e.err }

// check compares a YAML value with what stands at path in the schema: unknown keys, wrong types.
func (s *schema) check(root *schema, path string, n *yaml.Node) error {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	fail := func(format string, args ...any) error {
		return &locatedError{n.Line, fmt.Errorf(format, args...)}
	}
	if s.typ == nil {
		return nil
	}
	isNull := n.Kind == yaml.ScalarNode && n.Tag == "!!null"
	switch {
	case s.children != nil || s.free:
		if isNull {
			return nil // an empty section keeps its defaults
		}
		if n.Kind != yaml.MappingNode {
			return fail("%s: want a section of keys, got %s", path, describe(n))
		}
		return s.checkMapping(root, path, n)
	case isNull:
		return fail("%s: has no value", path)
	case s.typ.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return fail("%s: want a list, got %s", path, describe(n))
		}
		elem := schemaOf(s.typ.Elem())
		for i, c := range n.Content {
			if err := elem.check(root, fmt.Sprintf("%s[%d]", path, i), c); err != nil {
				return err
			}
		}
		return nil
	case s.typ.Kind() == reflect.Interface:
		return nil
	}
	if want, ok := scalarFits(s.typ.Kind(), n); !ok {
		return fail("%s: want %s, got %s", path, want, describe(n))
	}
	return nil
}

func (s *schema) checkMapping(root *schema, path string, n *yaml.Node) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag == "!!merge" {
			if err := s.check(root, path, v); err != nil {
				return err
			}
			continue
		}
		key := k.Value
		if path != "" {
			key = path + "." + k.Value
		}
		if path == "sweep.grid" || strings.HasPrefix(path, "sweep.paired[") {
			if err := checkSwept(root, path, k, v); err != nil {
				return err
			}
			continue
		}
		child, ok := s.children[k.Value]
		if !ok {
			if !s.free {
				return &locatedError{k.Line, root.unknown(key)}
			}
			if s.typ.Kind() != reflect.Map {
				continue
			}
			child = schemaOf(s.typ.Elem()) // any key, but values of one type
		}
		if err := child.check(root, key, v); err != nil {
			return err
		}
	}
	return nil
}

// checkSwept checks one swept key: a grid holds a list of values for it, a paired setting one value.
func checkSwept(root *schema, path string, k, v *yaml.Node) error {
	target, ok := root.find(k.Value)
	if !ok || strings.HasPrefix(k.Value, "sweep") {
		return &locatedError{k.Line, fmt.Errorf("%s: %w", path, root.unknown(k.Value))}
	}
	if path != "sweep.grid" {
		return target.check(root, k.Value, v)
	}
	for v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	if v.Kind != yaml.SequenceNode || len(v.Content) == 0 {
		return &locatedError{v.Line, fmt.Errorf("sweep.grid.%s: want a list of values, got %s", k.Value, describe(v))}
	}
	for _, c := range v.Content {
		if err := target.check(root, k.Value, c); err != nil {
			return err
		}
	}
	return nil
}

// scalarFits says whether a YAML scalar can be stored in a Go kind without changing its meaning. 1e3 is a
// whole number and 1 a number, but "1" in quotes is text.
func scalarFits(kind reflect.Kind, n *yaml.Node) (want string, ok bool) {
	scalar := n.Kind == yaml.ScalarNode
	switch kind {
	case reflect.Bool:
		return "true or false", scalar && n.Tag == "!!bool"
	case reflect.String:
		return "text", scalar && n.Tag == "!!str"
	case reflect.Float32, reflect.Float64:
		var f float64
		ok := scalar && (n.Tag == "!!int" || n.Tag == "!!float") && n.Decode(&f) == nil
		return "a finite number", ok && !math.IsNaN(f) && !math.IsInf(f, 0)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var f float64
		ok := scalar && (n.Tag == "!!int" || n.Tag == "!!float") && n.Decode(&f) == nil
		return "a whole number, 0 or more", ok && f == math.Trunc(f) && f >= 0 && f < 1<<63
	default:
		var f float64
		ok := scalar && (n.Tag == "!!int" || n.Tag == "!!float") && n.Decode(&f) == nil
		return "a whole number", ok && f == math.Trunc(f) && math.Abs(f) < 1<<53
	}
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section of keys"
	case yaml.SequenceNode:
		if len(n.Content) == 0 {
			return "an empty list"
		}
		return "a list"
	}
	switch n.Tag {
	case "!!str":
		return fmt.Sprintf("the text %q", n.Value)
	case "!!null":
		return "nothing"
	}
	return n.Value
}
