package experiments

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// slurmTask is what Slurm says of an array task.
type slurmTask struct{ ID, State, Reason string }

// live tells whether the task waits, runs or is just being ended or requeued.
func (t slurmTask) live() bool {
	switch t.State {
	case "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT":
		return false
	}
	return t.State != ""
}

func (t slurmTask) String() string {
	if t.State == "PENDING" && t.Reason != "" && t.Reason != "None" {
		return t.ID + " " + t.State + " (" + t.Reason + ")"
	}
	return strings.TrimSpace(t.ID + " " + t.State)
}

// submissions lists the array jobs of a study, newest first.
func submissions(study string) ([]Submission, error) {
	entries, err := os.ReadDir(filepath.Join(study, slurmDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Submission
	for _, e := range entries {
		s := Submission{Dir: filepath.Join(study, slurmDir, e.Name())}
		err := readJSON(filepath.Join(s.Dir, jobFile), &s)
		if err != nil && e.IsDir() && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			all = append(all, s)
		}
	}
	number := func(s Submission) int { n, _ := strconv.Atoi(filepath.Base(s.Dir)); return n }
	slices.SortFunc(all, func(a, b Submission) int { return cmp.Compare(number(b), number(a)) })
	return all, nil
}

// waitsFor are the jobs, or single tasks of them, that have yet to end in the studies which trials go on from.
func waitsFor(ctx context.Context, trials []Trial, out string) ([]string, error) {
	var after []string
	for _, name := range studiesNamed(trials) {
		study := filepath.Join(out, name)
		all, err := submissions(study)
		if err != nil {
			return nil, err
		}
		open := map[string]bool{}
		for _, s := range all {
			for _, hash := range s.Tasks {
				m, err := ReadManifest(filepath.Join(study, hash))
				if err != nil {
					return nil, err
				}
				open[hash] = m.State != Done
			}
		}
		tasks, err := slurmTasks(ctx, study, open)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			var live []string
			for i, hash := range s.Tasks {
				if id := s.Job + "_" + strconv.Itoa(i); tasks[hash].ID == id && tasks[hash].live() {
					live = append(live, id)
				}
			}
			if len(live) == len(s.Tasks) {
				live = []string{s.Job}
			}
			after = append(after, live...)
		}
	}
	return after, nil
}

// slurmTasks says for each trial that was submitted what its task is doing or, where it has none any more, how the newest
// one ended. Slurm is asked only about submissions with a trial in open.
func slurmTasks(ctx context.Context, study string, open map[string]bool) (map[string]slurmTask, error) {
	all, err := submissions(study)
	if err != nil {
		return nil, err
	}
	ids := map[string][]string{} // of each trial's tasks, newest first
	var jobs []string
	for _, s := range all {
		asked := false
		for i, hash := range s.Tasks {
			if open[hash] {
				ids[hash], asked = append(ids[hash], s.Job+"_"+strconv.Itoa(i)), true
			}
		}
		if asked {
			jobs = append(jobs, s.Job)
		}
	}
	byTrial := map[string]slurmTask{}
	for hash, tasks := range ids {
		byTrial[hash] = slurmTask{ID: tasks[0]}
	}
	if len(jobs) == 0 {
		return byTrial, nil
	}
	out, err := slurmTool(ctx, "squeue", "--noheader", "--array", "--states=all", "--jobs="+strings.Join(jobs, ","), "--format=%F|%K|%T|%r")
	if err != nil && !strings.Contains(err.Error(), "Invalid job id") { // Slurm forgets jobs some minutes after their end
		return byTrial, err
	}
	queue, gone := parseQueue(out), []string(nil)
	for hash, tasks := range ids {
		shown := tasks[max(0, slices.IndexFunc(tasks, func(id string) bool { return queue[id].live() }))]
		if t, ok := queue[shown]; ok {
			byTrial[hash] = t
		} else {
			job, _, _ := strings.Cut(shown, "_")
			gone = append(gone, job)
		}
	}
	if len(gone) == 0 {
		return byTrial, nil
	}
	// Only how they ended is missing, and not every cluster keeps accounts.
	if out, err = slurmTool(ctx, "sacct", "--noheader", "--allocations", "--parsable2", "--jobs="+strings.Join(slices.Compact(slices.Sorted(slices.Values(gone))), ","), "--format=JobID,State"); err == nil {
		ended := parseAccounts(out)
		for hash, t := range byTrial {
			if e, ok := ended[t.ID]; ok && t.State == "" && !e.live() {
				byTrial[hash] = e
			}
		}
	}
	return byTrial, nil
}

// parseQueue reads lines of job|index|state|reason.
func parseQueue(out string) map[string]slurmTask {
	tasks := map[string]slurmTask{}
	for line := range strings.Lines(out) {
		if f := strings.SplitN(strings.TrimSpace(line), "|", 4); len(f) == 4 {
			id := f[0] + "_" + f[1]
			tasks[id] = slurmTask{id, f[2], f[3]}
		}
	}
	return tasks
}

// parseAccounts reads sacct's lines of job_index|state, where a state may go on: "CANCELLED by 1000".
func parseAccounts(out string) map[string]slurmTask {
	tasks := map[string]slurmTask{}
	for line := range strings.Lines(out) {
		id, state, ok := strings.Cut(strings.TrimSpace(line), "|")
		if words := strings.Fields(state); ok && len(words) > 0 {
			tasks[id] = slurmTask{ID: id, State: words[0]}
		}
	}
	return tasks
}
