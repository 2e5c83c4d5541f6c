package experiments

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fakeSlurm puts scripts in the place of Slurm's commands; each also writes its arguments to <name>.args.
func fakeSlurm(t *testing.T, scripts map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, body := range scripts {
		script := "#!/bin/sh\nprintf '%s\\n' \"$@\" > '" + filepath.Join(dir, name+".args") + "'\n" + body + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	return dir
}

const noAccounts = "echo 'Slurm accounting storage is disabled' >&2; exit 1"

func TestSlurmSubmission(t *testing.T) {
	dir := fakeSlurm(t, map[string]string{"sbatch": "echo '77;west'", "squeue": "printf '77|0|RUNNING|None\\n77|1|PENDING|Priority\\n'", "sacct": noAccounts})
	out := filepath.Join(t.TempDir(), "it's 100%")
	trials := trialsOf(t, taskYAML+"sweep: {grid: {refresh: [1, 2], reference: [sft, behavior], seed: [0, 9007199254740993]}}")
	failing := func(context.Context, Trial, *RunDir, UI) (Result, error) { return Result{}, errors.New("no luck") }
	if failed, err := Sweep(t.Context(), trials[:1], SweepOptions{Out: out, Run: failing, UI: &silent{}}); err != nil || failed != 1 {
		t.Fatal(failed, err)
	}
	s, all, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out, Jobs: 3, Args: []string{"--time=1:00:00"}, Flags: []string{"--offline"}})
	if err != nil {
		t.Fatal(err)
	}
	// 8 trials are 6 runs, of which the failed one stays so without Retry.
	if all.String() != "6 runs: 1 failed, 5 to do" || s.Job != "77" || len(s.Tasks) != 5 {
		t.Fatalf("%s, %+v", all, s)
	}
	given, err := os.ReadFile(filepath.Join(dir, "sbatch.args"))
	if err != nil {
		t.Fatal(err)
	}
	here, _ := os.Getwd()
	want := []string{
		"--parsable", "--job-name=bpo-s", "--array=0-4%3", "--ntasks=1", "--requeue", "--open-mode=append", "--signal=B:USR1@120", "--chdir=" + here,
		"--output=" + strings.ReplaceAll(s.Dir, "%", "%%") + "/%a.log", "--time=1:00:00", s.Dir + "/task.sh",
	}
	if got := strings.Split(strings.TrimSpace(string(given)), "\n"); !reflect.DeepEqual(got, want) {
		t.Errorf("sbatch got\n%q\nwant\n%q", got, want)
	}
	// The program kept is this test; the script must start it with the submission's directory, whatever its name.
	script, err := os.ReadFile(filepath.Join(s.Dir, "task.sh"))
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Index(string(script), "\nexec ")
	words, err := exec.Command("sh", "-c", "printf '%s\\n' "+string(script)[start+len("\nexec "):]).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, script)
	}
	exe := strings.Split(string(words), "\n")
	if len(exe) != 5 || exe[1] != "slurm-task" || exe[2] != s.Dir || exe[3] != "--offline" || filepath.Dir(exe[0]) != filepath.Dir(s.Dir) {
		t.Errorf("the script runs %q", exe)
	} else if info, err := os.Stat(exe[0]); err != nil || info.Mode().Perm() != 0o755 || info.Size() < 1e6 {
		t.Errorf("the program kept: %v, %v", info, err)
	}
	// A task has the trial of submission, by value.
	for i, hash := range s.Tasks {
		task, err := OpenSlurmTask(s.Dir, i)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, tr := range trials {
			if tr.Hash == hash && tr.String() == task.Trial.String() {
				found = true
				if !reflect.DeepEqual(tr.Config, task.Trial.Config) {
					t.Errorf("task %d has another configuration:\n%+v\n%+v", i, task.Trial.Config, tr.Config)
				}
			}
		}
		if !found || task.Trial.Hash != hash || task.Dir() != filepath.Join(out, "s", hash) {
			t.Errorf("task %d is %s in %s", i, task.Trial, task.Dir())
		}
	}
	if _, err := OpenSlurmTask(s.Dir, 5); err == nil || !strings.HasSuffix(err.Error(), "trials.yaml: there is no task 5") {
		t.Errorf("a task too many: %v", err)
	}

	// Two of the tasks are in the queue still, so the rest goes again, and the failed one with Retry.
	again, all, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out, Retry: true})
	if err != nil || all.String() != "6 runs: 1 running, 1 queued, 1 failed, 3 to do" || len(again.Tasks) != 4 || again.Tasks[0] != trials[0].Hash {
		t.Errorf("again: %s, %+v, %v", all, again, err)
	}
	if filepath.Base(again.Dir) != "2" {
		t.Errorf("again in %s", again.Dir)
	}

	raw, err := os.ReadFile(filepath.Join(s.Dir, "trials.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(s.Dir, "trials.yaml"), []byte(strings.ReplaceAll(string(raw), "beta: 0.1", "beta: 0.2")), 0o644)
	if _, err := OpenSlurmTask(s.Dir, 0); err == nil || !strings.Contains(err.Error(), "trials.yaml: trial ") || !strings.Contains(err.Error(), "the configuration's hash is ") {
		t.Errorf("a changed configuration: %v", err)
	}
}

// A sweep that goes on from another study's runs waits for those of them that are in the queue still: for a job as a whole
// where all of its tasks are.
func TestSlurmDependency(t *testing.T) {
	dir := fakeSlurm(t, map[string]string{"sbatch": "echo 7", "squeue": "printf '7|0|PENDING|Priority\\n7|1|RUNNING|None\\n'", "sacct": noAccounts})
	out := t.TempDir()
	first := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 1]}}")
	next := trialsOf(t, strings.Replace(taskYAML, "study: s", "study: next", 1)+"reference: checkpoint:study:s\n")
	// What a submission waits for, as it says and as sbatch was told.
	submit := func(trials []Trial) (after []string, dependency string) {
		t.Helper()
		s, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(out, "next", "slurm")); err != nil {
			t.Fatal(err)
		}
		given, err := os.ReadFile(filepath.Join(dir, "sbatch.args"))
		if err != nil {
			t.Fatal(err)
		}
		var options []string
		for line := range strings.Lines(string(given)) {
			if strings.Contains(line, "dep") {
				options = append(options, strings.TrimSpace(line))
			}
		}
		return s.After, strings.Join(options, " ")
	}
	if after, given := submit(next); after != nil || given != "" {
		t.Errorf("with nothing in the queue: %q, %q", after, given)
	}
	if after, given := submit(first); after != nil || given != "" {
		t.Errorf("a study by itself: %q, %q", after, given)
	}
	if after, given := submit(next); !reflect.DeepEqual(after, []string{"7"}) || given != "--dependency=afterok:7 --kill-on-invalid-dep=yes" {
		t.Errorf("after a whole job: %q, %q", after, given)
	}
	if failed, err := Sweep(t.Context(), first[:1], SweepOptions{Out: out, Run: fakeRun, UI: &silent{}}); err != nil || failed != 0 {
		t.Fatal(failed, err)
	}
	if after, given := submit(next); !reflect.DeepEqual(after, []string{"7_1"}) || given != "--dependency=afterok:7_1 --kill-on-invalid-dep=yes" {
		t.Errorf("after what is left of a job: %q, %q", after, given)
	}
	fakeSlurm(t, map[string]string{"sbatch": "echo 8", "squeue": "echo 'squeue: error: no answer' >&2; exit 1"})
	if _, _, err := SubmitSlurm(t.Context(), next, SlurmOptions{Out: out}); err == nil || err.Error() != "squeue: no answer" {
		t.Errorf("without an answer: %v", err)
	}
}

func TestSlurmRefusals(t *testing.T) {
	trials, out := trialsOf(t, taskYAML), t.TempDir()
	study := filepath.Join(out, "s")
	t.Setenv("PATH", t.TempDir())
	if _, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out}); err == nil || err.Error() != "sbatch is not in PATH; it is where one logs in to a Slurm cluster" {
		t.Errorf("without Slurm: %v", err)
	}
	if _, err := os.Stat(study); err == nil {
		t.Error("without Slurm a study was begun")
	}
	fakeSlurm(t, map[string]string{"sbatch": "echo 'sbatch: error: no such account' >&2; echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1"})
	if _, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out}); err == nil || err.Error() != "sbatch: no such account; Batch job submission failed: Invalid account" {
		t.Errorf("refused: %v", err)
	}
	if _, err := os.Stat(filepath.Join(study, "slurm", "1")); err == nil {
		t.Error("what was refused stands as a submission")
	}
	fakeSlurm(t, map[string]string{"sbatch": "echo Submitted batch job 5"})
	if _, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out}); err == nil || err.Error() != `sbatch: "Submitted batch job 5" is not a job id` {
		t.Errorf("an odd answer: %v", err)
	}
	fakeSlurm(t, map[string]string{"sbatch": "echo 5", "squeue": "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"})
	if _, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out}); err != nil {
		t.Fatal(err)
	}
	// With one submission made and no answer about it, another could run a trial twice.
	if _, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out}); err == nil || !strings.HasPrefix(err.Error(), "squeue: ") || !strings.HasSuffix(err.Error(), "(connect failure)") {
		t.Errorf("without an answer: %v", err)
	}
	all, asked, err := SweepStatus(t.Context(), trials, out)
	if err != nil || asked == nil || all.String() != "1 runs: 1 to do" {
		t.Errorf("status without an answer: %s, %v, %v", all, asked, err)
	}
}

func TestSlurmQueueIsRead(t *testing.T) {
	got := parseQueue("12|0|RUNNING|None\n12|1|PENDING|Resources, (or|so)\n\nodd\n13|N/A|COMPLETED|None\n")
	want := map[string]slurmTask{"12_0": {"12_0", "RUNNING", "None"}, "12_1": {"12_1", "PENDING", "Resources, (or|so)"}, "13_N/A": {"13_N/A", "COMPLETED", "None"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if got := parseAccounts("12_0|CANCELLED by 1000\n12_1|OUT_OF_MEMORY\n12_[2-3]|PENDING\n"); got["12_0"].State != "CANCELLED" || got["12_1"].State != "OUT_OF_MEMORY" {
		t.Errorf("got %v", got)
	}
	for state, live := range map[string]bool{"PENDING": true, "RUNNING": true, "COMPLETING": true, "REQUEUED": true, "SUSPENDED": true, "TIMEOUT": false, "COMPLETED": false, "": false} {
		if (slurmTask{State: state}).live() != live {
			t.Errorf("%q", state)
		}
	}
}

// Every state that a sweep's trials can be in, with the manifest's word and Slurm's at odds.
func TestSweepStatus(t *testing.T) {
	fakeSlurm(t, map[string]string{
		"squeue": "printf '4|0|COMPLETED|None\\n4|1|RUNNING|None\\n4|2|FAILED|NonZeroExitCode\\n4|4|PENDING|Resources\\n4|5|COMPLETING|None\\n'",
		"sacct":  "printf '4_3|OUT_OF_MEMORY\\n4_0|COMPLETED\\n'",
	})
	trials, out := trialsOf(t, taskYAML+"sweep: {grid: {seed: [0, 1, 2, 3, 4, 5, 6, 7]}}"), t.TempDir()
	study := StudyDir(out, trials[0].Config)
	s := Submission{Job: "4"}
	for i, state := range []State{Done, Pending, Running, Running, Failed, Failed, Running, Running} {
		dir := filepath.Join(study, trials[i].Hash)
		raw, err := trials[i].Config.YAML()
		if err := errors.Join(err, os.MkdirAll(dir, 0o755), WriteFile(filepath.Join(dir, "config.yaml"), raw), writeJSON(filepath.Join(dir, "manifest.json"), Manifest{State: state, Error: map[State]string{Failed: "no\nluck"}[state]}),
			Result{Final: map[string]float64{"eval/win_rate": 0.75}}.Save(dir)); err != nil {
			t.Fatal(err)
		}
		if i < 6 {
			s.Tasks = append(s.Tasks, trials[i].Hash)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(study, "slurm", "1"), 0o755), writeJSON(filepath.Join(study, "slurm", "1", "job.json"), s)); err != nil {
		t.Fatal(err)
	}
	local, err := OpenRun(filepath.Join(study, trials[7].Hash)) // a local sweep is at it
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	all, asked, err := SweepStatus(t.Context(), trials, out)
	if err != nil || asked != nil {
		t.Fatal(err, asked)
	}
	if got := all.String(); got != "8 runs: 1 done, 2 running, 1 queued, 3 lost, 1 failed" {
		t.Error(got)
	}
	var page strings.Builder
	if err := all.Print(&page); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(page.String(), "\n")
	for i, want := range [][]string{
		{"done ", "seed=0", "win rate 0.750"}, {"running ", "task 4_1 RUNNING"}, {"lost ", "task 4_2 FAILED"}, {"lost ", "task 4_3 OUT_OF_MEMORY"},
		{"queued ", "task 4_4 PENDING (Resources)"}, {"failed ", "no luck; task 4_5 COMPLETING"}, {"lost ", "0/8", "seed=6"}, {"running ", "seed=7"},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i+1], w) {
				t.Errorf("line %d lacks %q: %s", i, w, lines[i+1])
			}
		}
	}
	if all.Ended() || len(lines) != 10 {
		t.Errorf("%d lines, ended %v", len(lines), all.Ended())
	}
}

// The tasks leave what a sweep leaves: the last one writes the table, and one that finds its trial done does nothing.
func TestSlurmTasksWriteTheTable(t *testing.T) {
	fakeSlurm(t, map[string]string{"sbatch": "echo 1"})
	trials, out, whole := trialsOf(t, taskYAML+"sweep: {grid: {refresh: [1, 2], reference: [sft, behavior], loss.beta: [0.1, 5e-6], seed: [0, 1]}}"), t.TempDir(), t.TempDir()
	s, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(out, "s", "results.json")
	for i := range s.Tasks {
		if _, err := os.Stat(table); err == nil {
			t.Fatalf("the table is there before task %d", i)
		}
		task, err := OpenSlurmTask(s.Dir, i)
		if err == nil {
			err = task.Run(t.Context(), fakeRun, &silent{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Sweep(t.Context(), trials, SweepOptions{Out: whole, Run: fakeRun, UI: &silent{}}); err != nil {
		t.Fatal(err)
	}
	want, err := MakeTable(whole, trials)
	if err := errors.Join(err, want.Save(filepath.Join(whole, "s"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"results.md", "results.tex", "results.csv", "results.json"} {
		a, _ := os.ReadFile(filepath.Join(out, "s", name))
		b, err := os.ReadFile(filepath.Join(whole, "s", name))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s is not that of a local sweep (%v)", name, err)
		}
	}
	task, err := OpenSlurmTask(s.Dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Run(t.Context(), func(context.Context, Trial, *RunDir, UI) (Result, error) { panic("ran again") }, &silent{}); err != nil {
		t.Error(err)
	}
}

// A task stopped before its time limit goes back into the queue, unless the attempt has left nothing to go on with.
func TestSlurmTaskRequeuesOnlyWithProgress(t *testing.T) {
	dir := fakeSlurm(t, map[string]string{"sbatch": "echo 1", "scontrol": ""})
	trials, out := trialsOf(t, taskYAML), t.TempDir()
	s, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ leaves, refusal string }{
		{"checkpoints/step-000001", ""},
		{"", "trial " + trials[0].Hash + ": no progress to keep within the job's time limit, so it is not requeued; submit again with a longer --time"},
		{"checkpoints/step-000001.tmp", "no progress"}, // half a checkpoint
		{"../shared/0123", ""},
	} {
		os.Remove(filepath.Join(dir, "scontrol.args"))
		task, err := OpenSlurmTask(s.Dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		err = task.Run(ctx, func(ctx context.Context, _ Trial, d *RunDir, _ UI) (Result, error) {
			if c.leaves != "" {
				if err := os.MkdirAll(filepath.Join(d.Path, c.leaves), 0o755); err != nil {
					t.Error(err)
				}
			}
			stop()
			return Result{}, ctx.Err()
		}, &silent{})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if m, err := ReadManifest(task.Dir()); err != nil || m.State != Pending {
			t.Errorf("%d: the trial is %s, %v", i, m.State, err)
		}
		err = task.Requeue(t.Context(), "99")
		given, _ := os.ReadFile(filepath.Join(dir, "scontrol.args"))
		if c.refusal == "" && (err != nil || string(given) != "requeue\n99\n") || c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal) || given != nil) {
			t.Errorf("%d: %v, scontrol got %q", i, err, given)
		}
	}
}

// After the failure of a node the process there may hold the trial's lock for a while: the task waits for it.
func TestSlurmTaskWaitsForTheLock(t *testing.T) {
	fakeSlurm(t, map[string]string{"sbatch": "echo 1"})
	trials, out := trialsOf(t, taskYAML), t.TempDir()
	s, _, err := SubmitSlurm(t.Context(), trials, SlurmOptions{Out: out})
	if err != nil {
		t.Fatal(err)
	}
	task, err := OpenSlurmTask(s.Dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := OpenRun(task.Dir())
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(lockPatience+500*time.Millisecond, func() { other.Close() })
	if err := task.Run(t.Context(), fakeRun, &silent{}); err != nil {
		t.Error(err)
	}
	defer func(d time.Duration) { lockWait = d }(lockWait)
	lockWait = 0
	if other, err = OpenRun(task.Dir()); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := task.Run(t.Context(), fakeRun, &silent{}); !errors.Is(err, ErrLocked) {
		t.Errorf("a lock that stays: %v", err)
	}
}
