package data

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Quantiles summarises a list of lengths; each is an element of the list
// (nearest rank), Mean aside.
type Quantiles struct {
	N, Min, P50, P90, P99, Max int
	Mean                       float64
}

// quantilesOf sorts v.
func quantilesOf(v []int32) Quantiles {
	if len(v) == 0 {
		return Quantiles{}
	}
	slices.Sort(v)
	sum := 0.0
	for _, x := range v {
		sum += float64(x)
	}
	at := func(percent int) int { // nearest rank: ceil(n·percent/100), from 1
		return int(v[max(0, (len(v)*percent+99)/100-1)])
	}
	return Quantiles{N: len(v), Min: int(v[0]), P50: at(50), P90: at(90), P99: at(99), Max: int(v[len(v)-1]), Mean: sum / float64(len(v))}
}

// lengths are a text column's lengths in the units measured.
type lengths struct{ chars, words, tokens []int32 }

func (l *lengths) quantiles(name string, into map[string]Quantiles) {
	into[name+" chars"] = quantilesOf(l.chars)
	into[name+" words"] = quantilesOf(l.words)
	if l.tokens != nil {
		into[name+" tokens"] = quantilesOf(l.tokens)
	}
}

// judge files what the scan found under errors and warnings.
func (r *CheckReport) judge(s *scan) {
	if s.err != nil {
		r.Errors = append(r.Errors, s.err.Error())
	} else if s.Rows == 0 {
		r.Errors = append(r.Errors, s.Path+": no rows in it")
	}
	warn := func(n int, what string) {
		if n > 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %d of %d rows: %s", s.Path, n, s.Rows, what))
		}
	}
	warn(s.Duplicates, "equal to an earlier row")
	warn(s.SamePrompt, "an earlier row's prompt with other texts")
	for _, flaw := range slices.Sorted(maps.Keys(s.Flaws)) {
		warn(s.Flaws[flaw], flaw)
	}
}

// Print writes the report for people.
func (r CheckReport) Print(w io.Writer) error {
	for _, f := range r.Files {
		fmt.Fprintf(w, "%s\n  %s, layout %s: %d rows, %d prompts, %d duplicate rows, %d more of an earlier prompt\n",
			f.Path, orNone(f.Schema), orNone(f.Layout), f.Rows, f.Prompts, f.Duplicates, f.SamePrompt)
		if len(f.Lengths) == 0 {
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "  \tn\tmean\tmin\tp50\tp90\tp99\tmax\t")
		for _, name := range slices.Sorted(maps.Keys(f.Lengths)) {
			q := f.Lengths[name]
			fmt.Fprintf(t, "  %s\t%d\t%.1f\t%d\t%d\t%d\t%d\t%d\t\n", name, q.N, q.Mean, q.Min, q.P50, q.P90, q.P99, q.Max)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, s := range r.Warnings {
		fmt.Fprintln(w, "warning:", s)
	}
	for _, s := range r.Errors {
		fmt.Fprintln(w, "error:", s)
	}
	_, err := fmt.Fprintf(w, "%d files, %d errors, %d warnings\n", len(r.Files), len(r.Errors), len(r.Warnings))
	return err
}

func orNone(s string) string {
	if s == "" {
		return "?"
	}
	return s
}
