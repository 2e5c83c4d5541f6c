package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// binary builds the program once for the tests that run it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bpo-cli-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "bpo")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		err = &exec.Error{Name: "go build: " + string(out), Err: err}
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// cli runs the program in a directory and returns what it wrote and its exit status.
func cli(t *testing.T, dir, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(stdin), &out, &errs
	cmd.Env = append(os.Environ(), "GOMLX_BACKEND=go")
	err = cmd.Run()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

const tinyYAML = `study: tiny
backend: go
task: {name: picnic, sft_n: 64, train_n: 32}
model: {scratch: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, intermediate: 32}}
pretrain: {steps: 3, batch_size: 8}
steps: 2
batch_size: 4
refresh: 2
ties: random
lora: {rank: 2, alpha: 4, targets: [q_proj]}
sample: {n: 2, batch: 8}
max_prompt_tokens: 16
max_completion_tokens: 8
eval: {n: 8, kl_samples: 4, bootstrap: 50}
sweep: {grid: {refresh: [1, 2], reference: [sft, behavior]}}
`

func tinyDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tiny.yaml"), []byte(tinyYAML), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestErrorsAreOneLine(t *testing.T) {
	dir := tinyDir(t)
	os.WriteFile(filepath.Join(dir, "empty.txt"), nil, 0o644)
	os.WriteFile(filepath.Join(dir, "other.yaml"), []byte(tinyYAML+"seed: 1\n"), 0o644)
	for _, c := range []struct{ args, want string }{
		{"validate none.yaml", "bpo: read the experiment: open none.yaml: no such file or directory"},
		{"validate tiny.yaml --set loss.betta=1", "bpo: --set loss.betta=1: unknown key loss.betta; did you mean loss.beta?"},
		{"sweep tiny.yaml --set sweep.grid.refresh=[1,9]", "bpo: tiny.yaml: at reference=sft refresh=9: refresh: F=9 phases do not fit into T=2 steps"},
		{"sweep tiny.yaml --jobs 0", "bpo: --jobs: 0 is not at least 1"},
		{"sweep tiny.yaml --launcher pbs", `bpo: --launcher: "pbs" is not local or slurm`},
		{"sweep tiny.yaml --gpus 1", "bpo: --gpus: only with --launcher slurm"},
		{"sweep tiny.yaml --status --time 4:00", "bpo: --time: only with --launcher slurm"},
		{"validate tiny.yaml --set model.path=/nope", "bpo: tiny.yaml: at reference=sft refresh=1: model.path: stat /nope: no such file or directory"},
		{"train tiny.yaml --set sweep={} --set start=checkpoint:/nope", "bpo: tiny.yaml: start: stat /nope: no such file or directory"},
		{"sweep tiny.yaml --set sweep.grid.reference=[sft,'checkpoint:/nope']", "bpo: tiny.yaml: at reference=checkpoint:/nope refresh=1: reference: stat /nope: no such file or directory"},
		{"sweep tiny.yaml --launcher slurm --set model.path=/nope", "bpo: tiny.yaml: at reference=sft refresh=1: model.path: stat /nope: no such file or directory"},
		{"validate tiny.yaml --backend tpu", `bpo: tiny.yaml: at reference=sft refresh=1: backend "tpu" is unknown: want auto, `},
		{"sweep tiny.yaml other.yaml", "bpo: tiny.yaml and other.yaml: two experiments in one study, tiny, where the second's table would replace the first's; give each a study of its own"},
		{"sweep tiny.yaml --out tiny.yaml --status", "bpo: open tiny.yaml/tiny/"},
		{"slurm-task runs", `bpo: task "" is not a number; it comes from SLURM_ARRAY_TASK_ID, or is the second argument`},
		{"slurm-task runs 0", "runs/trials.yaml: no such file or directory"},
		{"sweep tiny.yaml --out tiny.yaml", "bpo: open tiny.yaml/tiny/"},
		{"train tiny.yaml", "bpo: tiny.yaml: the sweep has 4 trials; pin its keys with --set (such as --set reference=sft --set refresh=1), or use bpo sweep"},
		{"train tiny.yaml --offline --set sweep={} --backend nonsense", "nonsense"},
		{"report .", "bpo: .: no run is done here; give the directory of a study (runs/<study>)"},
		{"track .", "bpo: .: no run to track; give the directory of a study (runs/<study>), and --mlflow or --wandb where its runs have no tracker"},
		{"track . --wandb online", `bpo: track.wandb: "online" is not offline`},
		{"eval empty.txt", "bpo: evaluate: there is no output"},
		{"sample -m nowhere.gguf tiny.yaml", "bpo: tiny.yaml"},
		{"logprobs -m nowhere.gguf --batch 0", "bpo: --batch: 0 is not at least 1"},
		{"logprobs -m nowhere.gguf --chat foo", `bpo: --chat: "foo" is not auto or none`},
		{"sample -m nowhere.gguf --dtype int8", `bpo: --dtype: "int8" is not float32 or bfloat16`},
		{"sample -m nowhere.gguf -n -3", "bpo: --n: -3 is not at least 1"},
		{"sample -m nowhere.gguf --batch 0", "bpo: --batch: 0 is not at least 1"},
		{"sample -m nowhere.gguf --max-new-tokens -5", "bpo: --max-new-tokens: -5 is not at least 1"},
		{"sample -m nowhere.gguf --max-prompt-tokens -1", "bpo: --max-prompt-tokens: -1 is not at least 0"},
		{"sample -m nowhere.gguf --top-k -1", "bpo: --top-k: -1 is not at least 0"},
		{"sample -m nowhere.gguf --top-p 0", "bpo: --top-p: 0 is not in (0, 1]"},
		{"sample -m nowhere.gguf --top-p NaN", "bpo: --top-p: NaN is not in (0, 1]"},
		{"sample -m nowhere.gguf -t -1", "bpo: --temperature: -1 is not 0 or more"},
		{"sample -m nowhere.gguf -t +Inf", "bpo: --temperature: +Inf is not 0 or more"},
		{"reward eval nowhere none.jsonl --batch -1", "bpo: --batch: -1 is not at least 1"},
		{"reward eval nowhere none.jsonl --max-tokens -5", "bpo: --max-tokens: -5 is neither 0 nor at least 2"},
		{"reward eval nowhere none.jsonl --max-tokens 1", "bpo: --max-tokens: 1 is neither 0 nor at least 2"},
		{"reward eval nowhere none.jsonl --chat foo", `bpo: --chat: "foo" is not auto or none`},
		{"reward eval nowhere none.jsonl --dtype int8", `bpo: --dtype: "int8" is not float32 or bfloat16`},
		{"reward eval nowhere none.jsonl -n -3", "bpo: --n: -3 is negative"},
		{"tokenize -m nowhere.gguf", "bpo: model.path: load model: stat nowhere.gguf: no such file or directory"},
		{"merge --op median -o m a", `bpo: --op: "median" is not one of`},
		{"merge --alpha 0.1 -o m a b", "bpo: --alpha: only with --op ema, extrapolate"},
		{"merge --density 0.1 -o m a b", "bpo: --density: only with --op ties"},
		{"merge --op mean_delta --scale 2 -o m a b", "bpo: --scale: only with --op ties"},
		{"merge --op ema --weights 1,2 -o m a b", "bpo: --weights: only with --op mean_delta, peft_linear, average, ties"},
		{"reward train tiny.yaml -o m", "bpo: tiny.yaml:1: unknown key study; docs/reward.md lists the keys"},
		{"swep", `bpo: unknown command "swep" for "bpo"`},
	} {
		_, stderr, status := cli(t, dir, "", strings.Fields(c.args)...)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		last := lines[len(lines)-1]
		if status == 0 || !strings.Contains(last, c.want) || strings.Contains(stderr, "goroutine") || strings.Contains(stderr, "Usage:") {
			t.Errorf("bpo %s: status %d\ngot  %s\nwant %s", c.args, status, stderr, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "runs")); err == nil {
		t.Error("what was refused has left a run directory")
	}
}

func TestValidateAndShow(t *testing.T) {
	dir := tinyDir(t)
	stdout, stderr, status := cli(t, dir, "", "validate", "tiny.yaml")
	want := `tiny.yaml: valid, 4 trials in 3 runs (the others are the same computation in other words)
  T=2 steps, one data-collection phase by the start policy
  T=2 steps, K=1 steps a phase, 2 data-collection phases
`
	if status != 0 || stdout != want {
		t.Errorf("status %d, %s\ngot  %s\nwant %s", status, stderr, stdout, want)
	}
	stdout, _, status = cli(t, dir, "", "show", "tiny.yaml", "--set", "refresh=2")
	for _, want := range []string{"  beta: 0.1\n", "BPO (DPO), F=2", "online DPO (OAIF), F=T", "# 2 trials", "reference=behavior", "annotations"} {
		if status != 0 || !strings.Contains(stdout, want) {
			t.Errorf("show lacks %q:\n%s", want, stdout)
		}
	}
	resolved, _, _ := strings.Cut(stdout, "\n# 2 trials")
	os.WriteFile(filepath.Join(dir, "resolved.yaml"), []byte(resolved), 0o644)
	if stdout, stderr, status = cli(t, dir, "", "validate", "resolved.yaml"); status != 0 || !strings.Contains(stdout, "2 trials") {
		t.Errorf("what show prints does not load: %s", stderr)
	}
}

// TestSweepFromTheShell runs the whole path as a user does: sweep, again, report, then every verb on one of the runs.
func TestSweepFromTheShell(t *testing.T) {
	dir := tinyDir(t)
	stdout, stderr, status := cli(t, dir, "", "sweep", "tiny.yaml")
	if status != 0 {
		t.Fatalf("%s\n%s", stdout, stderr)
	}
	for _, want := range []string{"reference  refresh  method", "start policy", "BPO (DPO), F=2", "written to runs/tiny; next: bpo report runs/tiny"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the table lacks %q:\n%s", want, stdout)
		}
	}
	if n := strings.Count(stderr, "] done "); n != 3 || !strings.HasPrefix(stderr, "3 runs, 0 of them done already\n") {
		t.Errorf("%d runs reported:\n%s", n, stderr)
	}
	results := func() (all string) {
		for _, name := range []string{"results.md", "results.tex", "results.csv", "results.json"} {
			raw, err := os.ReadFile(filepath.Join(dir, "runs", "tiny", name))
			if err != nil {
				t.Error(err)
			}
			all += string(raw)
		}
		return all
	}
	before := results()
	// Of a part of the study only, whose table would be another.
	if all, _, status := cli(t, dir, "", "sweep", "tiny.yaml", "--set", "refresh=2", "--status"); status != 0 || strings.Count(all, "\ndone ") != 2 || !strings.HasSuffix(all, "\nruns/tiny: 2 runs: 2 done\nnext: bpo report runs/tiny\n") || results() != before {
		t.Errorf("status: %s", all)
	}
	again, stderr, status := cli(t, dir, "", "sweep", "tiny.yaml")
	if status != 0 || stderr != "3 runs, 3 of them done already\n" || again != stdout {
		t.Errorf("a second time: status %d\n%s%s", status, again, stderr)
	}
	one := []string{"sweep", "tiny.yaml", "--set", "refresh=1", "--set", "reference=sft"}
	if _, stderr, status = cli(t, dir, "", one...); status != 0 || stderr != "1 runs, 1 of them done already\nruns/tiny: a table with 2 arms that are not in this sweep is replaced\n" {
		t.Errorf("another experiment: status %d, %s", status, stderr)
	}
	if _, stderr, status = cli(t, dir, "", "sweep", "tiny.yaml"); status != 0 || strings.Contains(stderr, "replaced") || results() != before {
		t.Errorf("a larger experiment: status %d, %s", status, stderr)
	}
	if stdout, stderr, status = cli(t, dir, "", "report", "runs/tiny"); status != 0 || stdout != "runs/tiny/report.html\n" {
		t.Errorf("report: %s%s", stdout, stderr)
	}

	if stdout, stderr, status = cli(t, dir, "", "watch", "runs/tiny", "--once"); status != 0 || stderr != "" || strings.Contains(stdout, "\x1b") ||
		!strings.HasPrefix(stdout, "3 runs: 0 running, 3 done, 0 failed, 0 to do\n\nrun ") || strings.Count(stdout, "  done   2/2 ") != 3 {
		t.Errorf("watch: status %d, %s%s", status, stdout, stderr)
	}
	stdout, stderr, status = cli(t, dir, "", "compare", "runs/tiny", "--baseline", "reference=behavior refresh=2")
	lines := strings.Split(stdout, "\n")
	if status != 0 || !strings.HasPrefix(stdout, "against reference=behavior refresh=2 ") || !strings.HasSuffix(lines[0], "  p  Holm") || strings.Count(stdout, "  1  1\n") != 3 || strings.Count(stdout, " is not told apart\n") != 3 {
		t.Errorf("compare: status %d, %s%s", status, stdout, stderr)
	}

	stdout, stderr, status = cli(t, dir, "", "train", "tiny.yaml", "--set", "refresh=2", "--set", "reference=behavior")
	run, _, _ := strings.Cut(stdout, "\n")
	if status != 0 || !strings.HasPrefix(run, "runs/tiny/") || !strings.Contains(stdout, "eval/win_rate") {
		t.Fatalf("train of a finished trial: %s%s", stdout, stderr)
	}
	if stdout, stderr, status = cli(t, dir, "", "eval", run, "--annotator", "{name: length, max: 3}"); status != 0 || !strings.Contains(stdout, "eval/n ") {
		t.Errorf("eval: %s%s", stdout, stderr)
	}
	evalRuns(t, dir, run)
	stdout, stderr, status = cli(t, dir, `{"prompt": "Ben wants tea, cake and jam, no nuts."}`, "sample", "-m", run, "-n", "2", "--max-new-tokens", "4")
	if status != 0 || strings.Count(stdout, "\n") != 2 {
		t.Errorf("sample: %s%s", stdout, stderr)
	}
	stdout, stderr, status = cli(t, dir, "{\"prompt\": \"Ben wants tea.\", \"completion\": \"Packed: tea.\"}\n\n{\"prompt\": [1], \"completion\": [2, 900]}\n", "logprobs", "-m", run)
	if status == 0 || strings.Count(stdout, "logprobs") != 1 || !strings.Contains(stderr, "bpo: stdin:3: token id 900 is not in the vocabulary") {
		t.Errorf("logprobs: %s%s", stdout, stderr)
	}
	rewardFromTheShell(t, dir, run)
	if stdout, _, _ = cli(t, dir, `{"text": "Ben wants tea."}`, "tokenize", "-m", run); !strings.HasPrefix(stdout, `{"ids":[`) {
		t.Errorf("tokenize: %s", stdout)
	}
}

// evalRuns judges runs of one study against each other, and what is no finished run is named.
func evalRuns(t *testing.T, dir, run string) {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(dir, "runs/tiny/*/manifest.json"))
	if err != nil || len(manifests) != 3 {
		t.Fatal(manifests, err)
	}
	other := ""
	for _, m := range manifests {
		if name := filepath.Base(filepath.Dir(m)); name != filepath.Base(run) {
			other = "runs/tiny/" + name
		}
	}
	for _, more := range [][]string{nil, {"--annotator", "gold"}} {
		stdout, stderr, status := cli(t, dir, "", append([]string{"eval", run, other}, more...)...)
		if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "gold, against the references") || !strings.Contains(stdout, "\ngold, head to head") || !strings.HasSuffix(stdout, "n is 8: of fewer than 30 prompts, intervals and length-controlled rates are not to be relied on\n") {
			t.Errorf("eval of runs: %d\n%s%s", status, stdout, stderr)
		}
	}
	if stdout, stderr, status := cli(t, dir, "", "eval", run, "-o", "scored.jsonl"); status != 0 || !strings.Contains(stdout, "n is 8:") {
		t.Errorf("eval -o: %s%s", stdout, stderr)
	}
	if stdout, stderr, status := cli(t, dir, "", "eval", "scored.jsonl"); status != 0 || !strings.Contains(stdout, "eval/n ") {
		t.Errorf("eval of what eval wrote: %s%s", stdout, stderr)
	}
	policy := filepath.Join(dir, other, "policy.safetensors")
	if err := os.Rename(policy, policy+"-moved"); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"eval " + other:  "bpo: " + other + ": the run has no final policy yet; finish it with bpo train or bpo sweep\n",
		"eval runs/tiny": "bpo: runs/tiny is a study: name one of its runs, such as runs/tiny/",
		"sample -m " + run + " --dtype bfloat16 tiny.yaml": "bpo: --dtype: only with a model; a run has its own\n",
		"logprobs -m " + run + " --chat none":              "bpo: --chat: only with a model; a run has its own\n",
	} {
		if _, stderr, status := cli(t, dir, "", strings.Fields(args)...); status == 0 || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: %d, %q", args, status, stderr)
		}
	}
	if err := os.Rename(policy+"-moved", policy); err != nil {
		t.Fatal(err)
	}
}

// rewardFromTheShell exports a run, trains a reward model on top of it, and measures that on the same pairs again.
func rewardFromTheShell(t *testing.T, dir, run string) {
	t.Helper()
	var pairs strings.Builder
	for i := range 24 {
		fmt.Fprintf(&pairs, `{"prompt": "Pack lunch %d:", "chosen": " Packed: tea.", "rejected": " No."}`+"\n", i)
	}
	yaml := "backend: go\nmodel: {path: base, chat: none}\npairs: {train: train.jsonl, eval: eval.jsonl}\nbatch_size: 4\nsteps: 8\nlora: {rank: 2, alpha: 4}\noptimizer: {lr: 0.05}\n"
	for name, text := range map[string]string{"train.jsonl": pairs.String(), "eval.jsonl": strings.ReplaceAll(pairs.String(), "Pack", "Take"), "reward.yaml": yaml} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if stdout, stderr, status := cli(t, dir, "", "export", run, "-o", "base"); status != 0 || stdout != "base\n" {
		t.Fatalf("export: %s%s", stdout, stderr)
	}
	trained, stderr, status := cli(t, dir, "", "reward", "train", "reward.yaml", "-o", "rm")
	if status != 0 || !strings.HasPrefix(trained, "rm\naccuracy 1.000 [1.000, 1.000] on 24 pairs; preferring the longer text 1.000\nnll 0.") {
		t.Fatalf("reward train: %s%s", trained, stderr)
	}
	measured, stderr, status := cli(t, dir, "", "reward", "eval", "rm", "eval.jsonl")
	if status != 0 || "rm\n"+measured != trained {
		t.Errorf("reward eval: %s%s, but reward train: %s", measured, stderr, trained)
	}
}

// Several outputs meet each other, several annotators agree or not, and labels hold them to account.
func TestEvalMany(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/out.txt": "one two three\none\n", "b/out.txt": "one two\none two three\n",
		"refs.jsonl":  `{"prompt": "p", "reference": "one two three"}` + "\n" + `{"prompt": "q", "reference": "one two three"}` + "\n",
		"pairs.jsonl": `{"prompt": "p", "chosen": "one", "rejected": "one two three"}` + "\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	both := []string{"eval", "a/out.txt", "--outputs", "b/out.txt", "--references", "refs.jsonl"}
	stdout, stderr, status := cli(t, dir, "", append(both, "--annotator", "rouge_l", "--annotator", "{name: length, max: 2}")...)
	if status != 0 {
		t.Fatal(stderr)
	}
	for _, want := range []string{"a/out.txt over b/out.txt", "rouge_l, head to head", "length(max=2), against the references", "Cohen's kappa"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	stdout, _, _ = cli(t, dir, "", append(both, "--json")...)
	var got map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got["evaluators"].([]any)) != 1 {
		t.Errorf("%s: %v", stdout, err)
	}
	stdout, _, status = cli(t, dir, "", "eval", "--preferences", "pairs.jsonl", "--annotator", "{name: length, max: 1}")
	if status != 0 || !strings.Contains(stdout, "on 1 labelled pairs") || !strings.Contains(stdout, "1.000") {
		t.Errorf("%s", stdout)
	}
	for args, want := range map[string]string{
		"eval": "bpo: name a run or outputs to evaluate, or --preferences",
		"eval a/out.txt --preferences pairs.jsonl": "bpo: --preferences: evaluators are held to labels",
		"eval --preferences pairs.jsonl":           "bpo: --preferences: name the evaluators with --annotator",
		"eval a/out.txt b/out.txt --n 3":           "bpo: --n: only with one run",
		"eval a/out.txt -n 3":                      "bpo: --n: only with a run",
		"eval a/out.txt --bootstrap -1":            "bpo: --bootstrap: -1 is not at least 1",
		"eval a/out.txt --bootstrap 0":             "bpo: --bootstrap: 0 is not at least 1",
		"eval a/out.txt -o scored.csv":             "bpo: --out: scored.csv ends in neither .parquet nor .jsonl",
		"eval --preferences pairs.jsonl -n 3":      "bpo: --n: only with a run or outputs",
		"eval a --references refs.jsonl":           "bpo: --references: only with outputs",
		"eval a b --references none.jsonl":         "bpo: --references: only with outputs",
		"eval a/out.txt b --references refs.jsonl": "bpo: --references: only with outputs",
		"eval a/out.txt refs.jsonl":                "bpo: a/out.txt: output 1 has no reference text",
		"eval a --annotator {max:3}":               `bpo: --annotator: "{max:3}" names no annotator`,
	} {
		if _, stderr, status := cli(t, dir, "", strings.Fields(args)...); status == 0 || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: %d, %q", args, status, stderr)
		}
	}
}
