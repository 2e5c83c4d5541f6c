package experiments

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/gofrs/flock"
)

// States that no manifest has, but a sweep's status: in Slurm's queue, and at work as the manifest says, but not in truth.
const (
	Queued State = "queued"
	Lost   State = "lost"
)

// TrialStatus is how far a trial is, from its directory and from Slurm where it was submitted.
type TrialStatus struct {
	Trial Trial
	RunStatus
	task slurmTask
}

// SweepProgress is how far the runs of a sweep are, one for each hash, in the sweep's order.
type SweepProgress []TrialStatus

// SweepStatus reads how far the runs of a sweep are. asked is the error of asking Slurm, where there was
// a reason to; the states are then those that the directories tell.
func SweepStatus(ctx context.Context, trials []Trial, out string) (all SweepProgress, asked, err error) {
	seen, open := map[string]bool{}, map[string]bool{}
	for _, t := range trials {
		if seen[t.Hash] {
			continue
		}
		seen[t.Hash] = true
		dir := filepath.Join(StudyDir(out, t.Config), t.Hash)
		s, err := runStatus(dir)
		if errors.Is(err, errNoRun) {
			var m Manifest
			m, err = ReadManifest(dir)
			s = RunStatus{Run: t.Hash, State: m.State, Error: m.Error, Steps: t.Config.Steps}
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, TrialStatus{Trial: t, RunStatus: s})
		open[t.Hash] = s.State != Done
	}
	tasks, asked := slurmTasks(ctx, StudyDir(out, trials[0].Config), open)
	for i := range all {
		s := &all[i]
		s.task = tasks[s.Trial.Hash]
		switch {
		case s.State == Done:
		case s.task.live() && (s.State != Failed || s.task.State != "COMPLETING"):
			s.State = Running
			if s.task.State == "PENDING" || strings.HasPrefix(s.task.State, "REQUEUE") {
				s.State = Queued
			}
		case s.State == Running && (asked == nil || s.task.ID == "") && !locked(filepath.Join(StudyDir(out, s.Trial.Config), s.Trial.Hash)):
			s.State = Lost
		}
	}
	return all, asked, nil
}

// locked tells whether a process works in a run directory; where the lock cannot be asked, it may.
func locked(dir string) bool {
	path := filepath.Join(dir, "lock")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	lock := flock.New(path)
	defer lock.Close()
	free, err := lock.TryRLock()
	return err != nil || !free
}

// Count says how many runs are in each state.
func (all SweepProgress) Count() map[State]int {
	n := map[State]int{}
	for _, s := range all {
		n[s.State]++
	}
	return n
}

// Ended tells whether every run is done or failed.
func (all SweepProgress) Ended() bool {
	n := all.Count()
	return n[Done]+n[Failed] == len(all)
}

// String is one line: "20 runs: 3 done, 2 running, …".
func (all SweepProgress) String() string {
	n := all.Count()
	words := []string{}
	for _, s := range []State{Done, Running, Queued, Lost, Failed, Pending} {
		if n[s] > 0 {
			name := string(s)
			if s == Pending {
				name = "to do"
			}
			words = append(words, fmt.Sprintf("%d %s", n[s], name))
		}
	}
	return fmt.Sprintf("%d runs: %s", len(all), strings.Join(words, ", "))
}

// Print writes one line a run.
func (all SweepProgress) Print(w io.Writer) error {
	var page bytes.Buffer
	tw := tabwriter.NewWriter(&page, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "state\trun\tstep\ttrial\t")
	for _, s := range all {
		state, detail := string(s.State), ""
		switch s.State {
		case Pending:
			state = "to do"
		case Done:
			if v, ok := s.Last["eval/win_rate"]; ok {
				detail = fmt.Sprintf("win rate %.3f", v)
			}
		case Failed:
			detail = strings.Join(strings.Fields(s.Error), " ")
		}
		if s.State != Done && s.task.ID != "" {
			detail = strings.TrimPrefix(detail+"; task "+s.task.String(), "; ")
		}
		fmt.Fprintf(tw, "%s\t%s\t%d/%d\t%s\t%s\n", state, s.Run, s.Step, s.Steps, s.Trial, detail)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(page.String()) { // the cells before an empty one are padded too
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
