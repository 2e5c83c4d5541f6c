package data

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// readBatch rows are decoded at a time: enough to amortise the call, few
// enough that rows of long texts stay small in memory.
const readBatch = 64

// Rows streams the rows of a Parquet file of T's schema in file order and in
// bounded memory. The first error ends the stream and names the file and,
// once rows are being read, the 1-based row: a missing or corrupt file, or a
// file of another schema (both names are given).
func Rows[T Record](path string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		stopped, row := false, int64(0)
		err := guard(path, &row, func() error {
			f, pf, err := openParquet(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := wantSchema(pf, path, Schema[T]()); err != nil {
				return err
			}
			if err := wantColumns[T](pf, path); err != nil {
				return err
			}
			if err := wantFooter(pf, path); err != nil {
				return err
			}
			r := parquet.NewGenericReader[T](pf)
			defer r.Close()
			return readAll(path, r, pf.NumRows(), &row, func(v T) bool {
				stopped = !yield(v, nil)
				return !stopped
			})
		})
		if err != nil && !stopped {
			var zero T
			yield(zero, err)
		}
	}
}

// Read returns all rows of a Parquet file of T's schema.
func Read[T Record](path string) ([]T, error) {
	var rows []T
	for r, err := range Rows[T](path) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// readAll feeds every row to each until it returns false. row counts the rows
// delivered, for guard and for the errors.
func readAll[T any](path string, r *parquet.GenericReader[T], want int64, row *int64, each func(T) bool) error {
	buf := make([]T, readBatch)
	for {
		clear(buf) // a row must not see the lists of an earlier one
		n, err := r.Read(buf)
		for _, v := range buf[:n] {
			*row++
			if !yieldRow(each, v) {
				return nil
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if *row != want {
				return fmt.Errorf("%s: row %d: the file ends here but its footer counts %d rows", path, *row+1, want)
			}
			return nil
		case err != nil:
			return fmt.Errorf("%s: row %d: corrupt Parquet data: %w", path, *row+1, err)
		case n == 0:
			return fmt.Errorf("%s: row %d: corrupt Parquet data: no rows where the footer counts %d", path, *row+1, want)
		}
	}
}

// consumerPanic carries a panic of the loop body through guard unchanged: only
// the Parquet library's own panics are errors of the file.
type consumerPanic struct{ value any }

func yieldRow[T any](each func(T) bool, v T) bool {
	defer func() {
		if p := recover(); p != nil {
			panic(consumerPanic{p})
		}
	}()
	return each(v)
}

// guard turns a panic of the Parquet library, which corrupt bytes can cause,
// into an error naming the file and the row.
func guard(path string, row *int64, body func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case consumerPanic:
			panic(p.value)
		default:
			if *row == 0 {
				err = fmt.Errorf("%s: corrupt Parquet file: %v", path, p)
			} else {
				err = fmt.Errorf("%s: row %d: corrupt Parquet data: %v", path, *row+1, p)
			}
		}
	}()
	return body()
}

func openParquet(path string) (*os.File, *parquet.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("%s: is a directory, not a Parquet file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	pf, err := parquet.OpenFile(f, st.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: not a complete Parquet file (%d bytes): %w", path, st.Size(), err)
	}
	return f, pf, nil
}

func wantSchema(pf *parquet.File, path, want string) error {
	got, ok := pf.Lookup(SchemaKey)
	if !ok {
		return fmt.Errorf("%s: not a file of ours (no %s in its metadata), want %s: convert it with `bpo data import`", path, SchemaKey, want)
	}
	if got != want {
		return fmt.Errorf("%s: schema %s, want %s", path, got, want)
	}
	return nil
}

// wantColumns refuses a file whose metadata claims T's schema while its
// columns differ; the library would fill the missing ones with zeros.
func wantColumns[T Record](pf *parquet.File, path string) error {
	want := parquet.SchemaOf(new(T))
	for _, c := range want.Fields() {
		found := false
		for _, g := range pf.Schema().Fields() {
			if g.Name() == c.Name() {
				found = true
				if !parquet.SameNodes(g, c) {
					return fmt.Errorf("%s: column %q does not have the type schema %s gives it", path, c.Name(), Schema[T]())
				}
			}
		}
		if !found {
			return fmt.Errorf("%s: column %q of schema %s is missing", path, c.Name(), Schema[T]())
		}
	}
	return nil
}

// wantFooter checks that the footer's column chunks are the schema's leaves in
// order and lie one after another, as we write them. Pages have checksums but
// the footer has none, and a damaged one can pass another column's pages off
// as this one's.
func wantFooter(pf *parquet.File, path string) error {
	leaves, next := pf.Schema().Columns(), int64(len("PAR1"))
	for i, g := range pf.Metadata().RowGroups {
		if len(g.Columns) != len(leaves) {
			return fmt.Errorf("%s: corrupt Parquet footer: %d columns in row group %d, want %d", path, len(g.Columns), i, len(leaves))
		}
		for j, c := range g.Columns {
			m := c.MetaData
			start := m.DataPageOffset
			if m.DictionaryPageOffset > 0 {
				start = m.DictionaryPageOffset
			}
			if start != next || !slices.Equal(m.PathInSchema, leaves[j]) {
				return fmt.Errorf("%s: corrupt Parquet footer: column %v at byte %d, want %v at %d", path, m.PathInSchema, start, leaves[j], next)
			}
			next = start + m.TotalCompressedSize
			if m.DataPageOffset >= next {
				return fmt.Errorf("%s: corrupt Parquet footer: data of column %v at byte %d, after its end at %d", path, m.PathInSchema, m.DataPageOffset, next)
			}
		}
	}
	return nil
}

func metadataOf(pf *parquet.File) map[string]string {
	meta := map[string]string{}
	for _, kv := range pf.Metadata().KeyValueMetadata {
		meta[kv.Key] = kv.Value
	}
	return meta
}
