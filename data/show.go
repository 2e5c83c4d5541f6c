package data

import (
	"fmt"
	"iter"
	"os"
)

// Info describes a file without reading its rows.
type Info struct {
	Path    string            `json:"path"`
	Format  string            `json:"format"`           // parquet | jsonl
	Schema  string            `json:"schema,omitempty"` // "" = not a file of ours
	Rows    int64             `json:"rows"`             // -1 = unknown until read
	Bytes   int64             `json:"bytes"`
	Meta    map[string]string `json:"metadata,omitempty"`
	Columns string            `json:"columns,omitempty"` // the Parquet schema, as Parquet writes it
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
	return info, guard(path, &row, func() error {
		f, pf, err := openParquet(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info.Meta, info.Rows = metadataOf(pf), pf.NumRows()
		info.Schema, info.Columns = info.Meta[SchemaKey], fmt.Sprint(pf.Schema())
		return nil
	})
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
