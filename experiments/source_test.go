package experiments

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobpo/data"
)

// fakeStudy makes runs that are done, one for each seed.
func fakeStudy(t *testing.T, out, yaml string) []Trial {
	t.Helper()
	trials := trialsOf(t, yaml)
	if failed, err := Sweep(t.Context(), trials, SweepOptions{Out: out, Run: fakeRun, UI: &silent{}}); err != nil || failed != 0 {
		t.Fatal(failed, err)
	}
	return trials
}

// What start, reference, data and mix.pairs name is found beside the run's own study, and of a study the run of the seed.
func TestLocate(t *testing.T) {
	out := t.TempDir()
	seeds := fakeStudy(t, out, taskYAML+"sweep: {grid: {seed: [0, 1]}}")
	one := fakeStudy(t, out, strings.Replace(taskYAML, "study: s", "study: one", 1)+"seed: 100")
	twice := strings.Replace(taskYAML, "study: s", "study: twice", 1) + "seed: 1\n"
	fakeStudy(t, out, twice)
	fakeStudy(t, out, twice+"loss: {beta: 0.5}")
	begun, err := OpenRun(filepath.Join(out, "begun", "0"))
	if err == nil {
		begun.Manifest.State = Running
		err = errors.Join(begun.Save(), begun.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	in := func(parts ...string) string { return filepath.Join(append([]string{out}, parts...)...) }
	for value, want := range map[string]string{
		"study:s":                        in("s", seeds[1].Hash),
		in("s"):                          in("s", seeds[1].Hash),
		"study:s/" + seeds[0].Hash:       in("s", seeds[0].Hash),
		"study:one":                      in("one", one[0].Hash),
		in("one"):                        in("one", one[0].Hash),
		in("one", one[0].Hash):           in("one", one[0].Hash),
		"somewhere/policy.safetensors":   "somewhere/policy.safetensors",
		"somewhere/odd:name.safetensors": "somewhere/odd:name.safetensors",
		in("twice"):                      "!" + in("twice") + ": 2 of the study's 2 runs have seed 1; name one run",
		"study:begun":                    "!study:begun is not done (" + in("begun", "0") + " is running); run its experiment first, with the same --out",
		"study:none":                     "!study:none is not done (" + in("none") + " is missing)",
	} {
		for _, key := range []string{"start", "reference", "data", "mix.pairs"} {
			c := Config{}
			for _, s := range c.sources() {
				if s.key != key {
					continue
				}
				*s.value = s.before + value
				err := s.locate(out, 1)
				if message, bad := strings.CutPrefix(want, "!"); bad {
					if err == nil || !strings.HasPrefix(err.Error(), key+": "+s.before+message) {
						t.Errorf("%s: %s: %v", key, value, err)
					}
				} else if err != nil || *s.value != s.before+want {
					t.Errorf("%s: %s is %s, %v", key, value, *s.value, err)
				}
			}
		}
	}
}

// Pairs that cannot be read are found before the study's model is trained.
func TestBadPairsCostNoPretraining(t *testing.T) {
	bad := writeFile(t, "trl.jsonl", `{"prompt": "Q", "chosen": "A", "rejected": "B"}`+"\n"+`{"prompt": "R", "chosen": "A"}`)
	one := strings.NewReplacer("BACKEND", "go", "learners: 2", "learners: 1").Replace(tinyYAML)
	out := t.TempDir()
	for _, set := range []string{"data=offline:" + bad, "mix={pairs: " + bad + ", share: 0.5}"} {
		trials, msg := load(t, one, []string{set}, nil)
		if msg != "" {
			t.Fatal(msg)
		}
		dir, _, err := RunOne(t.Context(), trials[0], out, (&Session{Offline: true}).Execute, &silent{})
		if err == nil || !strings.Contains(err.Error(), bad+`: line 2: no key "rejected"`) {
			t.Errorf("%s: %v", set, err)
		}
		if made, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "shared", "*")); err != nil || len(made) > 0 {
			t.Errorf("%s: first made were %q", set, made)
		}
	}
}

// A study that goes on from another runs under any --out, and its runs keep their names there.
func TestStudiesAreBesideEachOther(t *testing.T) {
	s := &Session{Offline: true}
	one := strings.NewReplacer("BACKEND", "go", "study: tiny", "study: tiny-one", "learners: 2", "learners: 1").Replace(tinyYAML)
	two := strings.Replace(one, "study: tiny-one", "study: tiny-two\nreference: checkpoint:study:tiny-one\nmix: {pairs: study:tiny-one, share: 0.5}", 1)
	out := t.TempDir()
	if _, _, err := RunOne(t.Context(), trialsOf(t, two)[0], out, s.Execute, &silent{}); err == nil || !strings.Contains(err.Error(), "run its experiment first") {
		t.Errorf("before the other study: %v", err)
	}
	first := trialsOf(t, one)[0]
	from, _, err := RunOne(t.Context(), first, out, s.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	second := trialsOf(t, two)[0]
	_, _, err = RunOne(t.Context(), second, out, s.Execute, &killer{at: "train"})
	if !errors.Is(err, errKilled) {
		t.Fatal(err)
	}

	// What it is made of changes before it goes on.
	parquet, err := filepath.Glob(filepath.Join(from, "pairs", "*", "*.parquet"))
	if err != nil || len(parquet) == 0 {
		t.Fatal(parquet, err)
	}
	for _, c := range []struct {
		file, key string
		change    func(path string) error
	}{
		{parquet[0], "mix.pairs", func(path string) error {
			pairs, err := data.Read[data.Preference](path)
			if err != nil {
				return err
			}
			pairs[0].ChosenIDs[0]++
			return data.Write(path, pairs, nil)
		}},
		{filepath.Join(from, "policy.safetensors"), "reference", func(path string) error {
			raw, err := os.ReadFile(path)
			raw[len(raw)-1] ^= 1
			return errors.Join(err, os.WriteFile(path, raw, 0o644))
		}},
	} {
		raw, err := os.ReadFile(c.file)
		if err := errors.Join(err, c.change(c.file)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := RunOne(t.Context(), second, out, s.Execute, &silent{}); err == nil || !strings.Contains(err.Error(), c.key+" changed since this run started") {
			t.Errorf("with another %s: %v", c.key, err)
		}
		if err := os.WriteFile(c.file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The same pairs in a file that was written again, as a study made anew has them, are the same.
	pairs, err := data.Read[data.Preference](parquet[0])
	if err := errors.Join(err, data.Write(parquet[0], pairs, map[string]string{"written": "again"})); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(out, moved); err != nil {
		t.Fatal(err)
	}
	dir, _, err := RunOne(t.Context(), second, moved, s.Execute, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ReadManifest(dir); err != nil || m.Attempts < 4 || m.Data["mix.pairs"] == "" || m.Data["reference"] == "" {
		t.Errorf("%+v, %v", m, err)
	}
	c, err := runConfig(dir)
	if err != nil || c.Mix.Pairs != "study:tiny-one" || c.Reference != "checkpoint:study:tiny-one" {
		t.Errorf("config.yaml has %s and %s, %v", c.Mix.Pairs, c.Reference, err)
	}
}
