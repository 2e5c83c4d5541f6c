package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/spf13/cobra"
)

// line is one line of input with its place, for errors: "file:3".
type line struct {
	at  string
	raw []byte
}

// lines streams a file, or standard input for "-", leaving out blank lines.
func lines(cmd *cobra.Command, path string) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		in, name := cmd.InOrStdin(), "stdin"
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				yield(line{}, err)
				return
			}
			defer f.Close()
			in, name = f, path
		}
		r := bufio.NewReader(in)
		for n := 1; ; n++ {
			raw, err := r.ReadBytes('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				yield(line{}, fmt.Errorf("%s:%d: %w", name, n, err))
				return
			}
			if text := bytes.TrimSpace(raw); len(text) > 0 && !yield(line{fmt.Sprintf("%s:%d", name, n), bytes.TrimRight(raw, "\r\n")}, nil) {
				return
			}
			if err != nil {
				return
			}
		}
	}
}

// decode reads a line's JSON strictly into v.
func (l line) decode(v any) error {
	d := json.NewDecoder(bytes.NewReader(l.raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", l.at, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%s: more than one JSON value on the line", l.at)
	}
	return nil
}

// textOrIDs is a JSON text, or a list of token ids.
type textOrIDs struct {
	set  bool
	text string
	ids  []int32
}

// UnmarshalJSON tells the two apart.
func (t *textOrIDs) UnmarshalJSON(raw []byte) error {
	t.set = true
	if json.Unmarshal(raw, &t.text) != nil && json.Unmarshal(raw, &t.ids) != nil {
		return errors.New("want a text or a list of token ids")
	}
	return nil
}

// inputArg is the verb's input: its argument, or standard input.
func inputArg(args []string) string {
	if len(args) == 0 {
		return "-"
	}
	return args[0]
}
