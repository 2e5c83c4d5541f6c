package data

import (
	"fmt"
	"iter"
)

// LoadPrompts reads all prompts of a file: Parquet of schema prompts/v1, or
// any layout an import knows in Parquet, JSONL or JSONL.gz (a preference
// becomes its prompt with the chosen text as reference). Duplicates stay. An
// ID is the content hash unless the row has one. The error, one line naming
// the file and line or row, is the first row that is no prompt; an empty file
// is an error too.
func LoadPrompts(path string) ([]Prompt, error) {
	var prompts []Prompt
	for p, err := range promptsOf(path) {
		if err != nil {
			return nil, err
		}
		prompts = append(prompts, p)
	}
	if len(prompts) == 0 {
		return nil, fmt.Errorf("%s: no prompts in it", path)
	}
	return prompts, nil
}

// LoadPreferences reads all pairs of a file as LoadPrompts does: Parquet of schema preferences/v1, or any layout of pairs
// that an import knows.
func LoadPreferences(path string) ([]Preference, error) {
	var pairs []Preference
	for p, err := range pairsOf(path) {
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// Pairs streams the pairs of a file: those of Parquet of schema preferences/v1 as they stand, whatever is in their rows, those
// of any other as LoadPreferences reads them.
func Pairs(path string) iter.Seq2[Preference, error] {
	if info, err := Describe(path); err != nil || info.Schema != "" {
		return Rows[Preference](path)
	}
	return pairsOf(path)
}

func pairsOf(path string) iter.Seq2[Preference, error] {
	return func(yield func(Preference, error) bool) {
		n := 0
		for r, err := range convertAll(path, "auto") {
			switch {
			case err != nil:
			case r.skip != "":
				err = fmt.Errorf("%s: %s (`bpo data import` counts and leaves out such rows)", r.at, r.skip)
			case r.pair == nil:
				err = fmt.Errorf("%s: a prompt, not a pair of a chosen and a rejected text", r.at)
			}
			if err != nil {
				yield(Preference{}, err)
				return
			}
			if n++; !yield(*r.pair, nil) {
				return
			}
		}
		if n == 0 {
			yield(Preference{}, fmt.Errorf("%s: no pairs in it", path))
		}
	}
}

func promptsOf(path string) iter.Seq2[Prompt, error] {
	return func(yield func(Prompt, error) bool) {
		for r, err := range convertAll(path, "auto") {
			if err == nil && r.skip != "" {
				err = fmt.Errorf("%s: %s (`bpo data import` counts and leaves out such rows)", r.at, r.skip)
			}
			if err != nil {
				yield(Prompt{}, err)
				return
			}
			if !yield(r.asPrompt(), nil) {
				return
			}
		}
	}
}

// located is a converted row with the place it came from.
type located struct {
	row
	at     string
	layout string
}

// convertAll streams a file's rows in the given layout or, with "auto", the
// one its first row shows.
func convertAll(path, layout string) iter.Seq2[located, error] {
	return func(yield func(located, error) bool) {
		detected := layout == "auto"
		for raw, err := range rawRows(path) {
			if err == nil && layout == "auto" {
				layout, err = detect(raw)
			}
			if err == nil && detected {
				err = raw.unread(layout)
			}
			var r row
			if err == nil {
				r, err = convert(raw, layout)
			}
			if err != nil {
				yield(located{}, err)
				return
			}
			if !yield(located{r, raw.at, layout}, nil) {
				return
			}
		}
	}
}

// asPrompt is the row's prompt; a preference's chosen text is its reference.
func (r row) asPrompt() Prompt {
	if r.prompt != nil {
		return *r.prompt
	}
	p := r.pair
	return Prompt{ID: ID(p.Prompt, p.Chosen), Prompt: p.Prompt, Reference: p.Chosen, Messages: p.Messages}
}
