package data

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/parquet-go/parquet-go"

	"gobpo/internal/atomicfile"
)

const (
	writeBatch    = 64        // rows handed to the library at once
	rowsPerGroup  = 16 << 10  // a row group is held compressed in memory until it is full
	bytesPerPage  = 256 << 10 // uncompressed, per column
	bytesPerWrite = 1 << 20
)

// Writer writes rows of T's schema to a Parquet file that appears at its path
// complete or not at all: rows go to a temporary file beside it, which Close
// syncs and renames. Every error names the path; after one the temporary file
// is gone and the Writer is dead.
type Writer[T Record] struct {
	path    string
	f       *atomicfile.File
	buf     *bufio.Writer
	pw      *parquet.GenericWriter[T]
	pending []T
	rows    int64
	err     error
	done    bool
}

// Create starts a file at path, making its directory. meta is added to the
// file's key-value metadata. The caller ends it with Close or Abort.
func Create[T Record](path string, meta map[string]string) (*Writer[T], error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	options := []parquet.WriterOption{
		parquet.Compression(&parquet.Zstd),
		parquet.MaxRowsPerRowGroup(rowsPerGroup),
		parquet.PageBufferSize(bytesPerPage),
		parquet.DataPageStatistics(false),
		parquet.KeyValueMetadata(SchemaKey, Schema[T]()),
	}
	for _, k := range slices.Sorted(maps.Keys(meta)) { // sorted: equal inputs give equal bytes
		if k != SchemaKey {
			options = append(options, parquet.KeyValueMetadata(k, meta[k]))
		}
	}
	w := &Writer[T]{path: path, f: f, buf: bufio.NewWriterSize(f, bytesPerWrite)}
	w.pw = parquet.NewGenericWriter[T](w.buf, options...)
	return w, nil
}

// Write appends rows.
func (w *Writer[T]) Write(rows ...T) error {
	if w.done {
		return fmt.Errorf("%s: write after close", w.path)
	}
	for _, r := range rows {
		w.pending = append(w.pending, r)
		if len(w.pending) == writeBatch {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rows is the number of rows given to Write so far.
func (w *Writer[T]) Rows() int64 { return w.rows + int64(len(w.pending)) }

func (w *Writer[T]) flush() error {
	if w.err != nil {
		return w.err
	}
	n, err := w.pw.Write(w.pending)
	w.rows += int64(n)
	w.pending = w.pending[:0]
	if err != nil {
		return w.fail(err)
	}
	return nil
}

// SetMetadata adds or replaces an entry of the file's key-value metadata; it
// may come any time before Close.
func (w *Writer[T]) SetMetadata(key, value string) {
	if key != SchemaKey && !w.done {
		w.pw.SetKeyValueMetadata(key, value)
	}
}

// Close completes the file and puts it in place of whatever was at its path.
func (w *Writer[T]) Close() error {
	if w.done {
		return w.err
	}
	if err := w.complete(); err != nil {
		return err
	}
	return w.commit()
}

// complete makes the temporary file whole and durable.
func (w *Writer[T]) complete() error {
	if err := w.flush(); err != nil {
		return err
	}
	for _, step := range []func() error{w.pw.Close, w.buf.Flush, w.f.Complete} {
		if err := step(); err != nil {
			return w.fail(err)
		}
	}
	return nil
}

// commit puts the completed file at its path.
func (w *Writer[T]) commit() error {
	if err := w.f.Put(); err != nil {
		return w.fail(err)
	}
	w.done = true
	return nil
}

// Abort drops what was written; the path keeps what it had. It does nothing
// after Close, so it can be deferred.
func (w *Writer[T]) Abort() {
	if !w.done {
		w.done = true
		w.f.Abort()
	}
}

func (w *Writer[T]) fail(err error) error {
	w.Abort()
	w.err = fmt.Errorf("%s: %w", w.path, err)
	return w.err
}

// Write writes all rows to path at once, atomically.
func Write[T Record](path string, rows []T, meta map[string]string) error {
	w, err := Create[T](path, meta)
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.Write(rows...); err != nil {
		return err
	}
	return w.Close()
}
