package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"gobpo/experiments"
)

// progress shows the progress of one trial or of a sweep: a bar on a terminal; in a pipe a line per finished
// trial, and now and then one for a trial at work.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	bar     *progressbar.ProgressBar // nil in a pipe
	every   time.Duration            // between the lines about work going on
	spoke   time.Time
	start   time.Time
	runs    int
	ended   int
	started map[string]time.Time
	last    map[string]map[string]float64 // latest metrics by trial
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, every: 15 * time.Second, start: time.Now(), spoke: time.Now(), started: map[string]time.Time{}, last: map[string]map[string]float64{}}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(1,
			progressbar.OptionSetWriter(out), progressbar.OptionSetWidth(24), progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(false), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionShowDescriptionAtLineEnd())
	}
	return p
}

// Start says how many runs there are, and how many need nothing.
func (p *progress) Start(runs, done, failed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs, p.ended = runs, done+failed
	line := fmt.Sprintf("%d runs, %d of them done already", runs, done)
	if failed > 0 {
		line += fmt.Sprintf(", %d failed before", failed)
	}
	p.println(line)
	if p.bar != nil {
		p.bar.ChangeMax(runs)
		_ = p.bar.Set(p.ended)
	}
}

// Trial is the view of one trial.
func (p *progress) Trial(name string) experiments.UI {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started[name] = time.Now()
	return &trialProgress{p, name}
}

// Finished reports a trial's end.
func (p *progress) Finished(name string, state experiments.State, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
	line := fmt.Sprintf("[%d/%d] %s %s (%s)", p.ended, p.runs, state, name, time.Since(p.started[name]).Round(100*time.Millisecond))
	if rate, ok := p.last[name]["eval/win_rate"]; ok {
		line += fmt.Sprintf(" win rate %.3f", rate)
	}
	if err != nil {
		line += ": " + oneLine(err)
	}
	p.println(line)
	if p.bar != nil {
		_ = p.bar.Set(p.ended)
	}
}

// Close ends the bar.
func (p *progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// println writes a line that stays, above the bar if there is one.
func (p *progress) println(line string) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintln(p.out, line)
	p.spoke = time.Now()
}

type trialProgress struct {
	*progress
	name string
}

// Doing moves the bar's text, or now and then writes a line.
func (t *trialProgress) Doing(what string, done, total int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := fmt.Sprintf("%s: %s %d/%d", t.name, what, done, total)
	m := t.last[t.name]
	if v, ok := m["loss"]; ok {
		text += fmt.Sprintf(", loss %.4f", v)
	}
	if v, ok := m["eval/win_rate"]; ok {
		text += fmt.Sprintf(", win rate %.3f", v)
	}
	switch {
	case t.bar != nil:
		t.bar.Describe(text)
	case time.Since(t.spoke) > t.every:
		t.println(text)
	}
}

// Step remembers a step's metrics for the texts.
func (t *trialProgress) Step(_ int, metrics map[string]float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.last[t.name]
	if m == nil {
		m = map[string]float64{}
		t.last[t.name] = m
	}
	for _, k := range []string{"loss", "eval/win_rate"} {
		if v, ok := metrics[k]; ok {
			m[k] = v
		}
	}
}

// Note writes a line that stays.
func (t *trialProgress) Note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.println(t.name + ": " + fmt.Sprintf(format, args...))
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
