package experiments

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/gonum/stat"

	"gobpo/experiments/stats"
)

// Comparison is an arm of a study against another one, paired by seed and prompt.
type Comparison struct {
	Arm        string         `json:"arm"`
	N          int            `json:"n"`          // prompts
	Difference float64        `json:"difference"` // of win rates
	Prompts    stats.Interval `json:"prompts"`    // 95 % bootstrap over prompts: for these trained policies
	// Seeds is the 95 % interval of the seeds' differences (Student's t): for the method. NaN for fewer than two seeds.
	Seeds  stats.Interval `json:"seeds"`
	Better int            `json:"better"` // prompts on which this arm does better than the other, by their means over seeds
	Worse  int            `json:"worse"`
	P      float64        `json:"p"`    // exact sign test over these; of one seed McNemar's
	Holm   float64        `json:"holm"` // adjusted for the number of comparisons
	// Needed is how many prompts a seed would tell the observed difference from zero, for these trained policies (80 % power
	// at 0.05), where Prompts holds zero; else 0.
	Needed int `json:"needed,omitempty"`
}

// CompareArms sets every arm of a study against a baseline, the arm of these settings ("refresh=1 reference=sft"), or the
// first one for none. A setting that the baseline names in part picks it if only one arm fits.
func CompareArms(study, baseline string) (against string, out []Comparison, err error) {
	t, err := studyTable(study)
	if err != nil {
		return "", nil, err
	}
	base, err := t.find(baseline)
	if err != nil {
		return "", nil, err
	}
	return t.compare(study, base)
}

// compare is CompareArms where the table is at hand and the baseline one of its rows.
func (t Table) compare(study string, base int) (against string, out []Comparison, err error) {
	y, err := t.outcomes(study, t.Rows[base])
	if err != nil {
		return "", nil, err
	}
	measuredOn, err := t.prompts(study, t.Rows[base])
	if err != nil {
		return "", nil, err
	}
	out = []Comparison{}
	var ps []float64
	for i, row := range t.Rows {
		if i == base {
			continue
		}
		if !slices.Equal(row.RunSeeds, t.Rows[base].RunSeeds) {
			return "", nil, fmt.Errorf("%s has the seeds %v, %s %v; finish the sweep first", t.name(row), row.RunSeeds, t.name(t.Rows[base]), t.Rows[base].RunSeeds)
		}
		on, err := t.prompts(study, row)
		if err != nil {
			return "", nil, err
		}
		if on != "" && measuredOn != "" && on != measuredOn {
			return "", nil, fmt.Errorf("%s and %s were measured on different prompts (%s and %s) and cannot be paired", t.name(row), t.name(t.Rows[base]), on, measuredOn)
		}
		x, err := t.outcomes(study, row)
		if err != nil {
			return "", nil, err
		}
		c := Comparison{Arm: t.name(row)}
		if c.Difference, c.Prompts, err = (stats.Bootstrap{}).Difference(x, y); err != nil {
			return "", nil, fmt.Errorf("%s against %s: %w; finish the sweep first", c.Arm, t.name(t.Rows[base]), err)
		}
		var bySeed []float64
		for g := range x {
			bySeed = append(bySeed, stat.Mean(x[g], nil)-stat.Mean(y[g], nil))
		}
		byPrompt, baseByPrompt := stats.ByPrompt(x), stats.ByPrompt(y)
		if byPrompt == nil {
			return "", nil, fmt.Errorf("%s: its runs were measured on unequal numbers of prompts", c.Arm)
		}
		c.N = len(byPrompt)
		if i := c.Prompts; c.Difference != 0 && i.Low <= 0 && i.High >= 0 {
			c.Needed = stats.SampleSizePaired(c.N, c.Difference, i)
		}
		c.Seeds = stats.OverSeeds(bySeed, 0.95).Interval
		c.Better, c.Worse, c.P = stats.SignTest(byPrompt, baseByPrompt)
		out, ps = append(out, c), append(ps, c.P)
	}
	for i, p := range stats.Holm(ps) {
		out[i].Holm = p
	}
	return t.name(t.Rows[base]), out, nil
}

// outcomes are those of an arm's runs, [seed][prompt].
func (t Table) outcomes(study string, r Row) (out [][]float64, err error) {
	for _, run := range r.Runs {
		result, err := ReadResult(filepath.Join(study, run))
		if err != nil {
			return nil, err
		}
		if len(result.Outcomes) == 0 {
			return nil, fmt.Errorf("%s: it has no outcomes by prompt to pair with", filepath.Join(study, run))
		}
		out = append(out, result.Outcomes)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no run is done; finish the sweep first", t.name(r))
	}
	return out, nil
}

// prompts identifies what an arm's runs were measured on, by the hash that they noted; "" where none noted one.
func (t Table) prompts(study string, r Row) (on string, err error) {
	for _, run := range r.Runs {
		m, err := ReadManifest(filepath.Join(study, run))
		if err != nil {
			return "", err
		}
		noted := cmp.Or(m.Data["prompts/test"], m.Data["prompts/eval"]) // see trial.resultPrompts
		if on != "" && noted != "" && on != noted {
			return "", fmt.Errorf("%s: its runs were measured on different prompts (%s and %s)", t.name(r), on, noted)
		}
		on = cmp.Or(on, noted)
	}
	return on, nil
}

// name is an arm's settings: "reference=sft refresh=1".
func (t Table) name(r Row) string {
	var words []string
	for _, k := range t.Keys {
		if v, ok := r.Point[k]; ok {
			words = append(words, k+"="+showValue(v))
		}
	}
	return strings.Join(words, " ")
}

// find is the arm that has all of the settings.
func (t Table) find(settings string) (int, error) {
	var fit []int
	var names []string
	for i, r := range t.Rows {
		have, ok := strings.Fields(t.name(r)), true
		for _, want := range strings.Fields(settings) {
			found := false
			for _, s := range have {
				found = found || s == want
			}
			ok = ok && found
		}
		if ok {
			fit = append(fit, i)
		}
		names = append(names, "  "+t.name(r))
	}
	switch {
	case len(fit) == 0:
		return 0, fmt.Errorf("--baseline: no arm has %q; the arms are\n%s", settings, strings.Join(names, "\n"))
	case len(fit) > 1 && settings != "":
		return 0, fmt.Errorf("--baseline: %q fits %d arms, among them %q and %q; name more settings", settings, len(fit), t.name(t.Rows[fit[0]]), t.name(t.Rows[fit[1]]))
	}
	return fit[0], nil
}

// comparisonGrid is a comparison as text: a header and a line for each arm.
func comparisonGrid(against string, all []Comparison) [][]string {
	interval := func(i stats.Interval) string {
		if math.IsNaN(i.Low) {
			return "–"
		}
		return fmt.Sprintf("%+.3f to %+.3f", i.Low, i.High)
	}
	lines := [][]string{{"against " + against, "difference", "95 % over prompts", "95 % over seeds", "better : worse", "p", "Holm"}}
	for _, c := range all {
		lines = append(lines, []string{c.Arm, fmt.Sprintf("%+.3f", c.Difference), interval(c.Prompts), interval(c.Seeds),
			fmt.Sprintf("%d : %d", c.Better, c.Worse), fmt.Sprintf("%.2g", c.P), fmt.Sprintf("%.2g", c.Holm)})
	}
	return lines
}

const comparisonLegend = "differences of win rates, paired by seed and prompt; over prompts: bootstrap, for these trained policies; " +
	"over seeds: Student's t of the seeds' differences, for the method; better : worse: prompts, by their means over seeds; p: exact sign test over these, Holm: for all lines"

// PrintComparisons writes them aligned for a terminal.
func PrintComparisons(w io.Writer, against string, all []Comparison) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range comparisonGrid(against, all) {
		fmt.Fprintln(tw, strings.Join(line, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, c := range all {
		if c.Holm < 0.05 && (c.Prompts.Low > 0 || c.Prompts.High < 0) {
			continue
		}
		fmt.Fprintf(w, "%s is not told apart", c.Arm)
		if c.Needed > 0 {
			fmt.Fprintf(w, "; if the difference is %+.3f, about %d prompts a seed would do it (80 %% power at 0.05)", c.Difference, c.Needed)
		}
		fmt.Fprintln(w)
	}
	if len(all) > 0 {
		printFew(w, all[0].N)
	}
	_, err := fmt.Fprintln(w, comparisonLegend)
	return err
}
