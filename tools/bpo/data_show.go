package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gobpo/data"
)

func newDataShowCmd() *cobra.Command {
	var (
		first  int64
		n      int
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Print a data file's schema, metadata and some rows",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if first < 1 || n < 0 {
				return errors.New("--row counts from 1 and --n from 0")
			}
			info, err := data.Describe(args[0])
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return showJSON(w, info, first, n)
			}
			if err := printInfo(w, info); err != nil {
				return err
			}
			return showRows(info.Path, first, n, func(row int64, v any) error { return printRow(w, row, v, terminalWidth()) })
		},
	}
	f := cmd.Flags()
	f.Int64Var(&first, "row", 1, "the first row to print, from 1")
	f.IntVarP(&n, "n", "n", 3, "how many rows to print")
	f.BoolVar(&asJSON, "json", false, "one JSON object a line: the description, then the rows")
	return cmd
}

// showRows hands rows first..first+n-1 to print.
func showRows(path string, first int64, n int, print func(row int64, v any) error) error {
	if n == 0 {
		return nil
	}
	row := int64(0)
	for v, err := range data.Any(path) {
		if err != nil {
			return err
		}
		if row++; row < first {
			continue
		}
		if err := print(row, v); err != nil {
			return err
		}
		if row == first+int64(n)-1 {
			return nil
		}
	}
	if row < first {
		return fmt.Errorf("%s: row %d: there are only %d rows", path, first, row)
	}
	return nil
}

func showJSON(w io.Writer, info data.Info, first int64, n int) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(info); err != nil {
		return err
	}
	return showRows(info.Path, first, n, func(_ int64, v any) error { return enc.Encode(v) })
}

func printInfo(w io.Writer, info data.Info) error {
	rows, schema := "rows not counted", "not ours"
	if info.Rows >= 0 {
		rows = fmt.Sprintf("%d rows", info.Rows)
	}
	if info.Schema != "" {
		schema = info.Schema
	}
	fmt.Fprintf(w, "%s\n%s, schema %s, %s, %d bytes\n", info.Path, info.Format, schema, rows, info.Bytes)
	for _, k := range slices.Sorted(maps.Keys(info.Meta)) {
		fmt.Fprintf(w, "  %s = %s\n", k, info.Meta[k])
	}
	var err error
	if len(info.Columns) > 0 {
		for _, line := range wrap("columns: "+strings.Join(info.Columns, ", "), terminalWidth()-2) {
			_, err = fmt.Fprintf(w, "  %s\n", line)
		}
	}
	return err
}

// printRow prints a record field by field: short ones beside their name, texts
// wrapped below it, empty ones not at all.
func printRow(w io.Writer, row int64, v any, width int) error {
	fmt.Fprintf(w, "\n── row %d\n", row)
	fields, err := orderedFields(v)
	if err != nil {
		return err
	}
	for _, f := range fields {
		text, long := fieldText(f.value)
		switch {
		case text == "":
		case long || utf8.RuneCountInString(f.name+text) > width-4:
			fmt.Fprintf(w, "%s:\n", f.name)
			for _, line := range wrap(text, width-4) {
				fmt.Fprintf(w, "    %s\n", line)
			}
		default:
			fmt.Fprintf(w, "%s: %s\n", f.name, text)
		}
	}
	return nil
}

type field struct {
	name  string
	value json.RawMessage
}

// orderedFields are v's JSON members in the order v gives them: a record's own,
// a map's sorted.
func orderedFields(v any) ([]field, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(&b)
	if _, err := dec.Token(); err != nil { // the opening brace
		return nil, err
	}
	var fields []field
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		f := field{name: fmt.Sprint(name)}
		if err := dec.Decode(&f.value); err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// fieldText is a value for people; long says it reads better on its own lines.
func fieldText(raw json.RawMessage) (text string, long bool) {
	if json.Unmarshal(raw, &text) == nil {
		return text, strings.Contains(text, "\n")
	}
	var msgs []data.Message
	if json.Unmarshal(raw, &msgs) == nil && len(msgs) > 0 {
		return data.RenderMessages(msgs), true
	}
	var numbers []json.Number
	if json.Unmarshal(raw, &numbers) == nil {
		const most = 16
		parts := make([]string, 0, most+1)
		for _, x := range numbers[:min(most, len(numbers))] {
			parts = append(parts, x.String())
		}
		if len(numbers) > most {
			parts = append(parts, fmt.Sprintf("… (%d)", len(numbers)))
		}
		return strings.Join(parts, " "), false
	}
	if string(raw) == "null" {
		return "", false
	}
	return string(raw), false
}

// wrap breaks text into lines of at most width runes, at spaces where it can,
// keeping its own line breaks. Control characters, which could act on a
// terminal, are shown as U+FFFD.
func wrap(text string, width int) []string {
	width = max(width, 20)
	clean := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return utf8.RuneError
		}
		return r
	}, text)
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(clean, "\n"), "\n") {
		runes := []rune(line)
		for len(runes) > width {
			cut := width
			for i := width; i > width/2; i-- {
				if runes[i] == ' ' {
					cut = i
					break
				}
			}
			lines = append(lines, string(runes[:cut]))
			runes = runes[cut:]
			if len(runes) > 0 && runes[0] == ' ' {
				runes = runes[1:]
			}
		}
		lines = append(lines, string(runes))
	}
	return lines
}

func terminalWidth() int {
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && w > 0 {
		return min(w, 120)
	}
	return 100
}
