package data

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ImportOptions says how foreign rows become records. The zero value detects
// layout and kind, keeps duplicates and writes one file.
type ImportOptions struct {
	Layout string // one of Layouts; "" = auto
	As     string // "" = auto: what the first row is | prompts (a preference gives its prompt, chosen as reference) | preferences
	Dedup  string // "" = keep all | exact (prompt and texts equal) | prompt (one row a prompt): the first is kept
	Splits Splits
	Seed   uint64             // of the splits
	Force  bool               // replace existing files
	OnRow  func(ImportReport) // called after every 1024th row read; Skipped and Written must not be kept
}

// ImportReport counts what became of every row: Rows is the sum of Written,
// Skipped and Duplicates.
type ImportReport struct {
	Schema     string         `json:"schema"`
	Layouts    []string       `json:"layouts"` // per input
	Rows       int            `json:"rows"`
	Written    map[string]int `json:"written"` // by output path
	Skipped    map[string]int `json:"skipped,omitempty"`
	Duplicates int            `json:"duplicates,omitempty"`
}

// Import streams the inputs, in order, into a Parquet file at out or, with
// splits, into files beside it named "<out without .parquet>-<split>.parquet".
// Memory does not grow with the rows, but for 16 bytes a row (and the hash
// table's overhead) with Dedup. All outputs appear complete at the end or, on
// any error, none does. A malformed row is an error naming file and line; a
// well-formed one that is no prompt or pair is counted under its reason.
func Import(ctx context.Context, inputs []string, out string, o ImportOptions) (ImportReport, error) {
	rep := ImportReport{Written: map[string]int{}, Skipped: map[string]int{}}
	if err := o.check(inputs); err != nil {
		return rep, err
	}
	var sink sink
	defer func() {
		if sink != nil {
			sink.abort()
		}
	}()
	seen := map[[16]byte]struct{}{}
	for _, path := range inputs {
		layout := ""
		for r, err := range convertAll(path, o.Layout) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return rep, err
			}
			layout = r.layout
			rep.Rows++
			if o.OnRow != nil && rep.Rows%1024 == 0 {
				o.OnRow(rep)
			}
			if r.skip != "" {
				rep.Skipped[r.skip]++
				continue
			}
			if sink == nil {
				if sink, err = o.open(out, r.row, inputs); err != nil {
					return rep, err
				}
			}
			if o.Dedup != "" {
				key := r.key(o.Dedup)
				if _, dup := seen[key]; dup {
					rep.Duplicates++
					continue
				}
				seen[key] = struct{}{}
			}
			name := outputName(out, o.Splits.Of(r.promptText(), o.Seed))
			if err := sink.write(name, r); err != nil {
				return rep, err
			}
			rep.Written[name]++
		}
		rep.Layouts = append(rep.Layouts, layout)
	}
	if sink == nil {
		return rep, fmt.Errorf("%s: none of its %d rows can be imported%s", strings.Join(inputs, ", "), rep.Rows, reasons(rep.Skipped))
	}
	rep.Schema = sink.schema()
	note := rep
	note.Written = map[string]int{}
	for path, n := range rep.Written {
		note.Written[filepath.Base(path)] = n
	}
	b, err := json.Marshal(note)
	if err != nil {
		return rep, err
	}
	return rep, sink.close(string(b))
}

func (o *ImportOptions) check(inputs []string) error {
	if o.Layout == "" {
		o.Layout = "auto"
	}
	if o.Dedup == "none" {
		o.Dedup = ""
	}
	switch {
	case len(inputs) == 0:
		return fmt.Errorf("import: no input files")
	case !slices.Contains(Layouts, o.Layout):
		return fmt.Errorf("layout: %q is not one of %s", o.Layout, strings.Join(Layouts, ", "))
	case !slices.Contains([]string{"", "auto", "prompts", "preferences"}, o.As):
		return fmt.Errorf("as: %q is not one of auto, prompts, preferences", o.As)
	case !slices.Contains([]string{"", "exact", "prompt"}, o.Dedup):
		return fmt.Errorf("dedup: %q is not one of none, exact, prompt", o.Dedup)
	case len(o.Splits) == 0:
		return nil
	}
	for _, path := range inputs { // by the same hash a share of a split would not divide as is asked for
		info, err := Describe(path)
		if err != nil {
			return err
		}
		if info.Meta[splitSeedKey] == strconv.FormatUint(o.Seed, 10) {
			return fmt.Errorf("%s: came of a split with seed %d; split it with another seed", path, o.Seed)
		}
	}
	return nil
}

// splitSeedKey is the metadata key of files that came of a split.
const splitSeedKey = "gobpo.split_seed"

// outputName is the file a split goes to.
func outputName(out, split string) string {
	if split == "" {
		return out
	}
	return strings.TrimSuffix(out, ".parquet") + "-" + split + ".parquet"
}

// open starts the output files, of the kind asked for or the first row's.
func (o ImportOptions) open(out string, first row, inputs []string) (sink, error) {
	names := []string{out}
	if len(o.Splits) > 0 {
		names = nil
		for _, s := range o.Splits {
			names = append(names, outputName(out, s.Name))
		}
	}
	for _, n := range names {
		if _, err := os.Stat(n); err == nil && !o.Force {
			return nil, fmt.Errorf("%s: exists already (--force replaces it)", n)
		}
	}
	meta := map[string]string{"gobpo.source": baseNames(inputs)}
	if len(o.Splits) > 0 {
		meta[splitSeedKey] = strconv.FormatUint(o.Seed, 10)
	}
	if o.As == "preferences" || o.As != "prompts" && first.pair != nil {
		return openFiles(names, meta, func(r located) (Preference, error) {
			if r.pair == nil {
				return Preference{}, fmt.Errorf("%s: a row of layout %s has no chosen and rejected", r.at, r.layout)
			}
			return *r.pair, nil
		})
	}
	return openFiles(names, meta, func(r located) (Prompt, error) {
		if r.pair != nil && o.As != "prompts" {
			return Prompt{}, fmt.Errorf("%s: a preference after prompts (--as prompts takes its prompt)", r.at)
		}
		return r.asPrompt(), nil
	})
}

func baseNames(paths []string) string {
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return strings.Join(names, ", ")
}

func (r row) promptText() string {
	if r.prompt != nil {
		return r.prompt.Prompt
	}
	return r.pair.Prompt
}

// key identifies a row's texts, or only its prompt.
func (r row) key(dedup string) [16]byte {
	switch {
	case dedup == "prompt":
		return digest(r.promptText())
	case r.prompt != nil:
		return digest(r.prompt.Prompt, r.prompt.Reference)
	}
	return digest(r.pair.Prompt, r.pair.Chosen, r.pair.Rejected)
}
