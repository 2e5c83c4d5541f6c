package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// printMetrics writes metrics one a line, beside those of the start policy where there are any.
func printMetrics(w io.Writer, initial, final map[string]float64) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(initial) > 0 {
		fmt.Fprintln(tw, "metric\tbefore\tafter")
	}
	for _, k := range sortedKeys(final) {
		if len(initial) == 0 {
			fmt.Fprintf(tw, "%s\t%.4g\n", k, final[k])
			continue
		}
		before := "–"
		if v, ok := initial[k]; ok {
			before = fmt.Sprintf("%.4g", v)
		}
		fmt.Fprintf(tw, "%s\t%s\t%.4g\n", k, before, final[k])
	}
	tw.Flush()
}
