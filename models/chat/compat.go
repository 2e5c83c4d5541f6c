package chat

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// What follows makes up for defects of gonja 2.9.1 that chat templates run into:
//   - the first item cannot be had by its negative index, so messages[-1] of a single
//     message is undefined: lists handed to templates are list;
//   - str.replace demands its count, str.lstrip and str.rstrip the characters; str.split
//     takes no argument for one space and returns lists with the defect above;
//   - transformers' own {% generation %} blocks are unknown.
//
// Left as they are, because templates do without: none prints as nothing, 2**3 is 8.0,
// "a" + 1 and 1 // 0 are no errors, a filter's result has no methods ((x | trim).upper()
// is an error), the title filter capitalizes after "/" too, one character of a string is
// one byte (slices are right).

// list is a sequence with Python's indexing.
type list []any

// GetItem is l[key].
func (l list) GetItem(key any) (*exec.Value, bool) {
	i, ok := key.(int)
	if !ok {
		return exec.AsValue(nil), false
	}
	if i < 0 {
		i += len(l)
	}
	if i < 0 || i >= len(l) {
		return exec.AsValue(nil), false
	}
	return exec.AsValue(l[i]), true
}

func stringList(items []string) list {
	out := make(list, len(items))
	for i, s := range items {
		out[i] = s
	}
	return out
}

type strMethod = exec.Method[string]

// strMethods are gonja's methods of strings, some of them replaced.
func strMethods() *exec.MethodSet[string] {
	all := map[string]strMethod{}
	for _, name := range strings.Fields(`capitalize casefold center count encode endswith expandtabs find format isalnum
		isalpha isascii isdecimal isdigit islower isnumeric isprintable isspace istitle isupper join ljust lower
		partition removeprefix removesuffix rfind rjust rpartition startswith swapcase title upper zfill`) {
		if m, ok := builtins.Methods.Str.Get(name); ok {
			all[name] = m
		}
	}
	for _, name := range []string{"rsplit", "splitlines"} {
		if m, ok := builtins.Methods.Str.Get(name); ok {
			all[name] = func(self string, value *exec.Value, args *exec.VarArgs) (any, error) {
				out, err := m(self, value, args)
				items := reflect.ValueOf(out)
				if err != nil || items.Kind() != reflect.Slice {
					return out, err
				}
				l := make(list, items.Len())
				for i := range l {
					l[i] = items.Index(i).Interface()
				}
				return l, nil
			}
		}
	}
	all["split"], all["replace"] = split, replace
	all["strip"], all["lstrip"], all["rstrip"] = strip(true, true), strip(true, false), strip(false, true)
	return exec.NewMethodSet(all)
}

func split(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
	var sep *exec.Value
	limit := -1
	if err := args.Take(
		exec.KeywordArgument("sep", exec.AsValue(nil), func(v *exec.Value) error { sep = v; return nil }),
		exec.KeywordArgument("maxsplit", exec.AsValue(-1), exec.IntArgument(&limit)),
	); err != nil {
		return nil, exec.ErrInvalidCall(err)
	}
	switch {
	case sep.IsNil() && limit < 0:
		return stringList(strings.Fields(self)), nil
	case sep.IsNil():
		return nil, exec.ErrInvalidCall(fmt.Errorf("split: maxsplit without sep is not supported"))
	case !sep.IsString() || sep.String() == "":
		return nil, exec.ErrInvalidCall(fmt.Errorf("split: the separator must be a string that is not empty"))
	case limit < 0:
		return stringList(strings.Split(self, sep.String())), nil
	}
	return stringList(strings.SplitN(self, sep.String(), limit+1)), nil
}

// isSpace is Python's white space.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }

func strip(left, right bool) strMethod {
	return func(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
		var chars *exec.Value
		if err := args.Take(exec.PositionalArgument("chars", exec.AsValue(nil), func(v *exec.Value) error {
			chars = v
			return nil
		})); err != nil {
			return nil, exec.ErrInvalidCall(err)
		}
		in := isSpace
		if !chars.IsNil() {
			in = func(r rune) bool { return strings.ContainsRune(chars.String(), r) }
		}
		if left {
			self = strings.TrimLeftFunc(self, in)
		}
		if right {
			self = strings.TrimRightFunc(self, in)
		}
		return self, nil
	}
}

func replace(self string, _ *exec.Value, args *exec.VarArgs) (any, error) {
	var from, to string
	count := -1
	if err := args.Take(
		exec.PositionalArgument("old", nil, exec.StringArgument(&from)),
		exec.PositionalArgument("new", nil, exec.StringArgument(&to)),
		exec.PositionalArgument("count", exec.AsValue(-1), exec.IntArgument(&count)),
	); err != nil {
		return nil, exec.ErrInvalidCall(err)
	}
	return strings.Replace(self, from, to, count), nil
}

// generation is {% generation %}…{% endgeneration %}, which marks the text to train on
// and prints it unchanged.
type generation struct {
	at   *tokens.Token
	body *nodes.Wrapper
}

func (g *generation) Position() *tokens.Token { return g.at }
func (g *generation) String() string          { return "generation" }

func (g *generation) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	return r.Inherit().ExecuteWrapper(g.body)
}

func parseGeneration(p, args *parser.Parser) (nodes.ControlStructure, error) {
	g := &generation{at: p.Current()}
	body, _, err := p.WrapUntil("endgeneration")
	if err != nil {
		return nil, err
	}
	if !args.End() {
		return nil, args.Error("generation takes no arguments", nil)
	}
	g.body = body
	return g, nil
}
