package experiments

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"go.yaml.in/yaml/v3"

	"gobpo/internal/atomicfile"
)

// SlurmOptions say how a sweep goes to Slurm; none of them changes a result. What is empty is left to the cluster.
type SlurmOptions struct {
	Out   string   // runs go to Out/<study>/<hash>
	Jobs  int      // tasks at a time; 0: as many as Slurm will
	Retry bool     // run failed trials again
	Args  []string // of sbatch, after those that the launcher needs
	Flags []string // of bpo, for each task
}

// Submission is one array job, as it stands in <study>/slurm/<n>/job.json.
type Submission struct {
	Job       string    `json:"job"`
	Tasks     []string  `json:"tasks"`           // the hash of each task's trial
	After     []string  `json:"after,omitempty"` // jobs and tasks that must end well first: those of studies that its trials go on from
	Submitted time.Time `json:"submitted"`
	Command   []string  `json:"command"` // that submitted it

	Dir string `json:"-"`
}

// submissionTrials is trials.yaml: a whole sweep, so that its last task can write the table, with every configuration as it
// was at the time.
type submissionTrials struct {
	Tasks  []int        `yaml:"tasks"` // array task i runs trials[tasks[i]]
	Trials []savedTrial `yaml:"trials"`
}

type savedTrial struct {
	Hash   string    `yaml:"hash"`
	Point  []Setting `yaml:"point,omitempty"`
	Config any       `yaml:"config"`
}

const (
	slurmDir   = "slurm"
	trialsFile = "trials.yaml"
	jobFile    = "job.json"
	scriptFile = "task.sh"

	// stopNotice is how many seconds before its time limit Slurm tells a task: long enough for a step and a checkpoint.
	stopNotice = 120
)

// SubmitSlurm submits the trials that are missing, unfinished or failed as one array job. It returns no submission where
// there is nothing to do. What is done, at work or in Slurm's queue is left alone; all says what was found.
func SubmitSlurm(ctx context.Context, trials []Trial, o SlurmOptions) (_ *Submission, all SweepProgress, err error) {
	if _, err := findTool("sbatch"); err != nil {
		return nil, nil, err
	}
	study, err := filepath.Abs(StudyDir(o.Out, trials[0].Config))
	if err != nil {
		return nil, nil, err
	}
	root := filepath.Join(study, slurmDir)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, nil, fmt.Errorf("slurm: %w", err)
	}
	lock := flock.New(filepath.Join(root, "lock")) // two that submit at once would both find the trials free
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	defer lock.Close()
	all, asked, err := SweepStatus(ctx, trials, o.Out)
	if err == nil {
		err = asked // without Slurm's answer a trial could be submitted twice
	}
	if err != nil {
		return nil, nil, err
	}
	saved, tasks, todo := submissionTrials{}, []string(nil), []Trial(nil)
	for _, t := range trials {
		saved.Trials = append(saved.Trials, savedTrial{t.Hash, t.Point, t.Config})
	}
	for _, s := range all {
		if s.State == Pending || s.State == Lost || s.State == Failed && o.Retry {
			saved.Tasks = append(saved.Tasks, slices.IndexFunc(trials, func(t Trial) bool { return t.Hash == s.Trial.Hash }))
			tasks, todo = append(tasks, s.Trial.Hash), append(todo, s.Trial)
		}
	}
	if len(tasks) == 0 {
		return nil, all, nil
	}
	after, err := waitsFor(ctx, todo, o.Out)
	if err != nil {
		return nil, nil, err
	}
	dir, err := newSubmissionDir(root)
	if err != nil {
		return nil, nil, err
	}
	s := &Submission{Dir: dir, Tasks: tasks, After: after, Submitted: time.Now().UTC().Truncate(time.Second)}
	if err := s.submit(ctx, saved, "bpo-"+trials[0].Config.Study, o); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir)) // it never was
	}
	return s, all, nil
}

// newSubmissionDir makes the next numbered directory.
func newSubmissionDir(root string) (string, error) {
	for n := 1; ; n++ {
		dir := filepath.Join(root, strconv.Itoa(n))
		if err := os.Mkdir(dir, 0o755); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

func (s *Submission) submit(ctx context.Context, saved submissionTrials, name string, o SlurmOptions) error {
	var raw bytes.Buffer
	e := yaml.NewEncoder(&raw)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(saved), e.Close()); err != nil {
		return fmt.Errorf("%s: %w", trialsFile, err)
	}
	if err := WriteFile(filepath.Join(s.Dir, trialsFile), raw.Bytes()); err != nil {
		return err
	}
	program, err := keepProgram(filepath.Dir(s.Dir))
	if err != nil {
		return err
	}
	if s.Command, err = sbatchArgs(s, name, o); err != nil {
		return err
	}
	script := filepath.Join(s.Dir, scriptFile)
	if err := WriteFile(script, taskScript(s.Command, append([]string{program, "slurm-task", s.Dir}, o.Flags...))); err != nil {
		return err
	}
	out, err := slurmTool(ctx, s.Command[0], s.Command[1:]...)
	if err != nil {
		return err
	}
	if s.Job, err = parseJobID(out); err != nil {
		return err
	}
	return writeJSON(filepath.Join(s.Dir, jobFile), s)
}

// sbatchArgs is the command that submits. Options given on the command line win over SBATCH_* variables, which those in a
// script would not; the user's come last, so they win over ours.
func sbatchArgs(s *Submission, name string, o SlurmOptions) ([]string, error) {
	here, err := os.Getwd() // paths in a configuration are relative to it
	if err != nil {
		return nil, err
	}
	array := fmt.Sprintf("--array=0-%d", len(s.Tasks)-1)
	if o.Jobs > 0 {
		array += fmt.Sprintf("%%%d", o.Jobs)
	}
	args := []string{
		"sbatch", "--parsable", "--job-name=" + name, array, "--ntasks=1", "--requeue", "--open-mode=append",
		// To the batch shell alone, which bpo has replaced. Not TERM: that is what scancel sends, and who cancels a task
		// does not want it back.
		fmt.Sprintf("--signal=B:USR1@%d", stopNotice),
		"--chdir=" + here, "--output=" + strings.ReplaceAll(s.Dir, "%", "%%") + "/%a.log",
	}
	if len(s.After) > 0 { // else they would stay in the queue for ever where one of those fails
		args = append(args, "--dependency=afterok:"+strings.Join(s.After, ":"), "--kill-on-invalid-dep=yes")
	}
	return append(append(args, o.Args...), filepath.Join(s.Dir, scriptFile)), nil
}

func taskScript(submit, task []string) []byte {
	return []byte("#!/bin/sh\n# Array task i runs the trial that " + trialsFile + " gives it. Submitted by:\n#   " + shellLine(submit) +
		"\n# exec, so that Slurm's signals reach bpo.\nexec " + shellLine(task) + "\n")
}

func shellLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("%+,-./:=@_", r) && !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
		}) {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// keepProgram copies this program into root, once each version: that of `go run` is gone when the tasks start, and another
// may be built while they run.
func keepProgram(root string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("slurm: %w", err)
	}
	raw, err := os.ReadFile(exe)
	if err != nil {
		return "", fmt.Errorf("slurm: %w", err)
	}
	sum := sha256.Sum256(raw)
	path := filepath.Join(root, "bpo-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return "", fmt.Errorf("slurm: %w", err)
	}
	if _, err = f.Write(raw); err == nil {
		err = f.Chmod(0o755)
	}
	if err != nil {
		f.Abort()
		return "", fmt.Errorf("slurm: write %s: %w", path, err)
	}
	return path, f.Commit()
}

// parseJobID reads what sbatch --parsable prints: "123", or "123;cluster".
func parseJobID(out string) (string, error) {
	id, _, _ := strings.Cut(strings.TrimSpace(out), ";")
	if _, err := strconv.ParseUint(id, 10, 64); err != nil {
		return "", fmt.Errorf("sbatch: %q is not a job id", strings.TrimSpace(out))
	}
	return id, nil
}

func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not in PATH; it is where one logs in to a Slurm cluster", name)
	}
	return path, nil
}

// slurmTool runs one of Slurm's commands; where it fails, the error is what it said.
func slurmTool(ctx context.Context, name string, args ...string) (string, error) {
	path, err := findTool(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		var said []string
		for line := range strings.Lines(errs.String()) {
			line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), name+": "), "error: ")
			if line != "" {
				said = append(said, line)
			}
		}
		if len(said) == 0 {
			said = []string{err.Error()}
		}
		return "", fmt.Errorf("%s: %s", name, strings.Join(said, "; "))
	}
	return out.String(), nil
}
