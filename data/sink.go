package data

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// sink takes an import's rows, by output file.
type sink interface {
	schema() string
	write(name string, r located) error
	close(note string) error
	abort()
}

// files is a sink of Parquet files that appear together.
type files[T Record] struct {
	names   []string
	writers map[string]*Writer[T]
	pick    func(located) (T, error)
}

func openFiles[T Record](names []string, meta map[string]string, pick func(located) (T, error)) (sink, error) {
	f := &files[T]{names: names, writers: map[string]*Writer[T]{}, pick: pick}
	for _, n := range names {
		w, err := Create[T](n, meta)
		if err != nil {
			f.abort()
			return nil, err
		}
		f.writers[n] = w
	}
	return f, nil
}

func (f *files[T]) schema() string { return Schema[T]() }

func (f *files[T]) write(name string, r located) error {
	rec, err := f.pick(r)
	if err != nil {
		return err
	}
	return f.writers[name].Write(rec)
}

// close completes every file before the first is put in place, so that a full
// disk leaves none of them.
func (f *files[T]) close(note string) error {
	for _, n := range f.names {
		f.writers[n].SetMetadata("gobpo.import", note)
		if err := f.writers[n].complete(); err != nil {
			return err
		}
	}
	for _, n := range f.names {
		if err := f.writers[n].commit(); err != nil {
			return err
		}
	}
	return nil
}

func (f *files[T]) abort() {
	for _, w := range f.writers {
		w.Abort()
	}
}

// String is the report in lines for people.
func (r ImportReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rows read (layout %s)\n", r.Rows, strings.Join(slices.Compact(slices.Clone(r.Layouts)), ", "))
	for _, name := range slices.Sorted(maps.Keys(r.Written)) {
		fmt.Fprintf(&b, "%8d → %s (%s)\n", r.Written[name], name, r.Schema)
	}
	if r.Duplicates > 0 {
		fmt.Fprintf(&b, "%8d left out: duplicates\n", r.Duplicates)
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(&b, "%8d left out: %s\n", r.Skipped[reason], reason)
	}
	return b.String()
}

func reasons(skipped map[string]int) string {
	s := ""
	for _, reason := range slices.Sorted(maps.Keys(skipped)) {
		s += fmt.Sprintf("; %d: %s", skipped[reason], reason)
	}
	return s
}
