package experiments

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// layout says which swept keys are drawn how: x along the axis, panel one plot each, the others as series.
type layout struct {
	xKey, panelKey string
	xs             []string // values of xKey in order
	panels         []string // values of panelKey (β, or the loss) in order; one "" where neither is swept
	arms           []string // names of series
	keys           []string
}

func layoutOf(t Table) layout {
	l := layout{}
	for _, k := range t.Keys {
		switch k {
		case "refresh", "refresh_every":
			l.xKey = k
		case "loss.beta":
			l.panelKey = k
		}
	}
	if l.panelKey == "" {
		l.panelKey = lossPanels(t, l.xKey)
	}
	for _, k := range t.Keys {
		if k != l.xKey && k != l.panelKey {
			l.keys = append(l.keys, k)
		}
	}
	for _, r := range t.Rows {
		for _, v := range []struct {
			into *[]string
			s    string
		}{{&l.xs, l.x(r)}, {&l.panels, l.panel(r)}, {&l.arms, l.arm(r)}} {
			if !slices.Contains(*v.into, v.s) {
				*v.into = append(*v.into, v.s)
			}
		}
	}
	slices.SortStableFunc(l.xs, func(a, b string) int { // F in its order, whatever that of the rows is
		x, errX := strconv.ParseFloat(a, 64)
		y, errY := strconv.ParseFloat(b, 64)
		if errX != nil || errY != nil {
			return 0
		}
		return cmp.Compare(x, y)
	})
	return l
}

// lossPanels is the key of the loss where a few losses are swept along with something to compare within each, else "".
func lossPanels(t Table, xKey string) string {
	for _, k := range t.Keys {
		if k != "loss" && k != "loss.name" {
			continue
		}
		values := map[string]bool{}
		for _, r := range t.Rows {
			values[pointText(r, k)] = true
		}
		if len(values) <= mostLevels && slices.ContainsFunc(t.Keys, func(other string) bool { return other != k && other != xKey }) {
			return k
		}
	}
	return ""
}

func (l layout) x(r Row) string     { return pointText(r, l.xKey) }
func (l layout) panel(r Row) string { return pointText(r, l.panelKey) }

// arm names a row's series: what else is swept, in words.
func (l layout) arm(r Row) string {
	var words []string
	for _, k := range l.keys {
		v := pointText(r, k)
		switch {
		case v == "":
		case k == "reference" && v == "behavior":
			words = append(words, "reference = behavior (BPO)")
		case k == "reference":
			words = append(words, "reference = "+v)
		case k == "behavior":
			words = append(words, v+" samples")
		default:
			words = append(words, k+" = "+v)
		}
	}
	if len(words) == 0 {
		return r.Method
	}
	return strings.Join(words, ", ")
}

func pointText(r Row, key string) string {
	if v, ok := r.Point[key]; ok {
		return showValue(v)
	}
	return ""
}

func (l layout) panelTitle(value string) string {
	switch l.panelKey {
	case "":
		return ""
	case "loss.beta":
		return "β = " + value
	}
	return l.panelKey + " = " + value
}

func (l layout) xLabel() string {
	switch l.xKey {
	case "":
		return ""
	case "refresh_every":
		return "K, steps of a data-collection phase"
	}
	return "F, data-collection phases"
}

// xName is a row's place along the axis: "F=2".
func (l layout) xName(r Row) string {
	return strings.NewReplacer("refresh_every", "K", "refresh", "F").Replace(l.xKey) + "=" + l.x(r)
}

// mostLines can be told apart in one plot, and mostLevels horizontal ones.
const mostLines, mostLevels = 10, 4

// figures are the plots that a study's table and runs allow.
func figures(t Table, study string) ([]figure, error) {
	l := layoutOf(t)
	spent, err := winRateOverAnnotations(t, l, study)
	if err != nil {
		return nil, err
	}
	out := []figure{winRateOverF(t, l, onPolicy(t, study)), winRateOverKL(t, l), spent}
	curves, err := trainingCurves(t, l, study)
	out = append(out, curves...)
	return slices.DeleteFunc(out, func(f figure) bool { return len(f.panels) == 0 }), err
}

// onPolicy finds the rows whose behavior is refreshed at every step, F = T, by their first run.
func onPolicy(t Table, study string) map[string]bool {
	found := map[string]bool{}
	for _, r := range t.Rows {
		if len(r.Runs) == 0 {
			continue
		}
		if c, err := runConfig(filepath.Join(study, r.Runs[0])); err == nil && c.Behavior == "learner" && c.K() == 1 && c.Phases() > 1 {
			found[r.Runs[0]] = true
		}
	}
	return found
}

// winRateOverF draws each arm over F, and with few arms a dashed line at the height of its on-policy row.
func winRateOverF(t Table, l layout, onPolicy map[string]bool) figure {
	f := figure{name: "win-rate-over-f", title: "Win rate over F",
		caption: "Win rate against the reference texts (a tie counts one half) on the test prompts. Bars are 95 % bootstrap intervals over prompts; the marks of one F stand side by side so that they can be told apart."}
	if l.xKey == "" {
		f.title, l.xs = "Win rate by arm", []string{""}
		f.caption = "Win rate against the reference texts (a tie counts one half) on the test prompts. Bars are 95 % bootstrap intervals over prompts."
	}
	for pi, value := range l.panels {
		p := panel{title: l.panelTitle(value), x: l.xLabel(), y: "win rate", ticks: l.xs, rate: true, legend: pi == 0, byName: l.xKey == "", lines: baselines(t)}
		for ai, arm := range l.arms {
			s := series{name: arm, hue: ai, dash: ai / len(palette), marks: true}
			for _, r := range t.Rows {
				c := r.Cells["eval/win_rate"]
				if l.panel(r) != value || l.arm(r) != arm || c.Mean == nil {
					continue
				}
				shift := 0.07 * (float64(ai) - float64(len(l.arms)-1)/2)
				s.points = append(s.points, point{x: float64(max(0, slices.Index(l.xs, l.x(r)))) + shift, y: *c.Mean, half: valueOr(c.Half, 0)})
				if len(r.Runs) > 0 && onPolicy[r.Runs[0]] && l.xKey != "" && len(l.arms) <= mostLevels {
					p.series = append(p.series, series{name: "on-policy (F = T): " + arm, hue: ai, dash: 2,
						points: []point{{x: -0.4, y: *c.Mean}, {x: float64(len(l.xs)) - 0.6, y: *c.Mean}}})
				}
			}
			slices.SortStableFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
			p.series = append(p.series, s)
		}
		f.panels = append(f.panels, p)
	}
	return shareY(f)
}

func winRateOverKL(t Table, l layout) figure {
	if len(l.arms) > mostLines {
		return figure{} // the table has the numbers
	}
	f := figure{name: "win-rate-over-kl", title: "Win rate over KL to the start policy",
		caption: "Each mark is an arm at one F, lines join growing F. Further right is further from the start policy; for the same win rate, less is better."}
	for pi, value := range l.panels {
		p := panel{title: l.panelTitle(value), x: "KL to the start policy (nats a completion)", y: "win rate", rate: true, legend: pi == 0}
		if y, ok := baselines(t)[parLine]; ok {
			p.lines = map[string]float64{parLine: y}
		}
		for ai, arm := range l.arms {
			s := series{name: arm, hue: ai, dash: ai / len(palette), marks: true}
			for _, r := range t.Rows {
				kl, win := r.Cells["kl/initial"], r.Cells["eval/win_rate"]
				if l.panel(r) != value || l.arm(r) != arm || kl.Mean == nil || win.Mean == nil {
					continue
				}
				label := ""
				if l.xKey == "refresh" {
					label = "F=" + l.x(r)
				}
				s.points = append(s.points, point{x: *kl.Mean, y: *win.Mean, half: valueOr(win.Half, 0), label: label})
			}
			if len(s.points) > 0 {
				p.series = append(p.series, s)
			}
		}
		if len(p.series) == 0 {
			return figure{}
		}
		f.panels = append(f.panels, p)
	}
	return shareY(f)
}

// winRateOverAnnotations draws the dev win rate that a number of annotated prompts has bought: the last one before the next
// are annotated. It needs curves (eval.every) and says something where F is swept.
func winRateOverAnnotations(t Table, l layout, study string) (figure, error) {
	f := figure{name: "win-rate-over-annotations", title: "Win rate over annotations spent",
		caption: "Dev win rate of the last evaluation before the next prompts are annotated, mean over seeds. At the right all arms have spent the same."}
	if l.xKey == "" {
		return figure{}, nil
	}
	drawn := false
	for _, value := range l.panels {
		for _, arm := range l.arms {
			p := panel{title: strings.Trim(l.panelTitle(value)+", "+arm, ", "), x: "prompts annotated", y: "win rate (dev)", rate: true, legend: len(f.panels) == 0}
			for _, r := range t.Rows {
				if l.panel(r) != value || l.arm(r) != arm || r.Seeds == 0 {
					continue
				}
				curves, err := meanCurves(study, r.Runs)
				if err != nil {
					return f, err
				}
				i := slices.Index(l.xs, l.x(r))
				s := series{name: l.xName(r), hue: i, dash: i, marks: true, points: spent(curves["collect/prompts"], curves["eval/win_rate"])}
				drawn = drawn || len(s.points) > 1
				p.series = append(p.series, s)
			}
			if len(p.series) > 0 {
				f.panels = append(f.panels, p)
			}
		}
	}
	if !drawn || len(l.xs) > mostLines {
		return figure{}, nil
	}
	return shareY(f), nil
}

// spent puts evaluations over the annotations made up to their steps, the last one of each number. Evaluations before the
// first annotation are left out.
func spent(annotated, evaluated []point) []point {
	var out []point
	for _, e := range evaluated {
		sum := 0.0
		for _, a := range annotated {
			if a.x <= e.x {
				sum += a.y
			}
		}
		switch q := (point{x: sum, y: e.y}); {
		case sum == 0:
		case len(out) > 0 && out[len(out)-1].x == sum:
			out[len(out)-1] = q
		default:
			out = append(out, q)
		}
	}
	return out
}

func baselines(t Table) map[string]float64 {
	lines := map[string]float64{parLine: 0.5}
	if c := t.Initial["eval/win_rate"]; c.Mean != nil {
		lines["start policy"] = *c.Mean
	}
	return lines
}

// shareY gives the panels of a figure one scale, by marks that are not seen.
func shareY(f figure) figure {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, p := range f.panels {
		for _, s := range p.series {
			for _, q := range s.points {
				lo, hi = min(lo, q.y-q.half), max(hi, q.y+q.half)
			}
		}
		for _, y := range p.lines {
			lo, hi = min(lo, y), max(hi, y)
		}
	}
	for i := range f.panels {
		f.panels[i].yMin, f.panels[i].yMax, f.panels[i].entries = lo, hi, len(f.panels[0].series)+len(f.panels[0].lines)
	}
	return f
}

// curveMetrics are drawn over steps, as far as the runs have them.
var curveMetrics = []struct{ name, title string }{
	{"eval/win_rate", "win rate (dev)"}, {"loss", "loss"}, {"rewards/margins", "reward margin"},
	{"rewards/accuracies", "reward accuracy"}, {"kl/initial", "KL to the start policy"},
}

// trainingCurves draws each metric over steps, averaged over the seeds of an arm, one figure a panel value.
func trainingCurves(t Table, l layout, study string) ([]figure, error) {
	var out []figure
	for _, value := range l.panels {
		f := figure{name: "training", title: "Training", caption: "Means over seeds."}
		if l.panelKey != "" {
			f.name += "-" + fileName(strings.TrimPrefix(l.panelKey, "loss.")+"-"+value)
			f.title += ", " + l.panelTitle(value)
		}
		var rows []Row
		for _, r := range t.Rows {
			if l.panel(r) == value && r.Seeds > 0 {
				rows = append(rows, r)
			}
		}
		if len(rows) > mostLines {
			f.caption += fmt.Sprintf(" The first %d of %d arms.", mostLines, len(rows))
			rows = rows[:mostLines]
		}
		curves := make([]map[string][]point, len(rows))
		for i, r := range rows {
			var err error
			if curves[i], err = meanCurves(study, r.Runs); err != nil {
				return nil, err
			}
		}
		for _, m := range curveMetrics {
			p := panel{title: m.title, x: "step", legend: len(f.panels) == 0}
			seen := 0
			for i, r := range rows {
				name := l.arm(r)
				if l.x(r) != "" {
					name = l.xName(r) + ", " + name
				}
				points := curves[i][m.name]
				seen += len(points)
				hue := slices.Index(l.arms, l.arm(r))
				p.series = append(p.series, series{name: name, hue: hue, dash: max(0, slices.Index(l.xs, l.x(r))) + hue/len(palette), points: points})
			}
			if seen > 0 {
				f.panels = append(f.panels, p)
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// fileName keeps what every file system takes.
func fileName(s string) string {
	return strings.Trim(regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(s, "-"), "-")
}

// meanCurves averages the metrics of runs step by step.
func meanCurves(study string, runs []string) (map[string][]point, error) {
	sums, counts := map[string]map[int]float64{}, map[string]map[int]float64{}
	for _, run := range runs {
		steps, err := ReadMetrics(filepath.Join(study, run, "metrics.jsonl"))
		if err != nil {
			return nil, err
		}
		for _, s := range steps {
			for k, v := range s.Values {
				if sums[k] == nil {
					sums[k], counts[k] = map[int]float64{}, map[int]float64{}
				}
				sums[k][s.Step] += v
				counts[k][s.Step]++
			}
		}
	}
	out := map[string][]point{}
	for k, bySteps := range sums {
		for step, sum := range bySteps {
			out[k] = append(out[k], point{x: float64(step), y: sum / counts[k][step]})
		}
		slices.SortFunc(out[k], func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	return out, nil
}

func valueOr(p *float64, otherwise float64) float64 {
	if p == nil {
		return otherwise
	}
	return *p
}
