package experiments

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// RunStatus is how far a run is, as its directory tells whoever may read it.
type RunStatus struct {
	Run, Method string
	State       State
	Error       string
	Step, Steps int
	Last        map[string]float64 // the newest value of each metric
	Updated     time.Time          // of the metrics log
}

// Status reads how far the runs of a study are, those that work first. It takes no lock, so that other processes, on other
// machines too, go on undisturbed.
func Status(study string) ([]RunStatus, error) {
	entries, err := os.ReadDir(study)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	var all []RunStatus
	for _, e := range entries {
		dir := filepath.Join(study, e.Name())
		s, err := runStatus(dir)
		if errors.Is(err, errNoRun) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no run here; give the directory of a study (runs/<study>)", study)
	}
	order := []State{Running, Failed, Pending, Done}
	slices.SortStableFunc(all, func(a, b RunStatus) int {
		return cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State))
	})
	return all, nil
}

var errNoRun = errors.New("no run, or one that is just being made")

// runStatus reads how far the run of a directory is.
func runStatus(dir string) (RunStatus, error) {
	c, err := runConfig(dir)
	if err != nil {
		return RunStatus{}, errNoRun
	}
	m, err := ReadManifest(dir)
	if err != nil {
		return RunStatus{}, err
	}
	s := RunStatus{Run: filepath.Base(dir), Method: m.Method, State: m.State, Error: m.Error, Steps: c.Steps, Last: map[string]float64{}}
	log := filepath.Join(dir, "metrics.jsonl")
	if info, err := os.Stat(log); err == nil {
		s.Updated = info.ModTime()
	}
	steps, err := ReadMetrics(log)
	if err != nil {
		return s, err
	}
	for _, step := range steps {
		s.Step = step.Step
		maps.Copy(s.Last, step.Values)
	}
	if s.State == Done {
		r, err := ReadResult(dir)
		if err != nil {
			return s, err
		}
		maps.Copy(s.Last, r.Final)
	}
	return s, nil
}

// PrintStatus writes at most so many runs (0: all) as a table, and a line that counts all of them.
func PrintStatus(w io.Writer, all []RunStatus, most int, now time.Time) error {
	counts := map[State]int{}
	for _, s := range all {
		counts[s.State]++
	}
	fmt.Fprintf(w, "%d runs: %d running, %d done, %d failed, %d to do\n\n", len(all), counts[Running], counts[Done], counts[Failed], counts[Pending])
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "run\tstate\tstep\tloss\tmargin\twin rate\ttok/s\tage\tmethod")
	shown := all
	if most > 0 && len(all) > most {
		shown = all[:most]
	}
	for _, s := range shown {
		number := func(name, format string) string {
			if v, ok := s.Last[name]; ok {
				return fmt.Sprintf(format, v)
			}
			return "–"
		}
		age := "–"
		if !s.Updated.IsZero() {
			age = now.Sub(s.Updated).Round(time.Second).String()
		}
		what := s.Method
		if s.Error != "" {
			what = s.Error
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.80s\n", s.Run, s.State, strconv.Itoa(s.Step)+"/"+strconv.Itoa(s.Steps),
			number("loss", "%.4f"), number("rewards/margins", "%.3f"), number("eval/win_rate", "%.3f"), number("tokens_per_second", "%.0f"), age, what)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(shown) < len(all) {
		fmt.Fprintf(w, "and %d more\n", len(all)-len(shown))
	}
	return nil
}
