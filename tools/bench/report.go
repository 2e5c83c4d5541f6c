package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gobpo/models"
)

// report is everything measured; its JSON is what --json writes.
type report struct {
	CPUs        int           `json:"cpus"`
	Load        float64       `json:"load"` // 1-minute load average before the first case
	Rounds      int           `json:"rounds"`
	Model       string        `json:"model"`
	Config      models.Config `json:"config"`
	XLAFlags    string        `json:"xla_flags,omitempty"`
	PeerMissing string        `json:"peer_missing,omitempty"`
	ReadGBs     float64       `json:"read_gb_s"` // all CPUs together
	Results     []result      `json:"results"`
	Rows        []row         `json:"rows"` // the printed table
	Notes       []string      `json:"notes"`
}

type result struct {
	Task task      `json:"task"`
	Ours *measured `json:"ours"`
	Peer *measured `json:"peer,omitempty"`
}

// row is one line of the table: rates of both sides (medians), the ratio (median of the rounds' ratios) and its range.
type row struct {
	Name             string
	Unit             string
	Ours, Peer       float64
	Ratio, Low, High float64
	OursMB, PeerMB   float64
	OursCPU, PeerCPU float64 // CPUs busy, mean over the runs; 0: not known
}

// rows turns a result into lines; work is what a run counts, in the unit.
func (r result) rows() []row {
	line := func(name, unit string, work float64, parts ...string) row {
		ours := r.Ours.total(parts...)
		l := row{Name: name, Unit: unit, Ours: rate(work, ours), OursMB: r.Ours.PeakMB, OursCPU: r.Ours.busy()}
		if r.Peer != nil {
			theirs := r.Peer.total(parts...)
			l.Peer, l.PeerMB, l.PeerCPU = rate(work, theirs), r.Peer.PeakMB, r.Peer.busy()
			l.Ratio, l.Low, l.High = speedup(ours, theirs)
		}
		return l
	}
	switch r.Task.Kind {
	case "train":
		n := float64(r.Task.count())
		return []row{line(r.Task.Name+", with reference", "tok/s", n, "learn", "reference"), line(r.Task.Name+", without", "tok/s", n, "learn")}
	case "sample":
		return []row{line(r.Task.Name, "tok/s", float64(r.Task.count()), "sample")}
	}
	var out []row
	for _, n := range r.Task.Sizes {
		l := line(fmt.Sprintf("matmul %d", n), "GFLOP/s", 2e-9*float64(n)*float64(n)*float64(n), fmt.Sprint(n))
		l.OursMB, l.PeerMB, l.OursCPU, l.PeerCPU = 0, 0, 0, 0 // of no interest
		out = append(out, l)
	}
	return out
}

func rate(work float64, seconds []float64) float64 {
	if m := median(seconds); m > 0 {
		return work / m
	}
	return 0
}

// busy is how many CPUs were at work on average while the side ran.
func (m *measured) busy() float64 {
	cpu, wall := 0.0, 0.0
	for i, run := range m.Runs {
		for _, s := range run {
			wall += s
		}
		cpu += m.CPU[i]
	}
	if wall == 0 {
		return 0
	}
	return cpu / wall
}

// notes says what limits us, and whether both sides did the same work.
func (rep *report) notes() []string {
	var notes []string
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	peak := 0.0
	for _, l := range rep.Rows {
		if l.Unit == "GFLOP/s" {
			peak = max(peak, l.Ours)
		}
	}
	for _, r := range rep.Results {
		t, ready := r.Task, r.Ours.Ready
		if t.Kind == "matmul" {
			continue
		}
		say("%s: gobpo loads in %.1f s and compiles %d executables in %.1f s", t.Name, ready.Load, ready.Compiled, ready.Compile)
		switch t.Kind {
		case "train":
			learn, reference := t.flops()
			got := learn / median(r.Ours.total("learn")) / 1e9
			note := fmt.Sprintf("%s: learn %.2f s, %.0f GFLOP, %.0f GFLOP/s", t.Name, median(r.Ours.total("learn")), learn/1e9, got)
			if peak > 0 {
				note += fmt.Sprintf(" = %.0f%% of the matmul peak", 100*got/peak)
			}
			say("%s; reference %.2f s, %.0f GFLOP", note, median(r.Ours.total("reference")), reference/1e9)
			if r.Peer != nil {
				mid, low, high := speedup(r.Ours.total("learn"), r.Peer.total("learn", "reference"))
				say("%s: reference = behavior costs gobpo no pass (the sampler's log-probs are kept); against the peer with its pass %.2fx (%.2f to %.2f)", t.Name, mid, low, high)
				say("%s: mean log-prob of chosen completions, gobpo %.3f, peer %.3f (%s)", t.Name, ready.Check, r.Peer.Ready.Check, r.Peer.Ready.Note)
			}
		case "sample":
			if t.Folded {
				say("%s: folding takes gobpo %.2f s, once per phase, not counted%s", t.Name, median(r.Ours.total("fold")), ifPeer(r.Peer, "fold"))
			}
			if t.Batch == 1 {
				tokens := rate(float64(t.count()), r.Ours.total("sample"))
				say("%s: %.0f MB a token at least, so %.1f GB/s with the prefill's time counted in; plain reading reaches %.1f GB/s",
					t.Name, t.decodeBytes()/1e6, t.decodeBytes()*tokens/1e9, rep.ReadGBs)
			}
		}
	}
	return notes
}

func ifPeer(m *measured, part string) string {
	if m == nil {
		return ""
	}
	return fmt.Sprintf(" (peer: merge %.2f s)", median(m.total(part)))
}

func (rep *report) print(out io.Writer) {
	for _, r := range rep.Results {
		rep.Rows = append(rep.Rows, r.rows()...)
	}
	rep.Notes = rep.notes()
	fmt.Fprintf(out, "%s, float32, %d CPUs, %d rounds", filepath.Base(rep.Model), rep.CPUs, rep.Rounds)
	for _, r := range rep.Results[:1] {
		fmt.Fprintf(out, "; gobpo: %s", r.Ours.Ready.Versions)
		if r.Peer != nil {
			fmt.Fprintf(out, "; peer: %s", r.Peer.Ready.Versions)
		}
	}
	fmt.Fprintln(out)
	if rep.PeerMissing != "" {
		fmt.Fprintf(out, "peer not installed: %s\n", rep.PeerMissing)
	}
	if rep.Load > 0.5 {
		fmt.Fprintf(out, "the machine was busy (load average %.1f): rates are too low, and ratios less certain\n", rep.Load)
	}
	fmt.Fprintln(out)
	fmt.Fprint(out, table(rep.Rows, rep.PeerMissing != ""))
	fmt.Fprintln(out)
	for _, n := range rep.Notes {
		fmt.Fprintln(out, n)
	}
}

// table aligns the rows. A peer that is missing says so; a number that is not known is a dash.
func table(rows []row, missing bool) string {
	cells := [][]string{{"", "gobpo", "peer", "unit", "ratio", "range", "CPUs", "peer", "peak MB", "peer", "ratio"}}
	number := func(format string, v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf(format, v)
	}
	for _, r := range rows {
		peer, spread, memory := number("%.1f", r.Peer), "-", 0.0
		if r.Peer == 0 && missing {
			peer = "not installed"
		}
		if r.Ratio > 0 {
			spread = fmt.Sprintf("%.2f-%.2f", r.Low, r.High)
		}
		if r.PeerMB > 0 {
			memory = r.OursMB / r.PeerMB
		}
		cells = append(cells, []string{r.Name, number("%.1f", r.Ours), peer, r.Unit, number("%.2f", r.Ratio), spread,
			number("%.1f", r.OursCPU), number("%.1f", r.PeerCPU), number("%.0f", r.OursMB), number("%.0f", r.PeerMB), number("%.2f", memory)})
	}
	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], len(c))
		}
	}
	var s strings.Builder
	for _, line := range cells {
		for i, c := range line {
			if i == 0 {
				fmt.Fprintf(&s, "%-*s", widths[i], c)
			} else {
				fmt.Fprintf(&s, "  %*s", widths[i], c)
			}
		}
		s.WriteString("\n")
	}
	return s.String()
}

// seconds lists a run's parts.
func seconds(parts map[string]float64) string {
	var s []string
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		s = append(s, fmt.Sprintf("%s %.3f s", name, parts[name]))
	}
	return strings.Join(s, ", ")
}

func (rep *report) write(path string) error {
	text, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
