package experiments

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/experiments/stats"
	"gobpo/experiments/tasks"
)

// Outputs are the texts of one policy beside their references, in the order of the prompts.
type Outputs struct {
	Name string
	Rows []data.Completion
	run  *Config // that was measured by them, if one was
}

// RunOutputs reads those that a finished run was measured by.
func RunOutputs(dir string) (Outputs, error) {
	c, err := oneRun(dir)
	if err != nil {
		return Outputs{}, err
	}
	rows, err := data.Read[data.Completion](filepath.Join(dir, "samples", "final.parquet"))
	return Outputs{Name: dir, Rows: rows, run: &c}, unfinished(dir, "outputs", err)
}

// DefaultEvaluator judges outputs where no other is named: of runs that agree on it and on their task theirs, else rouge_l.
// why says in what runs do not agree.
func DefaultEvaluator(all []Outputs) (c annotate.Config, why string) {
	c.Name = "rouge_l"
	for _, o := range all {
		if o.run == nil {
			return c, ""
		}
	}
	first := all[0].run
	for _, o := range all[1:] {
		switch {
		case o.run.Task.Name != first.Task.Name || o.run.Task.Seed != first.Task.Seed:
			return c, fmt.Sprintf("%s and %s are of different tasks", all[0].Name, o.Name)
		case !reflect.DeepEqual(o.run.Eval.Annotator, first.Eval.Annotator):
			return c, fmt.Sprintf("%s and %s have different evaluators (eval.annotator)", all[0].Name, o.Name)
		}
	}
	return first.Eval.Annotator, ""
}

// goldOf is the reward of the task that all outputs are of; nil where they are not all of runs of one.
func goldOf(all []Outputs) func(prompt, completion string) float64 {
	for _, o := range all {
		if o.run == nil || o.run.Task.Name != all[0].run.Task.Name {
			return nil
		}
	}
	t, err := tasks.Get(all[0].run.Task.Name)
	if err != nil { // the runs have none
		return nil
	}
	return t.Reward
}

// HeadToHead is one policy's outputs against another's, judged against each other and not against the references.
type HeadToHead struct {
	A        string         `json:"a"`
	B        string         `json:"b"`
	Rate     float64        `json:"rate"`     // at which A wins; a tie counts one half
	Interval stats.Interval `json:"interval"` // 95 % bootstrap over prompts
	Ties     float64        `json:"ties"`     // share
	P        float64        `json:"p"`        // exact sign test
	Holm     float64        `json:"holm"`     // adjusted for all pairs
	// Usage is what a judge was asked for this comparison (annotate.Usage).
	Usage map[string]float64 `json:"usage,omitempty"`
}

// Judgments are what one evaluator says of outputs: of each against its references, and of every two against each other.
type Judgments struct {
	Evaluator  string       `json:"evaluator"`
	Against    []Evaluation `json:"against"` // the references, by outputs
	HeadToHead []HeadToHead `json:"head_to_head"`
}

// Judge measures outputs of the same prompts with one evaluator.
func (s *Session) Judge(ctx context.Context, all []Outputs, c EvalConfig) (Judgments, error) {
	a, err := s.newAnnotator(c.Annotator, goldOf(all), "auto")
	if err != nil {
		return Judgments{}, fmt.Errorf("annotator.%w", err)
	}
	out, boot := Judgments{Evaluator: a.Name()}, stats.Bootstrap{Resamples: c.Bootstrap}
	for _, o := range all {
		e, err := Compare(ctx, a, o.Rows, boot, 0)
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.Name, err)
		}
		out.Against = append(out.Against, e)
	}
	var ps []float64
	for i, x := range all {
		for _, y := range all[i+1:] {
			if err := samePrompts(x, y); err != nil {
				return out, err
			}
			reqs := make([]annotate.Request, len(x.Rows))
			for k, r := range x.Rows {
				reqs[k] = annotate.Request{Prompt: r.Prompt, Reference: r.Reference, Completions: []string{r.Text, y.Rows[k].Text}}
			}
			h := HeadToHead{A: x.Name, B: y.Name}
			var wins []float64
			var err error
			if wins, h.Usage, err = verdictsOf(ctx, a, reqs); err != nil {
				return out, err
			}
			h.Rate, h.Interval = boot.Mean([][]float64{wins})
			h.Ties = float64(stats.Count(wins).Ties) / float64(len(wins))
			h.P = evenTest(wins)
			out.HeadToHead, ps = append(out.HeadToHead, h), append(ps, h.P)
		}
	}
	for i, p := range stats.Holm(ps) {
		out.HeadToHead[i].Holm = p
	}
	return out, nil
}

// verdictsOf judges the first completion of each request against the second, and counts what that used.
func verdictsOf(ctx context.Context, a annotate.Annotator, reqs []annotate.Request) ([]float64, map[string]float64, error) {
	judgments, used, err := annotate.Counted(ctx, a, reqs, 0)
	if err != nil {
		return nil, nil, err
	}
	out := make([]float64, len(judgments))
	for i, j := range judgments {
		out[i] = stats.Outcome(j.Compare(0, 1))
	}
	return out, used, nil
}

func samePrompts(x, y Outputs) error {
	if len(x.Rows) != len(y.Rows) {
		return fmt.Errorf("%s has %d outputs and %s %d; only outputs of the same prompts meet each other", x.Name, len(x.Rows), y.Name, len(y.Rows))
	}
	for i := range x.Rows {
		if a, b := x.Rows[i], y.Rows[i]; a.Prompt != b.Prompt || a.Reference != b.Reference {
			return fmt.Errorf("output %d of %s and of %s are of different prompts or references (%q and %q)", i+1, x.Name, y.Name, clip(a.Prompt, 40), clip(b.Prompt, 40))
		}
	}
	return nil
}

// Accuracy is how often an evaluator prefers the chosen text of labelled pairs.
type Accuracy struct {
	Evaluator string         `json:"evaluator"`
	Rate      float64        `json:"rate"` // a tie counts one half
	Interval  stats.Interval `json:"interval"`
	// Usage is what a judge was asked (annotate.Usage).
	Usage    map[string]float64 `json:"usage,omitempty"`
	outcomes []float64
}

// JudgePairs holds evaluators to labels.
func (s *Session) JudgePairs(ctx context.Context, pairs []data.Preference, evaluators []annotate.Config, resamples int) ([]Accuracy, error) {
	reqs := make([]annotate.Request, len(pairs))
	for i, p := range pairs {
		reqs[i] = annotate.Request{Prompt: p.Prompt, Reference: p.Reference, Completions: []string{p.Chosen, p.Rejected}}
	}
	var out []Accuracy
	for _, c := range evaluators {
		a, err := s.newAnnotator(c, nil, "auto")
		if err != nil {
			return nil, fmt.Errorf("annotator.%w", err)
		}
		acc := Accuracy{Evaluator: a.Name()}
		if acc.outcomes, acc.Usage, err = verdictsOf(ctx, a, reqs); err != nil {
			return nil, err
		}
		acc.Rate, acc.Interval = stats.Bootstrap{Resamples: resamples}.Mean([][]float64{acc.outcomes})
		out = append(out, acc)
	}
	return out, nil
}

// EvaluatorAgreement is the agreement of two evaluators on something.
type EvaluatorAgreement struct {
	On string `json:"on"`
	A  string `json:"a"`
	B  string `json:"b"`
	stats.Agreement
}

// Agreements of every two evaluators, on each of the outputs against their references.
func Agreements(all []Outputs, by []Judgments, resamples int) (out []EvaluatorAgreement) {
	for o := range all {
		for i, x := range by {
			for _, y := range by[i+1:] {
				out = append(out, EvaluatorAgreement{all[o].Name, x.Evaluator, y.Evaluator, stats.Agree(x.Against[o].Outcomes, y.Against[o].Outcomes, stats.Bootstrap{Resamples: resamples})})
			}
		}
	}
	return out
}

// PairAgreements of every two evaluators, on labelled pairs.
func PairAgreements(by []Accuracy, resamples int) (out []EvaluatorAgreement) {
	for i, x := range by {
		for _, y := range by[i+1:] {
			out = append(out, EvaluatorAgreement{"the pairs", x.Evaluator, y.Evaluator, stats.Agree(x.outcomes, y.outcomes, stats.Bootstrap{Resamples: resamples})})
		}
	}
	return out
}

// PrintJudgments writes a table of outputs and one of pairs, for a terminal.
func PrintJudgments(w io.Writer, all []Outputs, j Judgments) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "%s, against the references\twin rate\t95 %%\tlength-controlled\tties\tn\twords\tscore\n", j.Evaluator)
	for i, e := range j.Against {
		m := e.Metrics
		number := func(name, format string) string {
			if v, ok := m["eval/"+name]; ok {
				return fmt.Sprintf(format, v)
			}
			return "–"
		}
		fmt.Fprintf(tw, "%s\t%.3f\t%.3f to %.3f\t%s\t%.3f\t%.0f\t%.1f\t%s\n", all[i].Name, m["eval/win_rate"], m["eval/win_rate_low"], m["eval/win_rate_high"],
			number("win_rate_length_controlled", "%.3f"), m["eval/ties"], m["eval/n"], m["eval/length"], number("score", "%.4g"))
	}
	if len(j.HeadToHead) > 0 {
		fmt.Fprintf(tw, "\n%s, head to head\twin rate\t95 %%\tties\tp\tHolm\n", j.Evaluator)
		for _, h := range j.HeadToHead {
			fmt.Fprintf(tw, "%s over %s\t%.3f\t%.3f to %.3f\t%.3f\t%.2g\t%.2g\n", h.A, h.B, h.Rate, h.Interval.Low, h.Interval.High, h.Ties, h.P, h.Holm)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for i, e := range j.Against {
		used := map[string]float64{}
		for name, n := range e.Metrics {
			if name, ok := strings.CutPrefix(name, "eval/judge/"); ok {
				used["judge/"+name] = n
			}
		}
		printUsage(w, all[i].Name+" and the references", used)
		e.printHint(w, all[i].Name)
	}
	for _, h := range j.HeadToHead {
		printUsage(w, h.A+" and "+h.B, h.Usage)
		printHint(w, h.A+" and "+h.B, len(all[0].Rows), h.Rate, h.Interval, h.Holm)
	}
	printFew(w, len(all[0].Rows))
	return nil
}

// printHint says where a win rate tells two not apart, and how many prompts would do it. The test decides beside the interval,
// which is a point where a few prompts all agree.
func printHint(w io.Writer, what string, n int, rate float64, i stats.Interval, p float64) {
	if p < 0.05 && (i.Low > 0.5 || i.High < 0.5) {
		return
	}
	fmt.Fprintf(w, "%s are not told apart", what)
	if n := promptsNeeded(n, rate, i); n > 0 {
		fmt.Fprintf(w, "; about %d prompts would tell such a difference (80 %% power at 0.05)", n)
	}
	fmt.Fprintln(w)
}

// printFew warns of what a few prompts give.
func printFew(w io.Writer, n int) {
	if n < 30 {
		fmt.Fprintf(w, "n is %d: of fewer than 30 prompts, intervals and length-controlled rates are not to be relied on\n", n)
	}
}

// evenTest is the sign test of outcomes against one half.
func evenTest(outcomes []float64) float64 {
	_, _, p := stats.SignTest(outcomes, slices.Repeat([]float64{0.5}, len(outcomes)))
	return p
}

// printUsage says what a judge was asked, if one was, and how many of its answers had no verdict and made ties.
func printUsage(w io.Writer, what string, used map[string]float64) {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(used)) {
		parts = append(parts, name+" "+strconv.FormatFloat(used[name], 'f', -1, 64))
	}
	if len(parts) > 0 {
		fmt.Fprintf(w, "%s: %s\n", what, strings.Join(parts, ", "))
	}
}

// PrintHints says what a win rate does not tell.
func (e Evaluation) PrintHints(w io.Writer) {
	e.printHint(w, "the outputs")
	printFew(w, len(e.Outcomes))
}

func (e Evaluation) printHint(w io.Writer, name string) {
	m := e.Metrics
	printHint(w, name+" and the references", len(e.Outcomes), m["eval/win_rate"], stats.Interval{Low: m["eval/win_rate_low"], High: m["eval/win_rate_high"]}, evenTest(e.Outcomes))
}

// promptsNeeded is the number of prompts that would tell a win rate from one half with 80 % power at a level of 0.05, where its
// interval holds one half; else, and where it is one half, 0.
func promptsNeeded(n int, rate float64, i stats.Interval) int {
	if rate == 0.5 || math.IsNaN(rate) || math.IsNaN(i.Low) || i.Low > 0.5 || i.High < 0.5 {
		return 0
	}
	return stats.SampleSizePaired(n, rate-0.5, i)
}

// PrintAccuracies writes how evaluators do on labelled pairs.
func PrintAccuracies(w io.Writer, all []Accuracy, n int) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "on %d labelled pairs\taccuracy\t95 %%\n", n)
	for _, a := range all {
		fmt.Fprintf(tw, "%s\t%.3f\t%.3f to %.3f\n", a.Evaluator, a.Rate, a.Interval.Low, a.Interval.High)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, a := range all {
		printUsage(w, a.Evaluator, a.Usage)
	}
	return nil
}

// PrintAgreements writes them with their tables.
func PrintAgreements(w io.Writer, all []EvaluatorAgreement) error {
	for _, a := range all {
		fmt.Fprintf(w, "\n%s and %s on %s: the same verdict %.3f [%.3f, %.3f], Cohen's kappa %.3f [%.3f, %.3f], n %d\n", a.A, a.B, a.On,
			a.Raw, a.RawInterval.Low, a.RawInterval.High, a.Kappa, a.KappaInterval.Low, a.KappaInterval.High, a.N)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, "\tloss\ttie\twin\t")
		for i, name := range []string{"loss", "tie", "win"} {
			fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t\n", name, a.Table[i][0], a.Table[i][1], a.Table[i][2])
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}
