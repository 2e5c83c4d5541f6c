package experiments

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/gonum/stat"

	"gobpo/experiments/stats"
)

// Cell is one number of the table: its mean over seeds and, from two seeds on, their standard deviation. A win rate
// also has the half width of its 95 % percentile bootstrap interval over prompts, each with all its seeds: it covers
// the choice of prompts, the standard deviation what training seeds do. Missing numbers are nil.
type Cell struct {
	Mean *float64 `json:"mean"`
	Half *float64 `json:"half_width,omitempty"`
	SD   *float64 `json:"sd,omitempty"`
}

// Row is one arm of a sweep: all trials that agree in everything but the seed.
type Row struct {
	Settings []Setting       `json:"-"`
	Point    map[string]any  `json:"settings"`
	Method   string          `json:"method"`
	Seeds    int             `json:"seeds"` // runs that are done
	Failed   int             `json:"failed,omitempty"`
	Missing  int             `json:"missing,omitempty"`
	Cells    map[string]Cell `json:"metrics"`
	Runs     []string        `json:"runs"` // hashes, in seed order
	RunSeeds []uint64        `json:"run_seeds,omitempty"`
}

// Table is a sweep's results, one row an arm.
type Table struct {
	Study   string          `json:"study"`
	Keys    []string        `json:"keys"` // swept, other than the seed
	Rows    []Row           `json:"rows"`
	Initial map[string]Cell `json:"initial"`          // the start policy, or the mean of several
	Starts  int             `json:"starts,omitempty"` // how many differ
	Notes   []string        `json:"notes,omitempty"`  // what is wrong with putting these runs together
}

// columns of the printed table; the JSON holds every metric.
var columns = []struct {
	metric, title string
	sd            bool // print the deviation over seeds beside it
}{
	{"eval/win_rate", "win rate", true}, {"eval/win_rate_length_controlled", "LC win rate", false}, {"eval/score", "score", false}, {"kl/initial", "KL", false},
	{"eval/length", "words", false}, {"eval/distinct_2", "distinct-2", false}, {"eval/unique", "unique", false},
}

// halved is the one metric with an interval.
const halved = "eval/win_rate"

// MakeTable gathers the results of a sweep's trials.
func MakeTable(out string, trials []Trial) (Table, error) {
	t := Table{Initial: map[string]Cell{}}
	byArm := map[string]int{}
	finals, starts, started := [][]Result{}, []Result{}, map[string]bool{}
	counted := map[string]bool{} // runs of arms: two points of one arm may be one run
	for _, trial := range trials {
		t.Study = trial.Config.Study
		arm := Trial{Point: withoutSeed(trial.Point)}
		name := arm.String()
		i, ok := byArm[name]
		if !ok {
			i = len(t.Rows)
			byArm[name] = i
			point := map[string]any{}
			for _, s := range arm.Point {
				point[s.Key] = s.Value
			}
			t.Rows = append(t.Rows, Row{Settings: arm.Point, Point: point, Method: trial.Config.Method()})
			finals = append(finals, nil)
		}
		if counted[name+" "+trial.Hash] {
			continue
		}
		counted[name+" "+trial.Hash] = true
		row := &t.Rows[i]
		dir := filepath.Join(StudyDir(out, trial.Config), trial.Hash)
		m, err := ReadManifest(dir)
		if err != nil {
			return t, err
		}
		switch m.State {
		case Done:
			r, err := ReadResult(dir)
			if err != nil {
				return t, err
			}
			if len(row.Runs) > 0 {
				first, err := ReadManifest(filepath.Join(StudyDir(out, trial.Config), row.Runs[0]))
				if err != nil {
					return t, err
				}
				if key := unlike(first, m); key != "" {
					t.Notes = append(t.Notes, fmt.Sprintf("%s: runs %s and %s have seen different %s (%s and %s); delete the older one and sweep again", name, row.Runs[0], trial.Hash, key, first.Data[key], m.Data[key]))
				}
			}
			row.Seeds++
			row.Runs, row.RunSeeds = append(row.Runs, trial.Hash), append(row.RunSeeds, trial.Config.Seed)
			finals[i] = append(finals[i], r)
			if !started[r.InitialDir] {
				started[r.InitialDir], starts = true, append(starts, Result{Final: r.Initial})
			}
		case Failed:
			row.Failed++
		default:
			row.Missing++
		}
	}
	for i := range t.Rows {
		t.Rows[i].Cells = cells(finals[i])
	}
	t.Initial, t.Starts = cells(starts), len(starts)
	for _, r := range t.Rows {
		for _, s := range r.Settings {
			if !slices.Contains(t.Keys, s.Key) {
				t.Keys = append(t.Keys, s.Key)
			}
		}
	}
	return t, nil
}

// unlike is what two runs of one arm must share and do not: hashes name files, whose contents may have changed between them.
func unlike(a, b Manifest) string {
	for _, key := range slices.Sorted(maps.Keys(a.Data)) {
		shared := key == "model" || strings.HasPrefix(key, "prompts/") || strings.HasPrefix(key, "annotator") || strings.HasPrefix(key, "eval.annotator")
		if was, noted := b.Data[key]; shared && noted && was != a.Data[key] {
			return key
		}
	}
	return ""
}

func withoutSeed(point []Setting) []Setting {
	var out []Setting
	for _, s := range point {
		if s.Key != "seed" {
			out = append(out, s)
		}
	}
	return out
}

// cells summarises every metric of an arm's runs.
func cells(results []Result) map[string]Cell {
	values := map[string][]float64{}
	for _, r := range results {
		for k, v := range r.Final {
			values[k] = append(values[k], v)
		}
	}
	out := map[string]Cell{}
	for k, v := range values {
		mean, sd := stat.MeanStdDev(v, nil)
		out[k] = Cell{Mean: finite(mean), SD: finite(sd)}
	}
	if cell, ok := out[halved]; ok {
		var outcomes [][]float64
		for _, r := range results {
			outcomes = append(outcomes, r.Outcomes)
		}
		_, interval := stats.Bootstrap{}.Mean(outcomes)
		if len(outcomes[0]) == 0 && len(results) == 1 { // a start policy keeps only its summary
			interval = stats.Interval{Low: results[0].Final["eval/win_rate_low"], High: results[0].Final["eval/win_rate_high"]}
		}
		cell.Half = finite((interval.High - interval.Low) / 2)
		out[halved] = cell
	}
	return out
}

func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// String is "0.612 ± 0.031", or "–" where there is no number.
func (c Cell) String() string {
	if c.Mean == nil {
		return "–"
	}
	digits := 3
	if math.Abs(*c.Mean) >= 10 {
		digits = 1
	}
	s := strconv.FormatFloat(*c.Mean, 'f', digits, 64)
	if c.Half != nil {
		s += " ± " + strconv.FormatFloat(*c.Half, 'f', digits, 64)
	}
	return s
}

// settings are the row's values of the swept keys, "" where it has none.
func (r Row) settings(keys []string) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		if v, ok := r.Point[k]; ok {
			out[i] = showValue(v)
		}
	}
	return out
}

// grid is the table as text: a header and a line for the start policy and each arm.
func (t Table) grid() [][]string {
	header := append([]string{}, t.Keys...)
	header = append(header, "method", "seeds")
	for _, c := range columns {
		header = append(header, c.title)
		if c.sd {
			header = append(header, "seed sd")
		}
	}
	numbers := func(cells map[string]Cell) (out []string) {
		for _, c := range columns {
			out = append(out, cells[c.metric].String())
			if c.sd {
				out = append(out, Cell{Mean: cells[c.metric].SD}.String())
			}
		}
		return out
	}
	lines := [][]string{header}
	start := append(make([]string, len(t.Keys)), t.startName(), "")
	start = append(start, numbers(t.Initial)...)
	if len(t.Initial) > 0 {
		lines = append(lines, start)
	}
	for _, r := range t.Rows {
		line := r.settings(t.Keys)
		seeds := strconv.Itoa(r.Seeds)
		if r.Failed > 0 {
			seeds += fmt.Sprintf(" (%d failed)", r.Failed)
		}
		if r.Missing > 0 {
			seeds += fmt.Sprintf(" (%d missing)", r.Missing)
		}
		line = append(line, r.Method, seeds)
		lines = append(lines, append(line, numbers(r.Cells)...))
	}
	return lines
}

func (t Table) startName() string {
	if t.Starts > 1 {
		return fmt.Sprintf("start policies, mean of %d", t.Starts)
	}
	return "start policy"
}

// records are the table's numbers as they are, with the lines of grid.
func (t Table) records() [][]string {
	header := append(append([]string{}, t.Keys...), "method", "seeds", "failed", "missing")
	for _, c := range columns {
		header = append(header, c.metric)
		if c.metric == halved {
			header = append(header, c.metric+"_half_width")
		}
		header = append(header, c.metric+"_sd")
	}
	lines := [][]string{header}
	add := func(line []string, cells map[string]Cell) {
		for _, c := range columns {
			cell := cells[c.metric]
			line = append(line, number(cell.Mean))
			if c.metric == halved {
				line = append(line, number(cell.Half))
			}
			line = append(line, number(cell.SD))
		}
		lines = append(lines, line)
	}
	if len(t.Initial) > 0 {
		add(append(make([]string, len(t.Keys)), t.startName(), "", "", ""), t.Initial)
	}
	for _, r := range t.Rows {
		add(append(r.settings(t.Keys), r.Method, strconv.Itoa(r.Seeds), strconv.Itoa(r.Failed), strconv.Itoa(r.Missing)), r.Cells)
	}
	return lines
}

// Print writes the table aligned for a terminal.
func (t Table) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range t.grid() {
		fmt.Fprintln(tw, strings.Join(line, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, t.Legend())
	return err
}

// Legend says what the numbers are.
func (t Table) Legend() string {
	return "means over seeds; win rate against the reference texts, a tie counting one half, ± half width of the 95 % bootstrap " +
		"interval over prompts; seed sd: standard deviation of the win rate over seeds; LC win rate: as a " +
		"logistic regression predicts it for outputs as long as the references; KL to the start policy in nats a completion" + strings.Join(append([]string{""}, t.Notes...), "\nNote: ")
}

// latex is the table for a paper (booktabs).
func (t Table) latex() []byte {
	escape := strings.NewReplacer("&", `\&`, "%", `\%`, "_", `\_`, "#", `\#`, "{", `\{`, "}", `\}`, "±", `$\pm$`, "–", "--", "β", `$\beta$`)
	var out bytes.Buffer
	grid := t.grid()
	fmt.Fprintf(&out, "\\begin{tabular}{%s}\n\\toprule\n", strings.Repeat("l", len(grid[0])))
	for i, line := range grid {
		cells := make([]string, len(line))
		for k, cell := range line {
			cells[k] = escape.Replace(cell)
		}
		fmt.Fprintf(&out, "%s \\\\\n", strings.Join(cells, " & "))
		if i == 0 {
			out.WriteString("\\midrule\n")
		}
	}
	fmt.Fprintf(&out, "\\bottomrule\n\\end{tabular}\n%% %s\n", strings.ReplaceAll(t.Legend(), "\n", "\n% "))
	return out.Bytes()
}

// Save writes results.md, results.tex, results.csv and results.json into the study's directory.
func (t Table) Save(dir string) error {
	var md, cs bytes.Buffer
	for i, line := range t.grid() {
		fmt.Fprintf(&md, "| %s |\n", strings.Join(line, " | "))
		if i == 0 {
			fmt.Fprintf(&md, "|%s\n", strings.Repeat("---|", len(line)))
		}
	}
	fmt.Fprintf(&md, "\n%s.\n", t.Legend())
	if err := csv.NewWriter(&cs).WriteAll(t.records()); err != nil {
		return err
	}
	return errors.Join(
		WriteFile(filepath.Join(dir, "results.md"), md.Bytes()),
		WriteFile(filepath.Join(dir, "results.tex"), t.latex()),
		WriteFile(filepath.Join(dir, "results.csv"), cs.Bytes()),
		writeJSON(filepath.Join(dir, "results.json"), t))
}

func number(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', -1, 64)
}
