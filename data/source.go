package data

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
)

// maxLine bounds the memory one JSON line can take: longer is not a record.
const maxLine = 64 << 20

var errLongLine = fmt.Errorf("longer than %d MiB, so no record", maxLine>>20)

// rawRow is one row of a foreign file: its known keys, still JSON.
type rawRow struct {
	at     string // "file: line 12" or "file: row 12", the start of every message about it
	fields map[string]json.RawMessage
}

// rawRows streams a JSONL, JSONL.gz or Parquet file; the content decides, not
// the name. The first error ends the stream and names file and line or row.
func rawRows(path string) iter.Seq2[rawRow, error] {
	return func(yield func(rawRow, error) bool) {
		parquetFile, err := isParquet(path)
		switch {
		case err != nil:
			yield(rawRow{}, err)
		case parquetFile:
			rawParquet(path, false)(yield)
		default:
			rawLines(path)(yield)
		}
	}
}

func isParquet(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return string(head[:n]) == "PAR1", nil
}

func rawLines(path string) iter.Seq2[rawRow, error] {
	return func(yield func(rawRow, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(rawRow{}, err)
			return
		}
		defer f.Close()
		in, what, err := unzipped(f)
		if err != nil {
			yield(rawRow{}, fmt.Errorf("%s: %w", path, err))
			return
		}
		var line []byte
		for n := 1; ; n++ {
			at := fmt.Sprintf("%s: line %d", path, n)
			line, err = readLine(in, line[:0])
			if err != nil && !errors.Is(err, io.EOF) {
				if !errors.Is(err, errLongLine) {
					err = fmt.Errorf("%s: %w", what, err)
				}
				yield(rawRow{}, fmt.Errorf("%s: %w", at, err))
				return
			}
			last := err != nil
			if n == 1 {
				line = bytes.TrimPrefix(line, []byte("\ufeff"))
			}
			if len(bytes.TrimSpace(line)) > 0 {
				fields, err := parseLine(line)
				if err != nil {
					yield(rawRow{}, fmt.Errorf("%s: %w", at, err))
					return
				}
				if !yield(rawRow{at, fields}, nil) {
					return
				}
			}
			if last {
				return
			}
		}
	}
}

// unzipped reads what a file holds, uncompressed if it is gzip; what says what a later error means.
func unzipped(f io.Reader) (in *bufio.Reader, what string, err error) {
	in = bufio.NewReaderSize(f, 1<<16)
	if magic, _ := in.Peek(2); string(magic) != "\x1f\x8b" {
		return in, "cannot be read", nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, "", fmt.Errorf("corrupt gzip header: %w", err)
	}
	return bufio.NewReaderSize(z, 1<<16), "truncated or corrupt gzip data", nil
}

// ReadText reads a whole file, uncompressed if it is gzip, as the content says. Its errors name the file.
func ReadText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in, what, err := unzipped(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", path, what, err)
	}
	return text, nil
}

// readLine appends the next line to buf; io.EOF comes with the last one.
func readLine(in *bufio.Reader, buf []byte) ([]byte, error) {
	for {
		part, err := in.ReadSlice('\n')
		buf = append(buf, part...)
		if len(buf) > maxLine {
			return buf, errLongLine
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return buf, err
		}
	}
}

// parseLine decodes one JSON object, keeping its values as JSON.
func parseLine(line []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(line) { // encoding/json would put U+FFFD there and say nothing
		return nil, errors.New("not valid UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] == '[' {
			return nil, errors.New("a JSON array where one object a line is expected")
		}
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("null where a JSON object is expected")
	}
	return fields, nil
}

// rawParquet reads the columns some layout knows, or all.
func rawParquet(path string, all bool) iter.Seq2[rawRow, error] {
	return func(yield func(rawRow, error) bool) {
		row, stopped := int64(0), false
		err := guard(path, &row, func() error {
			f, pf, err := openParquet(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if s, ours := pf.Lookup(SchemaKey); !all && ours && s != Schema[Prompt]() && s != Schema[Preference]() {
				return fmt.Errorf("%s: schema %s, want %s or %s", path, s, Schema[Prompt](), Schema[Preference]())
			}
			columns := parquet.Group{}
			for _, c := range pf.Schema().Fields() {
				if all || knownKeys[c.Name()] {
					columns[c.Name()] = c
				}
			}
			if len(columns) == 0 {
				return fmt.Errorf("%s: no column a layout knows (prompt, chosen, messages, …)", path)
			}
			r := parquet.NewGenericReader[any](pf, parquet.NewSchema("import", columns))
			defer r.Close()
			var bad error
			err = readAll(path, r, pf.NumRows(), &row, func(v any) bool {
				at := fmt.Sprintf("%s: row %d", path, row)
				fields, err := jsonFields(v)
				if err != nil {
					bad = fmt.Errorf("%s: %w", at, err)
					return false
				}
				stopped = !yield(rawRow{at, fields}, nil)
				return !stopped
			})
			return errors.Join(err, bad)
		})
		if err != nil && !stopped {
			yield(rawRow{}, err)
		}
	}
}

func jsonFields(v any) (map[string]json.RawMessage, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("unexpected Parquet row type %T", v)
	}
	fields := make(map[string]json.RawMessage, len(m))
	for k, v := range m {
		if b, ok := v.([]byte); ok { // BYTE_ARRAY without a string annotation
			v = string(b)
		}
		if knownKeys[k] && !validTexts(v) {
			return nil, fmt.Errorf("column %q: not valid UTF-8", k)
		}
		b, err := json.Marshal(v)
		if err != nil { // NaN, say: no JSON number, and in no column a layout reads
			b, _ = json.Marshal(fmt.Sprint(v))
		}
		fields[k] = b
	}
	return fields, nil
}

// validTexts says whether all texts in a value are valid UTF-8; encoding/json would put U+FFFD there and say nothing.
func validTexts(v any) bool {
	switch t := v.(type) {
	case string:
		return utf8.ValidString(t)
	case []any:
		return !slices.ContainsFunc(t, func(v any) bool { return !validTexts(v) })
	case map[string]any:
		for _, v := range t {
			if !validTexts(v) {
				return false
			}
		}
	}
	return true
}
