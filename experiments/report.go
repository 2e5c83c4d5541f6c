package experiments

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gobpo/data"
)

//go:embed report.html
var reportHTML string

var reportTemplate = template.Must(template.New("report").Parse(reportHTML))

// reportPage is what report.html shows.
type reportPage struct {
	Title, Made, Legend string
	Backends            []string
	Hours               string
	Header              []string
	Lines               [][]string
	Differences         [][]string // header and lines; nil where there is nothing to compare
	DifferencesLegend   string
	Figures             []reportFigure
	Samples             []reportSample
	Failures            []reportFailure
	Config              string
}

type reportFigure struct {
	Title, Caption string
	SVG            []template.HTML
}

// reportSample is one prompt with what everyone answers.
type reportSample struct {
	Prompt  string
	Answers []reportAnswer
}

type reportAnswer struct {
	Who, Text, Score string
	Reference        bool
}

type reportFailure struct{ Run, Error string }

// Report draws a study: report.html, which needs nothing but itself, and figures/*.png and *.svg. It returns the
// page's path. baseline is the arm that the others are compared with, as CompareArms takes it.
func Report(study, baseline string) (string, error) {
	t, err := studyTable(study)
	if err != nil {
		return "", err
	}
	figs, err := figures(t, study)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(study, "figures")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	grid := t.grid()
	page := reportPage{Title: t.Study, Made: time.Now().Format("2 January 2006, 15:04"), Legend: t.Legend(), Header: grid[0], Lines: grid[1:]}
	for _, f := range figs {
		if err := f.save(filepath.Join(dir, f.name), 3); err != nil {
			return "", fmt.Errorf("figure %s: %w", f.name, err)
		}
		rf := reportFigure{Title: f.title, Caption: f.caption}
		for _, p := range f.panels {
			svg, err := p.svg()
			if err != nil {
				return "", fmt.Errorf("figure %s: %w", f.name, err)
			}
			// The drawing's own markup; names in it are escaped by the SVG writer.
			rf.SVG = append(rf.SVG, template.HTML(stripProlog(svg)))
		}
		page.Figures = append(page.Figures, rf)
	}
	if err := page.addDifferences(t, study, baseline); err != nil {
		return "", err
	}
	if err := page.addRuns(t, study); err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := reportTemplate.Execute(&out, page); err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	path := filepath.Join(study, "report.html")
	return path, WriteFile(path, out.Bytes())
}

// addDifferences compares the arms, if their runs can be paired.
func (p *reportPage) addDifferences(t Table, study, baseline string) error {
	base, err := t.find(baseline)
	if err != nil && baseline != "" {
		return err
	}
	if len(t.Rows) < 2 {
		return nil
	}
	against, all, err := t.compare(study, base)
	if err != nil { // an unfinished sweep has a report too
		p.DifferencesLegend = err.Error()
		return nil
	}
	p.Differences, p.DifferencesLegend = comparisonGrid(against, all), comparisonLegend
	return nil
}

// stripProlog leaves the <svg> element of an SVG document.
func stripProlog(svg string) string {
	if i := bytes.Index([]byte(svg), []byte("<svg")); i >= 0 {
		return svg[i:]
	}
	return svg
}

// studyTable is the table of the study's last sweep or, where there was none, of its runs.
func studyTable(study string) (Table, error) {
	var t Table
	err := readJSON(filepath.Join(study, "results.json"), &t)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	if err == nil && len(t.Rows) > 0 { // its arms; what they measured may have been measured again since
		for i, r := range t.Rows {
			results := make([]Result, len(r.Runs))
			for k, run := range r.Runs {
				if results[k], err = ReadResult(filepath.Join(study, run)); err != nil {
					return t, fmt.Errorf("%w; the study's table has this run: bpo sweep makes both anew", err)
				}
			}
			t.Rows[i].Cells = cells(results)
		}
		return t, nil
	}
	t = Table{Study: filepath.Base(study), Keys: []string{"run"}, Initial: map[string]Cell{}}
	entries, err := os.ReadDir(study)
	if err != nil {
		return t, fmt.Errorf("report: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(study, e.Name())
		m, err := ReadManifest(dir)
		if err != nil {
			return t, err
		}
		if m.State != Done {
			continue
		}
		r, err := ReadResult(dir)
		if err != nil {
			return t, err
		}
		t.Rows = append(t.Rows, Row{Point: map[string]any{"run": e.Name()}, Method: m.Method, Seeds: 1, Cells: cells([]Result{r}), Runs: []string{e.Name()}})
	}
	if len(t.Rows) == 0 {
		return t, fmt.Errorf("%s: no run is done here; give the directory of a study (runs/<study>)", study)
	}
	return t, nil
}

// addRuns gathers what stands in the run directories: backends, failures, samples, the configuration.
func (p *reportPage) addRuns(t Table, study string) error {
	entries, err := os.ReadDir(study)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	seconds := 0.0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		m, err := ReadManifest(filepath.Join(study, e.Name()))
		if err != nil {
			return err
		}
		if m.Backend != "" && !slices.Contains(p.Backends, m.Backend) {
			p.Backends = append(p.Backends, m.Backend)
		}
		seconds += m.Seconds
		if m.State == Failed {
			p.Failures = append(p.Failures, reportFailure{e.Name(), m.Error})
		}
	}
	p.Hours = (time.Duration(seconds) * time.Second).String()
	for _, r := range t.Rows {
		if len(r.Runs) > 0 {
			raw, err := os.ReadFile(filepath.Join(study, r.Runs[0], "config.yaml"))
			if err != nil {
				return fmt.Errorf("report: %w", err)
			}
			p.Config = string(raw)
			break
		}
	}
	return p.addSamples(t, study)
}

const (
	shownPrompts = 6
	shownArms    = 8
)

// addSamples puts the outputs of the arms' first runs side by side.
func (p *reportPage) addSamples(t Table, study string) error {
	l := layoutOf(t)
	byPrompt := map[string]int{}
	add := func(who, path string) error {
		rows, err := data.Read[data.Completion](path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		for _, c := range rows {
			i, ok := byPrompt[c.PromptID]
			if !ok {
				if len(p.Samples) == shownPrompts {
					continue
				}
				i = len(p.Samples)
				byPrompt[c.PromptID] = i
				p.Samples = append(p.Samples, reportSample{Prompt: c.Prompt, Answers: []reportAnswer{{Who: "reference text", Text: c.Reference, Reference: true}}})
			}
			a := reportAnswer{Who: who, Text: c.Text}
			if c.Score != nil {
				a.Score = fmt.Sprintf("%.2f", *c.Score)
			}
			p.Samples[i].Answers = append(p.Samples[i].Answers, a)
		}
		return nil
	}
	shown := map[string]bool{}
	for _, r := range t.Rows {
		if len(r.Runs) == 0 || shown[r.Runs[0]] || len(shown) == shownArms {
			continue
		}
		if len(shown) == 0 {
			result, err := ReadResult(filepath.Join(study, r.Runs[0]))
			if err != nil {
				return err
			}
			if result.InitialDir != "" {
				if err := add("start policy", filepath.Join(study, "shared", result.InitialDir, "samples.parquet")); err != nil {
					return err
				}
			}
		}
		shown[r.Runs[0]] = true
		who := r.Method
		if v := l.panel(r); v != "" {
			who += ", " + l.panelTitle(v)
		}
		if arm := l.arm(r); arm != "" && arm != r.Method {
			who += ", " + arm
		}
		if err := add(who, filepath.Join(study, r.Runs[0], "samples", "final.parquet")); err != nil {
			return err
		}
	}
	return nil
}
