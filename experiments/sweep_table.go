package experiments

import (
	"fmt"
	"maps"
	"path/filepath"
)

// OneTable reports two sweeps of one study, unless they have the same trials: a study has one table, and the later sweep's
// would replace the earlier's.
func OneTable(files []string, sweeps [][]Trial) error {
	first := map[string]int{} // study → the first sweep of it
	for i, trials := range sweeps {
		study := trials[0].Config.Study
		at, ok := first[study]
		if !ok {
			first[study] = i
		} else if !maps.Equal(hashesOf(sweeps[at]), hashesOf(trials)) {
			return fmt.Errorf("%s and %s: two experiments in one study, %s, where the second's table would replace the first's; give each a study of its own", files[at], files[i], study)
		}
	}
	return nil
}

func hashesOf(trials []Trial) map[string]bool {
	hashes := map[string]bool{}
	for _, t := range trials {
		hashes[t.Hash] = true
	}
	return hashes
}

// SaveTable gathers the results of a sweep's trials and writes them beside its runs. note hears where it replaces one
// with other arms.
func SaveTable(out string, trials []Trial, note func(format string, args ...any)) (Table, error) {
	t, err := MakeTable(out, trials)
	if err != nil {
		return t, err
	}
	study := StudyDir(out, trials[0].Config)
	if n := otherArms(study, trials); n > 0 {
		note("%s: a table with %d arms that are not in this sweep is replaced", study, n)
	}
	return t, t.Save(study)
}

// otherArms counts the arms of a study's table that have a run which is not among trials.
func otherArms(study string, trials []Trial) (n int) {
	var there Table
	if readJSON(filepath.Join(study, "results.json"), &there) != nil {
		return 0 // none, or one that nobody can read
	}
	hashes := hashesOf(trials)
	for _, row := range there.Rows {
		for _, run := range row.Runs {
			if !hashes[run] {
				n++
				break
			}
		}
	}
	return n
}
