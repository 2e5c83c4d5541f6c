package data

import (
	"iter"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// Info describes a file without reading its rows.
type Info struct {
	Path    string            `json:"path"`
	Format  string            `json:"format"`           // parquet | jsonl
	Schema  string            `json:"schema,omitempty"` // "" = not a file of ours
	Rows    int64             `json:"rows"`             // -1 = unknown until read
	Bytes   int64             `json:"bytes"`
	Meta    map[string]string `json:"metadata,omitempty"`
	Columns []string          `json:"columns,omitempty"` // of Parquet: "chosen string", "score double?", "messages list<{content string, role string}>"
}

// Describe looks at a Parquet or JSONL file.
func Describe(path string) (Info, error) {
	info := Info{Path: path, Format: "jsonl", Rows: -1}
	st, err := os.Stat(path)
	if err != nil {
		return info, err
	}
	info.Bytes = st.Size()
	is, err := isParquet(path)
	if err != nil || !is {
		return info, err
	}
	info.Format = "parquet"
	row := int64(0)
	err = guard(path, &row, func() error {
		f, pf, err := openParquet(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info.Meta, info.Rows = metadataOf(pf), pf.NumRows()
		info.Schema = info.Meta[SchemaKey]
		for _, c := range pf.Schema().Fields() {
			info.Columns = append(info.Columns, c.Name()+" "+typeName(c))
		}
		return nil
	})
	return info, err
}

// typeName is a column's type in short; "?" marks one that may be null.
func typeName(n parquet.Node) string {
	name := ""
	switch fields := n.Fields; {
	case n.Leaf() && n.Type().Kind() == parquet.ByteArray && n.Type().LogicalType() != nil:
		name = "string"
	case n.Leaf():
		name = strings.ToLower(n.Type().Kind().String())
	case len(fields()) == 1 && fields()[0].Repeated() && len(fields()[0].Fields()) == 1: // LIST of three levels
		name = "list<" + typeName(fields()[0].Fields()[0]) + ">"
	default:
		var parts []string
		for _, f := range fields() {
			parts = append(parts, f.Name()+" "+typeName(f))
		}
		name = "{" + strings.Join(parts, ", ") + "}"
	}
	switch {
	case n.Optional():
		name += "?"
	case n.Repeated():
		name = "repeated " + name
	}
	return name
}

// Any streams the rows of a file of whatever kind: Prompt, Preference or
// Completion where the schema is ours, else map[string]json.RawMessage.
func Any(path string) iter.Seq2[any, error] {
	info, err := Describe(path)
	if err != nil {
		return func(yield func(any, error) bool) { yield(nil, err) }
	}
	switch info.Schema {
	case Schema[Prompt]():
		return anyRows(Rows[Prompt](path))
	case Schema[Preference]():
		return anyRows(Rows[Preference](path))
	case Schema[Completion]():
		return anyRows(Rows[Completion](path))
	}
	raw := rawLines(path)
	if info.Format == "parquet" {
		raw = rawParquet(path, true)
	}
	return func(yield func(any, error) bool) {
		for r, err := range raw {
			if !yield(r.fields, err) {
				return
			}
		}
	}
}

func anyRows[T Record](rows iter.Seq2[T, error]) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		for r, err := range rows {
			if !yield(r, err) {
				return
			}
		}
	}
}
