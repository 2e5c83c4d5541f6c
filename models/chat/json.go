package chat

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/nikolalohinski/gonja/v2/exec"
)

// toJSON is transformers' tojson filter: Python's json.dumps with ensure_ascii=False.
// gonja's own escapes HTML, leaves out the spaces and sorts the keys of dicts.
func toJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	var indent *exec.Value
	if err := params.Take(exec.KeywordArgument("indent", exec.AsValue(nil), func(v *exec.Value) error {
		indent = v
		return nil
	})); err != nil {
		return exec.AsValue(exec.ErrInvalidCall(fmt.Errorf("tojson: %w", err)))
	}
	w := jsonWriter{indent: -1}
	if indent.IsInteger() {
		w.indent = indent.Integer()
	}
	if err := w.value(in.Interface(), 0); err != nil {
		return exec.AsValue(exec.ErrInvalidCall(err))
	}
	return exec.AsSafeValue(w.String())
}

type jsonWriter struct {
	strings.Builder
	indent int // -1: all in one line
}

func (w *jsonWriter) value(v any, depth int) error {
	switch v := v.(type) {
	case nil:
		w.WriteString("null")
		return nil
	case *exec.Value:
		return w.value(v.Interface(), depth)
	case *exec.Dict:
		return w.value(*v, depth)
	case exec.Dict:
		return w.list('{', '}', len(v.Pairs), depth, func(i int) error {
			return w.pair(v.Pairs[i].Key.String(), v.Pairs[i].Value, depth)
		})
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Bool:
		w.WriteString(strconv.FormatBool(r.Bool()))
	case reflect.String:
		w.quote(r.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		w.WriteString(strconv.FormatInt(r.Int(), 10))
	case reflect.Float32, reflect.Float64:
		s := strconv.FormatFloat(r.Float(), 'g', -1, 64)
		if math.Trunc(r.Float()) == r.Float() && !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		w.WriteString(s)
	case reflect.Slice, reflect.Array:
		return w.list('[', ']', r.Len(), depth, func(i int) error { return w.value(r.Index(i).Interface(), depth+1) })
	case reflect.Map:
		m := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			m[fmt.Sprint(it.Key().Interface())] = it.Value().Interface()
		}
		keys := slices.Sorted(maps.Keys(m))
		if i := slices.Index(keys, "role"); i >= 0 { // a message: its role comes first
			keys = slices.Insert(slices.Delete(keys, i, i+1), 0, "role")
		}
		return w.list('{', '}', len(keys), depth, func(i int) error { return w.pair(keys[i], m[keys[i]], depth) })
	default:
		return fmt.Errorf("tojson: %T is not JSON serializable", v)
	}
	return nil
}

func (w *jsonWriter) pair(key string, v any, depth int) error {
	w.quote(key)
	w.WriteString(": ")
	return w.value(v, depth+1)
}

func (w *jsonWriter) list(open, shut byte, n, depth int, item func(int) error) error {
	newline := func(depth int) {
		if w.indent >= 0 && n > 0 {
			w.WriteString("\n" + strings.Repeat(" ", w.indent*depth))
		}
	}
	w.WriteByte(open)
	for i := range n {
		if i > 0 {
			w.WriteByte(',')
			if w.indent < 0 {
				w.WriteByte(' ')
			}
		}
		newline(depth + 1)
		if err := item(i); err != nil {
			return err
		}
	}
	newline(depth)
	w.WriteByte(shut)
	return nil
}

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}

func (w *jsonWriter) quote(s string) {
	w.WriteByte('"')
	for _, r := range s {
		if escape, ok := jsonEscapes[r]; ok {
			w.WriteString(escape)
		} else if r < 0x20 {
			fmt.Fprintf(w, `\u%04x`, r)
		} else {
			w.WriteRune(r)
		}
	}
	w.WriteByte('"')
}
