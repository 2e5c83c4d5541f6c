package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gobpo/experiments"
)

// slurmSteps are enough for a task to be at work still when the others have been disturbed.
const slurmSteps = 720

// A sweep on a real Slurm, whose three tasks are interrupted in the middle in three ways (killed, told of the time limit, and
// by a failing node) ends with the bytes of the same sweep run here undisturbed.
func TestSweepOnSlurm(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute of waiting for Slurm")
	}
	c := startCluster(t)
	t.Setenv("GOMLX_BACKEND", "go") // sbatch hands the environment on to the tasks
	dir := tinyDir(t)
	const file = "tiny.yaml"
	sweep := func(more ...string) (stdout, stderr string, status int) {
		args := []string{"sweep", file, "--set", fmt.Sprint("steps=", slurmSteps), "--set", "task.train_n=1000", "--set", "checkpoint_every=10",
			"--set", "pretrain.steps=100", "--set", "pretrain.optimizer.lr=0.01", "--set", "optimizer.lr=0.01"} // so that something is learned
		return cli(t, dir, "", append(args, more...)...)
	}
	if _, stderr, status := sweep("--out", "local", "--jobs", "2"); status != 0 {
		t.Fatal(stderr)
	}

	stdout, stderr, status := sweep("--launcher", "slurm", "--jobs", "2", "--time", "30", "--cpus", "1", "--sbatch", "--comment=from-bpo")
	if status != 0 || !strings.Contains(stdout, "runs/tiny: 3 runs: 3 to do\nsubmitted job 1, an array of 3 tasks\n") {
		t.Fatalf("%s%s", stdout, stderr)
	}
	if job := slurm(t, "scontrol", "show", "job", "1_2"); !strings.Contains(job, "ArrayTaskThrottle=2") || !strings.Contains(job, "Comment=from-bpo") || !strings.Contains(job, "Requeue=1") || !strings.Contains(job, "TimeLimit=00:30:00") {
		t.Errorf("the job is\n%s", job)
	}
	// What is submitted is fixed: the tasks must not see this.
	yaml, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte("study: [not read any more"), 0o644); err != nil {
		t.Fatal(err)
	}
	task := newTasks(t, dir)

	task.reach(0, 20)
	if err := syscall.Kill(task.pid(0), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	task.reach(2, 20)
	slurm(t, "scancel", "--batch", "--signal=USR1", "1_2") // as Slurm itself before the time limit; the last task has the array's number
	waitFor(t, time.Minute, "task 2 to be requeued", func() bool { return task.state(2) == "PENDING" })
	slurm(t, "scontrol", "hold", "1_2")

	task.reach(1, 20)
	if err := os.WriteFile(filepath.Join(dir, file), yaml, 0o644); err != nil {
		t.Fatal(err)
	}
	stdout, _, status = sweep("--status")
	if status != 0 || !strings.Contains(stdout, "runs/tiny: 3 runs: 1 running, 1 queued, 1 lost\n") || !strings.Contains(stdout, "task 1_0 FAILED\n") || !strings.Contains(stdout, "task 1_1 RUNNING\n") {
		t.Errorf("in the middle:\n%s", stdout)
	}
	c.powerOff(t, task.pid(1))
	waitFor(t, time.Minute, "task 1 to be requeued", func() bool { return task.state(1) == "PENDING" })

	// Only the killed one goes to Slurm again, whose queue has the others.
	stdout, stderr, status = sweep("--launcher", "slurm")
	if status != 0 || !strings.Contains(stdout, "runs/tiny: 3 runs: 2 queued, 1 lost\nsubmitted job ") || !strings.Contains(stdout, ", an array of 1 tasks\n") {
		t.Errorf("submitted again: %s%s", stdout, stderr)
	}
	if stdout, _, _ = sweep("--launcher", "slurm"); !strings.Contains(stdout, "runs/tiny: 3 runs: 3 queued\nnothing to submit: what is not done is at work or in the queue\n") {
		t.Errorf("and again: %s", stdout)
	}
	c.powerOn(t)
	slurm(t, "scontrol", "release", "1_2")
	waitFor(t, 3*time.Minute, "all tasks to end", func() bool { return slurm(t, "squeue", "--noheader") == "" })

	// The last task has written the table; nothing else need be run before the report.
	for _, name := range []string{"results.md", "results.csv"} {
		task.same(name, name)
	}
	if stdout, stderr, status = cli(t, dir, "", "report", "runs/tiny"); status != 0 || stdout != "runs/tiny/report.html\n" {
		t.Errorf("report: %s%s", stdout, stderr)
	}
	stdout, _, status = sweep("--status")
	if status != 0 || !strings.HasSuffix(stdout, "\nruns/tiny: 3 runs: 3 done\nnext: bpo report runs/tiny\n") {
		t.Errorf("at the end:\n%s", stdout)
	}
	for i, hash := range task.hashes {
		m, err := experiments.ReadManifest(filepath.Join(dir, "runs", "tiny", hash))
		if err != nil || m.State != experiments.Done || m.Attempts != 2 {
			t.Errorf("task %d: %+v, %v", i, m, err)
		}
		task.same(hash+"/policy.safetensors", hash+"/policy.safetensors")
		if n := bytes.Count(task.read("runs/tiny/"+hash+"/metrics.jsonl"), []byte("\n")); n != slurmSteps {
			t.Errorf("task %d: %d steps in metrics.jsonl", i, n)
		}
	}
	if log := string(task.read("runs/tiny/slurm/1/2.log")); !strings.Contains(log, "stopped before the time limit, and requeued\n") || !strings.Contains(log, ", restart 1: ") {
		t.Errorf("the log of task 2:\n%s", log)
	}
	stdout, _, status = sweep("--launcher", "slurm")
	if status != 0 || stdout != "runs/tiny: 3 runs: 3 done\nnothing to submit; next: bpo report runs/tiny\n" {
		t.Errorf("submitted when all is done: %s", stdout)
	}
	// A task that Slurm starts although its trial is done leaves it alone.
	before := task.read("runs/tiny/" + task.hashes[0] + "/manifest.json")
	if _, stderr, status := cli(t, dir, "", "slurm-task", "runs/tiny/slurm/1", "0"); status != 0 || !strings.HasSuffix(stderr, "\ndone already\n") || !bytes.Equal(before, task.read("runs/tiny/"+task.hashes[0]+"/manifest.json")) {
		t.Errorf("a task that is done, again: status %d, %s", status, stderr)
	}
	if _, stderr, status := sweep("--launcher", "slurm", "--set", "seed=7", "--partition", "nowhere"); status != 1 || !strings.HasPrefix(stderr, "bpo: sbatch: ") || !strings.Contains(stderr, "nvalid partition") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a refusal: status %d, %s", status, stderr)
	}
}

// Every flag becomes its option of sbatch, after those that the launcher needs and before the user's own, and what bpo's
// flags mean goes to the tasks. Here sbatch is a script that keeps its arguments and the job.
func TestSbatchFlags(t *testing.T) {
	if _, err := binary(); err != nil { // built with the PATH as it is
		t.Fatal(err)
	}
	bin, dir := t.TempDir(), tinyDir(t)
	const fake = "#!/bin/sh\ncd \"${0%/*}\"\nprintf '%s\\n' \"$@\" > args\nfor script; do :; done\ncp \"$script\" script\necho 41\n"
	if err := os.WriteFile(filepath.Join(bin, "sbatch"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	stdout, stderr, status := cli(t, dir, "", "sweep", "tiny.yaml", "--launcher", "slurm", "--mem", "32G", "--cpus", "4", "--gpus", "a100:1", "--gres", "gpu:1",
		"--time", "4:00:00", "--partition", "big", "--sbatch", "--account=x --qos=long", "--sbatch", "--nice", "--offline", "--backend", "xla:cuda")
	if status != 0 || !strings.Contains(stdout, "submitted job 41, an array of 3 tasks\n") {
		t.Fatalf("%s%s", stdout, stderr)
	}
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			t.Error(err)
		}
		return string(raw)
	}
	here, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	job := here + "/runs/tiny/slurm/1"
	args := []string{"--parsable", "--job-name=bpo-tiny", "--array=0-2", "--ntasks=1", "--requeue", "--open-mode=append", "--signal=B:USR1@120",
		"--chdir=" + here, "--output=" + job + "/%a.log",
		"--time=4:00:00", "--partition=big", "--gres=gpu:1", "--gpus=a100:1", "--cpus-per-task=4", "--mem=32G", "--account=x", "--qos=long", "--nice", job + "/task.sh"}
	if got, want := read("args"), strings.Join(args, "\n")+"\n"; got != want {
		t.Errorf("sbatch got\n%swant\n%s", got, want)
	}
	programs, _ := filepath.Glob(here + "/runs/tiny/slurm/bpo-*")
	if len(programs) != 1 {
		t.Fatalf("programs %v", programs)
	}
	want := "#!/bin/sh\n# Array task i runs the trial that trials.yaml gives it. Submitted by:\n#   sbatch " + strings.Join(args, " ") +
		"\n# exec, so that Slurm's signals reach bpo.\nexec " + programs[0] + " slurm-task " + job + " --backend=xla:cuda --offline\n"
	if got := read("script"); got != want {
		t.Errorf("the script is\n%swant\n%s", got, want)
	}
}

// A study that goes on from another's run starts when that has ended well, though both are submitted at once, and is told off
// the queue when it has not.
func TestStudiesInOrderOnSlurm(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute of waiting for Slurm")
	}
	startCluster(t)
	t.Setenv("GOMLX_BACKEND", "go")
	dir := t.TempDir()
	one := strings.Replace(tinyYAML[:strings.Index(tinyYAML, "sweep:")], "study: tiny", "study: one", 1)
	two := strings.Replace(one, "study: one", "study: two\nreference: checkpoint:study:one", 1)
	for name, text := range map[string]string{"one.yaml": one, "two.yaml": two} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sweep := func(more ...string) string {
		t.Helper()
		stdout, stderr, status := cli(t, dir, "", append([]string{"sweep", "one.yaml", "two.yaml", "--out", "here"}, more...)...)
		if status != 0 {
			t.Fatal(stderr)
		}
		return stdout
	}
	empty := func() bool { return slurm(t, "squeue", "--noheader") == "" }
	if out := sweep("--launcher", "slurm", "--sbatch", "--begin=now+5"); !strings.Contains(out, "  after   1, ") {
		t.Errorf("submitted: %s", out)
	}
	if out := sweep("--status"); !strings.Contains(out, "task 2_0 PENDING") {
		t.Errorf("while the first waits: %s", out)
	}
	waitFor(t, 2*time.Minute, "both to end", empty)
	if out := sweep("--status"); !strings.Contains(out, "here/one: 1 runs: 1 done") || !strings.Contains(out, "here/two: 1 runs: 1 done") {
		t.Errorf("at the end: %s", out)
	}

	sweep("--launcher", "slurm", "--set", "seed=1", "--sbatch", "--begin=now+100")
	slurm(t, "scancel", "3")
	waitFor(t, 2*time.Minute, "what waits for a job that is cancelled to go", empty)
}

// tasks are those of job 1, by index.
type tasks struct {
	t      *testing.T
	dir    string
	hashes []string
}

func newTasks(t *testing.T, dir string) *tasks {
	t.Helper()
	s := &tasks{t: t, dir: dir}
	var job experiments.Submission
	if err := json.Unmarshal(s.read("runs/tiny/slurm/1/job.json"), &job); err != nil || job.Job != "1" || len(job.Tasks) != 3 {
		t.Fatal(job, err)
	}
	s.hashes = job.Tasks
	return s
}

func (s *tasks) read(path string) []byte {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, path))
	if err != nil {
		s.t.Error(err)
	}
	return raw
}

// same compares a file of the study with that of the local sweep.
func (s *tasks) same(there, here string) {
	s.t.Helper()
	want, got := s.read("local/tiny/"+here), s.read("runs/tiny/"+there)
	if len(want) == 0 || !bytes.Equal(got, want) {
		s.t.Errorf("%s differs from the local sweep's", there)
	}
}

// reach waits until a task has so many steps behind it, and not all.
func (s *tasks) reach(i, steps int) {
	s.t.Helper()
	log := filepath.Join(s.dir, "runs", "tiny", s.hashes[i], "metrics.jsonl")
	n := 0
	waitFor(s.t, 2*time.Minute, fmt.Sprintf("step %d of task %d", steps, i), func() bool {
		raw, _ := os.ReadFile(log)
		n = bytes.Count(raw, []byte("\n"))
		return n >= steps
	})
	if n >= slurmSteps {
		s.t.Fatalf("task %d ended before it could be disturbed", i)
	}
}

func (s *tasks) state(i int) string {
	out, _ := exec.Command("squeue", "--noheader", "--array", "--jobs=1", "--format=%K %T").Output()
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == strconv.Itoa(i) {
			return f[1]
		}
	}
	return ""
}

// pid finds a task's process.
func (s *tasks) pid(i int) int {
	s.t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range found {
		env, _ := os.ReadFile(path)
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if bytes.Contains(env, fmt.Appendf(nil, "\x00SLURM_ARRAY_TASK_ID=%d\x00", i)) && bytes.Contains(command, []byte("slurm-task\x00"+filepath.Join(s.dir, "runs"))) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	s.t.Fatalf("task %d has no process", i)
	return 0
}
