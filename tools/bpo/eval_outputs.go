package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"gobpo/data"
)

// outputsFrom reads outputs and puts each beside its reference.
func outputsFrom(path, references string) ([]data.Completion, error) {
	rows, err := readOutputs(path)
	if err != nil {
		return nil, err
	}
	if references != "" {
		if err := addReferences(rows, path, references); err != nil {
			return nil, err
		}
	}
	for i, r := range rows {
		if r.Reference == "" {
			return nil, fmt.Errorf("%s: output %d has no reference text; give them with --references", path, i+1)
		}
		if r.Prompt == "" && r.foreign != "" {
			return nil, fmt.Errorf("%s: row %d has no prompt: its keys are %s; name it prompt or instruction, or give --references", path, i+1, r.foreign)
		}
	}
	out := make([]data.Completion, len(rows))
	for i, r := range rows {
		out[i] = r.Completion
	}
	return out, nil
}

// addReferences gives every output the prompt and the reference of the same row. An output that has a prompt must have that
// one.
func addReferences(rows []output, path, references string) error {
	prompts, err := readReferences(references)
	if err != nil {
		return err
	}
	if len(prompts) != len(rows) {
		return fmt.Errorf("%s has %d rows for the %d outputs of %s", references, len(prompts), len(rows), path)
	}
	for i, p := range prompts {
		r := &rows[i]
		if r.Prompt != "" && r.Prompt != p.Prompt {
			order := ""
			if sameTexts(rows, prompts) {
				order = "; the prompts are the same, in another order"
			}
			return fmt.Errorf("%s: row %d answers %.40q, but row %d of %s is %.40q (they part at byte %d)%s",
				path, i+1, r.Prompt, i+1, references, p.Prompt, parting(r.Prompt, p.Prompt)+1, order)
		}
		if p.Reference == "" {
			return fmt.Errorf("%s: row %d has no reference text", references, i+1)
		}
		r.Prompt, r.Reference = p.Prompt, p.Reference
	}
	return nil
}

// readReferences reads a prompt file, or outputs that are to be the references.
func readReferences(path string) ([]data.Prompt, error) {
	prompts, err := data.LoadPrompts(path)
	if err == nil {
		return prompts, nil
	}
	rows, other := readOutputs(path)
	if other != nil || len(rows) == 0 {
		return nil, err
	}
	for _, r := range rows {
		if r.Prompt == "" {
			return nil, err
		}
		prompts = append(prompts, data.Prompt{Prompt: r.Prompt, Reference: r.Text})
	}
	return prompts, nil
}

func sameTexts(rows []output, prompts []data.Prompt) bool {
	var a, b []string
	for i := range rows {
		a, b = append(a, rows[i].Prompt), append(b, prompts[i].Prompt)
	}
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// parting is the length of what two texts begin with alike.
func parting(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// output is a row of outputs; foreign are its keys if some of them are not ours.
type output struct {
	data.Completion
	foreign string
}

// readOutputs reads rows of outputs, or a text with one output a line. A name says which of the two; what is compressed, and
// what is Parquet, the content says.
func readOutputs(path string) ([]output, error) {
	switch kind := filepath.Ext(strings.TrimSuffix(path, ".gz")); kind {
	case ".parquet", ".jsonl", ".ndjson":
		return rowsOf(path, data.Any(path))
	case ".json":
		text, err := readText(path)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
			return rowsOf(path, data.Any(path))
		}
		var list []map[string]json.RawMessage // as AlpacaEval publishes them
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, fmt.Errorf("%s: not a list of JSON objects: %w", path, err)
		}
		return rowsOf(path, func(yield func(any, error) bool) {
			for _, r := range list {
				if !yield(r, nil) {
					return
				}
			}
		})
	case ".txt", "":
		return readLines(path)
	default:
		return nil, fmt.Errorf("%s: outputs are .jsonl, .ndjson, .json or .parquet, or .txt with one output a line; not %s", path, kind)
	}
}

// rowsOf takes outputs from rows of ours or of others.
func rowsOf(path string, rows iter.Seq2[any, error]) (out []output, err error) {
	for r, err := range rows {
		if err != nil {
			return nil, err
		}
		var o output
		switch r := r.(type) {
		case data.Completion:
			o.Completion = r
		case map[string]json.RawMessage:
			if o, err = outputOf(r); err != nil {
				return nil, fmt.Errorf("%s: row %d: %w", path, len(out)+1, err)
			}
		default:
			return nil, fmt.Errorf("%s: prompts or preferences, not outputs", path)
		}
		out = append(out, o)
	}
	return out, nil
}

// readLines reads one output a line; an empty line is an empty output.
func readLines(path string) ([]output, error) {
	text, err := readText(path)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	var out []output
	objects, empty := 0, 0
	for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		var object map[string]json.RawMessage
		if strings.TrimSpace(line) == "" {
			empty++
		} else if json.Unmarshal([]byte(line), &object) == nil && object != nil {
			objects++
		}
		out = append(out, output{Completion: data.Completion{Text: line}})
	}
	if objects > 0 && objects+empty == len(out) {
		return nil, fmt.Errorf("%s: every line is a JSON object: call it .jsonl if they are rows; outputs that are JSON go into rows, as {\"text\": …}", path)
	}
	return out, nil
}

// readText reads a text, plain or compressed.
func readText(path string) ([]byte, error) {
	text, err := data.ReadText(path)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	for i, line := range bytes.Split(text, []byte("\n")) {
		if !utf8.Valid(line) || bytes.IndexByte(line, 0) >= 0 {
			return nil, fmt.Errorf("%s: line %d is not text (UTF-8)", path, i+1)
		}
	}
	return text, nil
}

// outputOf reads a row of ours, or one of AlpacaEval (instruction, output); further keys are let be.
func outputOf(row map[string]json.RawMessage) (o output, err error) {
	whole, err := json.Marshal(row)
	if err != nil {
		return o, err
	}
	var other *json.UnmarshalTypeError // a key that means something else there, as a number for an id
	if err := json.Unmarshal(whole, &o.Completion); err != nil && !errors.As(err, &other) {
		return o, err
	}
	keys := slices.Sorted(maps.Keys(row))
	for _, key := range keys {
		if !completionKeys[key] {
			o.foreign = "{" + strings.Join(keys, ", ") + "}"
		}
	}
	var found bool
	if o.Text, found, err = textOf(row, "text", "output", "completion"); err != nil {
		return o, err
	}
	if !found {
		return o, fmt.Errorf("no text: its keys are {%s}; name it text, output or completion", strings.Join(keys, ", "))
	}
	if o.Prompt, _, err = textOf(row, "prompt", "instruction"); err != nil {
		return o, err
	}
	if input, _, _ := textOf(row, "input"); input != "" && row["prompt"] == nil {
		return o, errors.New(`an "input" beside the instruction; put both into "prompt"`)
	}
	o.Reference, _, err = textOf(row, "reference")
	return o, err
}

var completionKeys = func() map[string]bool {
	keys := map[string]bool{}
	for f := range reflect.TypeFor[data.Completion]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		keys[name] = true
	}
	return keys
}()

// textOf is the text at the first of the keys that the row has.
func textOf(row map[string]json.RawMessage, keys ...string) (text string, found bool, err error) {
	for _, key := range keys {
		raw := row[key]
		if raw == nil || string(raw) == "null" {
			continue
		}
		if json.Unmarshal(raw, &text) != nil {
			return "", true, fmt.Errorf("key %q is not text", key)
		}
		return text, true, nil
	}
	return "", false, nil
}
