package annotatetest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"gobpo/bpo/annotate"
	"gobpo/bpo/annotate/annotatetest"
)

// fake is a correct annotator by length whose one method tests replace.
type fake func(ctx context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error)

func (fake) Name() string { return "fake" }

func (f fake) Annotate(ctx context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error) {
	return f(ctx, reqs, seed)
}

var honest = annotate.FromScore("honest", func(_ annotate.Request, c string) (float64, error) {
	return float64(len(c)), nil
})

// spoil changes each judgment of the honest annotator.
func spoil(change func(i int, req annotate.Request, j *annotate.Judgment)) func() annotate.Annotator {
	return func() annotate.Annotator {
		return fake(func(ctx context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error) {
			js, err := honest.Annotate(ctx, reqs, seed)
			for i := range js {
				change(i, reqs[i], &js[i])
			}
			return js, err
		})
	}
}

var calls atomic.Int64

// faulty annotators, and the check that must catch each.
var faulty = map[string]struct {
	open func() annotate.Annotator
	fail string
}{
	"position bias": {spoil(func(_ int, _ annotate.Request, j *annotate.Judgment) {
		for k := range j.Scores {
			j.Scores[k] -= float64(k) / 2
		}
	}), "EqualTextsTie"},
	"order-dependent scores": {spoil(func(_ int, r annotate.Request, j *annotate.Judgment) {
		for k := range j.Scores {
			j.Scores[k] += float64(len(r.Completions[0]) % 3)
		}
	}), "PermutationEquivariant"},
	"batch-dependent": {spoil(func(i int, _ annotate.Request, j *annotate.Judgment) {
		for k := range j.Scores {
			j.Scores[k] *= float64(1 + i%2)
		}
	}), "BatchEqualsSingle"},
	"call-dependent": {spoil(func(_ int, _ annotate.Request, j *annotate.Judgment) {
		n := calls.Add(1)
		for k := range j.Scores {
			j.Scores[k] += float64(n)
		}
	}), "Deterministic"},
	"not finite": {spoil(func(_ int, r annotate.Request, j *annotate.Judgment) {
		for k, c := range r.Completions {
			j.Scores[k] += math.Log(float64(len(c)))
		}
	}), "WellFormed"},
	"order instead of ranks": {spoil(func(_ int, _ annotate.Request, j *annotate.Judgment) {
		j.Ranks = make([]int, len(j.Scores))
		for k := range j.Ranks {
			j.Ranks[k] = k * 2
		}
	}), "WellFormed"},
	"a completion too few": {spoil(func(_ int, _ annotate.Request, j *annotate.Judgment) {
		if len(j.Scores) == 5 {
			j.Scores = j.Scores[:4]
		}
	}), "WellFormed"},
	"ignores the context": {func() annotate.Annotator {
		return fake(func(_ context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error) {
			return honest.Annotate(context.Background(), reqs, seed)
		})
	}, "Cancelled"},
	"another error when cancelled": {func() annotate.Annotator {
		return fake(func(ctx context.Context, reqs []annotate.Request, seed uint64) ([]annotate.Judgment, error) {
			if ctx.Err() != nil {
				return nil, errors.New("something went wrong")
			}
			return honest.Annotate(ctx, reqs, seed)
		})
	}, "Cancelled"},
}

// TestFaulty runs the suite on one faulty annotator; it is run by TestSuiteCatchesFaults and fails on purpose.
func TestFaulty(t *testing.T) {
	name := os.Getenv("ANNOTATETEST_FAULT")
	if name == "" {
		t.Skip("run by TestSuiteCatchesFaults")
	}
	annotatetest.Run(t, faulty[name].open)
}

func TestSuiteCatchesFaults(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range faulty {
		cmd := exec.Command(binary, "-test.run=^TestFaulty$")
		cmd.Env = append(os.Environ(), "ANNOTATETEST_FAULT="+name)
		out, err := cmd.CombinedOutput()
		if want := "--- FAIL: TestFaulty/" + f.fail; err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %s did not fail (exit: %v)\n%s", name, f.fail, err, out)
		}
	}
}

func TestSuiteAcceptsTheHonest(t *testing.T) {
	annotatetest.Run(t, func() annotate.Annotator { return honest })
}

func TestRequests(t *testing.T) {
	a, b := annotatetest.Requests(30, 5), annotatetest.Requests(30, 5)
	empty, foreign, repeated, prompts := 0, 0, 0, map[string]bool{}
	for i, r := range a {
		if fmt.Sprint(r) != fmt.Sprint(b[i]) {
			t.Fatalf("request %d differs between calls", i)
		}
		prompts[r.Prompt] = true
		for k, c := range r.Completions {
			if c == "" {
				empty++
			}
			if len(c) > len([]rune(c)) {
				foreign++
			}
			if slices.Contains(r.Completions[:k], c) {
				repeated++
			}
		}
	}
	if empty == 0 || foreign == 0 || repeated == 0 || len(prompts) != 30 {
		t.Errorf("too tame: %d empty, %d non-ASCII, %d repeated, %d prompts", empty, foreign, repeated, len(prompts))
	}
}
