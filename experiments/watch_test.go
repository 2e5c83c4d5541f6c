package experiments

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStatus(t *testing.T) {
	trials, out := trialsOf(t, sweepYAML), t.TempDir()
	failing := func(ctx context.Context, tr Trial, dir *RunDir, ui UI) (Result, error) {
		if tr.Hash == trials[0].Hash {
			return Result{}, errors.New("the disk is full")
		}
		return fakeRun(ctx, tr, dir, ui)
	}
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: failing, UI: &silent{}}); err != nil || failed != 1 {
		t.Fatal(failed, err)
	}
	study := StudyDir(out, trials[0].Config)
	// A run that another process is at, in the middle of a line of its log.
	at := filepath.Join(study, trials[1].Hash)
	m, err := ReadManifest(at)
	if err != nil {
		t.Fatal(err)
	}
	m.State = Running
	if err := errors.Join(writeJSON(filepath.Join(at, "manifest.json"), m),
		os.WriteFile(filepath.Join(at, "metrics.jsonl"), []byte("{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.25,\"eval/win_rate\":0.75}\n{\"step\":3,\"lo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	all, err := Status(study)
	if err != nil {
		t.Fatal(err)
	}
	if s := all[0]; s.Run != trials[1].Hash || s.State != Running || s.Step != 2 || s.Last["loss"] != 0.25 || s.Steps != trials[1].Config.Steps {
		t.Errorf("first %+v", s)
	}
	if s := all[1]; s.State != Failed || s.Error != "the disk is full" {
		t.Errorf("second %+v", s)
	}
	var page strings.Builder
	if err := PrintStatus(&page, all, 2, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1 running", "1 failed", "0.2500", "0.750", "the disk is full", "more\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, &page)
		}
	}
	if _, err := Status(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no run here") {
		t.Errorf("of an empty directory: %v", err)
	}
}
