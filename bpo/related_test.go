package bpo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gobpo/data"
	"gobpo/models"
)

// longReferences gives the prompts texts to vary.
func longReferences(s *Setup) {
	for i := range s.Prompts {
		s.Prompts[i].Reference = fmt.Sprintf("tea jam pack tea jam %d", i)
	}
}

func givenPairs(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pairs.parquet")
	var rows []data.Preference
	for i := range n {
		score, zero := float64(i), 0.0
		rows = append(rows, data.Preference{ID: fmt.Sprint("given-", i), Prompt: fmt.Sprint("pack ", i), Chosen: "tea jam", Rejected: fmt.Sprint("no ", i), ChosenScore: &score, RejectedScore: &zero})
	}
	if err := data.Write(path, rows, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// collected reads a run's pairs, by step.
func collected(t *testing.T, dir string) map[int][]data.Preference {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pairs", "*", "*.parquet"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no pairs: %v", err)
	}
	all := map[int][]data.Preference{}
	for _, f := range files {
		rows, err := data.Read[data.Preference](f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			all[r.Step] = append(all[r.Step], r)
		}
	}
	return all
}

// Every option that changes where pairs come from is, killed and resumed inside its last phase, the uninterrupted run.
func TestRelatedSystemsResume(t *testing.T) {
	pairs := givenPairs(t, 6)
	for name, change := range map[string]func(*Setup){
		"sapo": func(s *Setup) {
			longReferences(s)
			s.Config.Data, s.Config.SelfPlay.Segment, s.Config.Behavior, s.Config.EMAAlpha, s.Config.Replay = "self_play", 3, "ema", 0.5, 3
			s.Config.Refresh, s.Config.Reference = 4, "sft"
		},
		"self-play, behavior reference": func(s *Setup) {
			longReferences(s)
			s.Config.Data, s.Config.SelfPlay.Segment = "self_play", 3
		},
		"replay": func(s *Setup) { s.Config.Replay, s.Config.Refresh = 3, 4 },
		"mix":    func(s *Setup) { s.Config.Mix = Mix{Pairs: pairs, Share: 0.5} },
		"mix, ema reference": func(s *Setup) {
			s.Config.Mix, s.Config.Reference, s.Config.EMAAlpha = Mix{Pairs: pairs, Share: 0.25}, "ema", 0.5
		},
		"picked": func(s *Setup) { s.Config.Sample.N, s.Config.Sample.Pick = 4, "embedding_distance" },
	} {
		t.Run(name, func(t *testing.T) {
			s := testSetup(t)
			change(&s)
			_, whole := mustRecord(t, s)
			again := s
			again.Dir = t.TempDir()
			again.Config.CheckpointEvery = 1
			again.Log = func(step int, m Metrics) error {
				if step == 4 {
					return errKilled
				}
				return nil
			}
			if _, err := Train(context.Background(), again); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			_, resumed := mustRecord(t, again)
			want := untimed(whole)[4]
			for key, v := range untimed(resumed)[4] {
				if !strings.HasPrefix(key, "collect/") && v != want[key] {
					t.Errorf("%s is %v resumed, %v uninterrupted", key, v, want[key])
				}
			}
			if len(resumed) != 1 {
				t.Errorf("%d steps after the kill", len(resumed))
			}
		})
	}
}

// Given pairs that lose tokens are told once, with the first step, wherever the run was resumed.
func TestResumedMixTellsTruncatedPairsOnce(t *testing.T) {
	pairs := givenPairs(t, 6)
	for name, kill := range map[string]struct{ every, at int }{"at a phase's start": {0, 4}, "inside a phase": {1, 3}} {
		s := testSetup(t)
		s.Config.Mix = Mix{Pairs: pairs, Share: 0.5}
		s.Config.Steps, s.Config.MaxCompletionTokens, s.Config.CheckpointEvery = 6, 3, kill.every
		_, whole := mustRecord(t, s)
		if whole[1]["collect/truncated"] == 0 {
			t.Fatal("no pair was cut")
		}
		again := s
		again.Dir = t.TempDir()
		told := map[int]float64{}
		again.Log = func(step int, m Metrics) error {
			if step == kill.at {
				return errKilled
			}
			told[step] = m["collect/truncated"]
			return nil
		}
		if _, err := Train(context.Background(), again); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		_, resumed := mustRecord(t, again)
		for step, m := range resumed {
			told[step] = m["collect/truncated"]
		}
		for step, m := range whole {
			if told[step] != m["collect/truncated"] {
				t.Errorf("killed %s: step %d tells %v, uninterrupted %v", name, step, told[step], m["collect/truncated"])
			}
		}
	}
}

// Self-play varies one segment of each reference, and asks no annotator.
func TestSelfPlayPairs(t *testing.T) {
	t.Run("eos", func(t *testing.T) { selfPlayPairs(t, 0) })
	t.Run("turn end", func(t *testing.T) { selfPlayPairs(t, testSetup(t).Model.Tokenizer.Pad()) })
}

// selfPlayPairs runs with texts that end with end, 0 for EOS.
func selfPlayPairs(t *testing.T, end int32) {
	s := testSetup(t)
	s.End = end
	longReferences(&s)
	s.Config.Data, s.Config.SelfPlay.Segment, s.Config.Reference = "self_play", 2, "sft"
	s.Config.MaxCompletionTokens = 16
	s.Annotator = nil
	_, m := mustRecord(t, s)
	if _, ok := m[1]["kl/behavior"]; ok {
		t.Error("a KL of texts that nobody sampled")
	}
	eos := cmp.Or(end, s.Model.Tokenizer.EOS())
	n := 0
	for _, rows := range collected(t, s.Dir) {
		for _, r := range rows {
			n++
			a, b := r.ChosenIDs, r.RejectedIDs
			if want := append(s.Model.Tokenizer.EncodePlain(r.Reference), eos); !slices.Equal(a, want) {
				t.Errorf("chosen is %v, the reference %v", a, want)
			}
			same := 0
			for same < min(len(a), len(b)) && a[same] == b[same] {
				same++
			}
			tail := 0
			for tail < min(len(a), len(b))-same && a[len(a)-1-tail] == b[len(b)-1-tail] {
				tail++
			}
			if ended := b[len(b)-1] == eos && len(b) < len(a); !ended && (len(b) != len(a) || len(a)-same-tail > 2) {
				t.Errorf("%v became %v", a, b)
			}
			if len(r.RefChosenLogps) != len(a) || len(r.ChosenLogps) != 0 || r.Annotator != "self_play" {
				t.Errorf("row %+v", r)
			}
		}
	}
	if n < 12 {
		t.Errorf("%d pairs", n)
	}
	s = testSetup(t)
	s.Config.Data, s.Config.SelfPlay.Segment = "self_play", 2
	s.Prompts[3].Reference = ""
	if _, err := Train(context.Background(), s); err == nil || !strings.Contains(err.Error(), "prompt 3 has no reference text") {
		t.Errorf("error %v", err)
	}
}

// A replayed step draws from the last steps' pairs and no others; a mixed one has its share of given pairs.
func TestReplayAndMix(t *testing.T) {
	s := testSetup(t)
	r := &run{setup: s, cfg: &s.Config}
	r.cfg.Replay = 2
	pairs := map[int][]*data.Preference{}
	for step := range 4 {
		for i := range 4 {
			pairs[step] = append(pairs[step], &data.Preference{ID: fmt.Sprint(step, i), Step: step})
		}
	}
	older, seen, batch := 0, map[string]bool{}, r.draw(pairs, 3)
	for _, p := range batch {
		if p.Step < 2 || seen[p.ID] {
			t.Errorf("drew %s", p.ID)
		}
		seen[p.ID] = true
		if p.Step == 2 {
			older++
		}
	}
	if len(batch) != 4 || older == 0 {
		t.Errorf("drew %d pairs, %d of the step before", len(batch), older)
	}
	if a, b := r.draw(pairs, 3), r.draw(pairs, 3); !slices.Equal(a, b) {
		t.Error("a step draws differently")
	}

	s = testSetup(t)
	s.Config.Mix, s.Config.Ties = Mix{Pairs: givenPairs(t, 6), Share: 0.25}, "random"
	_, m := mustRecord(t, s)
	fresh := 0
	for _, rows := range collected(t, s.Dir) {
		fresh += len(rows)
	}
	if total := m[1]["num_pairs"] + m[2]["num_pairs"] + m[3]["num_pairs"] + m[4]["num_pairs"]; int(total) != fresh+4 || fresh > 12 {
		t.Errorf("%v pairs trained on, %d collected", total, fresh)
	}
}

// selected are the pairs of a file that a run would train on.
func selected(t *testing.T, s Setup, path string) (*offline, error) {
	t.Helper()
	s.Scorer = models.NewScorer(s.Backend, s.Model.Config, models.Bucket)
	defer s.Scorer.Finalize()
	o, _, err := loadOffline(&s, path)
	if err == nil {
		err = (&run{setup: s, cfg: &s.Config}).selectPairs(t.Context(), o, path)
	}
	return o, err
}

func TestSelectPairs(t *testing.T) {
	s := testSetup(t)
	path := givenPairs(t, 8)
	ids := func(sel Select) string {
		t.Helper()
		s.Config.Data, s.Config.Select = "offline:"+path, sel
		o, err := selected(t, s, path)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, p := range o.pairs {
			all = append(all, strings.TrimPrefix(p.ID, "given-"))
		}
		return strings.Join(all, " ")
	}
	if got := ids(Select{By: "reward_gap", Keep: 0.4}); got != "7 6 5 4" { // ⌈3.2⌉
		t.Errorf("largest gaps: %s", got)
	}
	if got := ids(Select{By: "reward_gap", Keep: 0.25, Low: true}); got != "0 1" {
		t.Errorf("smallest gaps: %s", got)
	}
	if a, b := ids(Select{By: "random", Keep: 0.5}), ids(Select{By: "random", Keep: 0.5}); a != b || len(strings.Fields(a)) != 4 {
		t.Errorf("at random: %s, %s", a, b)
	}
	far := map[string]float64{} // one pair at a time
	scorer := models.NewScorer(s.Backend, s.Model.Config, models.Bucket)
	defer scorer.Finalize()
	s.Config.Select = Select{}
	all, err := selected(t, s, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all.pairs {
		states, err := scorer.Embed(t.Context(), models.Policy{Base: s.Model.Base}, []models.Row{rowOf(&p)}, 1)
		if err != nil {
			t.Fatal(err)
		}
		far[strings.TrimPrefix(p.ID, "given-")] = distance(states[0][0], states[0][1])
	}
	for _, low := range []bool{false, true} {
		order := slices.SortedFunc(maps.Keys(far), func(a, b string) int {
			if low {
				a, b = b, a
			}
			return cmp.Compare(far[b], far[a])
		})
		if got, want := ids(Select{By: "embedding_distance", Keep: 0.5, Low: low}), strings.Join(order[:4], " "); got != want {
			t.Errorf("by distance, low %v: %s, want %s of %v", low, got, want, far)
		}
	}
	rows := []data.Preference{{Prompt: "pack", Chosen: "tea", Rejected: "jam"}}
	bare := filepath.Join(t.TempDir(), "bare.parquet")
	if err := data.Write(bare, rows, nil); err != nil {
		t.Fatal(err)
	}
	s.Config.Data, s.Config.Select = "offline:"+bare, Select{By: "reward_gap", Keep: 1}
	if _, err := selected(t, s, bare); err == nil || !strings.Contains(err.Error(), "select.by: reward_gap needs scores, and pair 1") {
		t.Errorf("error %v", err)
	}
}

// Density prefers the pairs that are unlike the others, ask_llm those that the model says yes to, and neither sees which completion
// was chosen.
func TestSelectPairsByText(t *testing.T) {
	s := testSetup(t)
	s.Model.Config.MaxPositions = 512 // letters are tokens here, and the question has many
	var rows, swapped []data.Preference
	for i := range 20 {
		row := data.Preference{ID: fmt.Sprint("common-", i), Prompt: "pack tea", Chosen: "tea tea", Rejected: "tea tea tea"}
		if i%10 == 0 {
			row = data.Preference{ID: fmt.Sprint("rare-", i), Prompt: "pack jam", Chosen: "no 12", Rejected: "jam! jam?"}
		}
		rows = append(rows, row)
		row.Chosen, row.Rejected = row.Rejected, row.Chosen
		swapped = append(swapped, row)
	}
	kept := func(by string, seed uint64, rows []data.Preference) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "pairs.parquet")
		if err := data.Write(path, rows, nil); err != nil {
			t.Fatal(err)
		}
		s.Config.Seed, s.Config.Data, s.Config.Select = seed, "offline:"+path, Select{By: by, Keep: 0.25}
		o, err := selected(t, s, path)
		if err != nil {
			t.Fatal(err)
		}
		if len(o.pairs) != 5 {
			t.Errorf("%s kept %d of 20", by, len(o.pairs))
		}
		var ids []string
		for _, p := range o.pairs {
			ids = append(ids, p.ID)
		}
		return strings.Join(ids, " ")
	}
	counts := map[string]int{}
	for _, by := range []string{"random", "density", "ask_llm"} {
		for seed := range uint64(10) {
			ids := kept(by, seed, rows)
			counts[by] += strings.Count(ids, "rare")
			if by != "random" && ids != kept(by, seed, swapped) {
				t.Errorf("%s, seed %d: another choice where the other completion was chosen", by, seed)
			}
		}
	}
	if counts["density"] < counts["random"]+5 {
		t.Errorf("rare pairs kept: %v", counts)
	}
	s.Scorer = models.NewScorer(s.Backend, s.Model.Config, models.Bucket)
	defer s.Scorer.Finalize()
	odds, err := (&run{setup: s, cfg: &s.Config}).askPairs(t.Context(), rows[:2])
	if err != nil || odds[0] == odds[1] {
		t.Fatalf("log odds %v, %v", odds, err)
	}
	if want := map[bool]int{true: 20, false: 0}[odds[0] > odds[1]]; counts["ask_llm"] != want {
		t.Errorf("log odds %v of rare and common, and %d of 20 rare ones kept", odds, counts["ask_llm"])
	}
}

// A question that is too long loses of its texts: the end of the prompt and the starts of the completions stay.
func TestAskIDs(t *testing.T) {
	encode := func(s string) ([]int32, error) { return make([]int32, len(s)), nil }
	var asked string
	note := func(s string) ([]int32, error) { asked = s; return encode(s) }
	if ids, err := askIDs(note, "<%s|%s|%s>?", []string{"abcdefgh", "ijkl", "mnop"}, 99); err != nil || len(ids) != 21 || asked != "<abcdefgh|ijkl|mnop>?" {
		t.Errorf("asked %q, %v", asked, err)
	}
	ids, err := askIDs(note, "<%s|%s|%s>?", []string{"abcdefgh", "ijkl", "mnop"}, 13)
	if err != nil || len(ids) > 13 || len(ids) < 11 || !regexp.MustCompile(`^<[b-g]*h\|i[jkl]*\|m[nop]*>\?$`).MatchString(asked) {
		t.Errorf("asked %q, %v", asked, err)
	}
	if _, err := askIDs(encode, "<%s>?", []string{"abc"}, 2); err == nil || !strings.Contains(err.Error(), "the question alone takes 3 tokens") {
		t.Errorf("error %v", err)
	}
}

// Two clusters, nine points in one and one in the other.
func TestDensities(t *testing.T) {
	points := [][]float32{{5, 5}}
	for i := range 9 {
		points = append(points, []float32{float32(i) / 100, 0})
	}
	d := densities(points)
	if d[0] > 0.2 || d[1] < 0.5 {
		t.Errorf("densities %v", d)
	}
	if d := densities([][]float32{{1}}); d[0] != 1 {
		t.Errorf("one point has density %v", d)
	}
	// Of many points a sample stands for all: three in four around one place, the others around another.
	rng := rand.New(rand.NewPCG(1, 1))
	points = nil
	for i := range 3 * densityPoints {
		points = append(points, []float32{float32(i%4/3) * 6, float32(rng.NormFloat64())})
	}
	means := [2]float64{}
	for i, v := range densities(points) {
		means[i%4/3] += v / float64(len(points)) * []float64{4. / 3, 4}[i%4/3]
	}
	if ratio := means[0] / means[1]; ratio < 1.5 || ratio > 3 {
		t.Errorf("density %v in the place of three in four, %v in the other", means[0], means[1])
	}
}

// Pairs given as text get their prompts' ids from EncodePrompt, those given as ids keep them.
func TestGivenPairsEncoding(t *testing.T) {
	s := testSetup(t)
	path := filepath.Join(t.TempDir(), "pairs.parquet")
	turns := []data.Message{{Role: "user", Content: "pack"}}
	if err := data.Write(path, []data.Preference{
		{Prompt: "pack tea", Messages: turns, Chosen: "tea", Rejected: "jam"},
		{PromptIDs: []int32{5}, ChosenIDs: []int32{6}, RejectedIDs: []int32{7, 8}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	s.End = 9
	load := func() ([]data.Preference, error) {
		o, _, err := loadOffline(&s, path)
		if err != nil {
			return nil, err
		}
		return o.pairs, nil
	}
	plain, err := load()
	if err != nil || !slices.Equal(plain[0].PromptIDs, s.Model.Tokenizer.EncodePrompt("pack tea")) || !slices.Equal(plain[1].PromptIDs, []int32{5}) {
		t.Fatalf("plain: %v, %v", plain, err)
	}
	s.EncodePrompt = func(text string, conversation []data.Message) ([]int32, error) {
		if text != "pack tea" || !slices.Equal(conversation, turns) {
			t.Errorf("asked for %q and %v", text, conversation)
		}
		return []int32{9, 9}, nil
	}
	templated, err := load()
	if err != nil || !slices.Equal(templated[0].PromptIDs, []int32{9, 9}) || !slices.Equal(templated[1].PromptIDs, []int32{5}) || !slices.Equal(templated[0].ChosenIDs, plain[0].ChosenIDs) {
		t.Errorf("through a template: %v, %v", templated, err)
	}
	s.EncodePrompt = func(string, []data.Message) ([]int32, error) { return nil, errors.New("no such role") }
	if _, err := load(); err == nil || !strings.Contains(err.Error(), path+": row 1: no such role") {
		t.Errorf("error %v", err)
	}
	if got := plain[0].ChosenIDs; !slices.Equal(got, append(s.Model.Tokenizer.EncodePlain("tea"), 9)) {
		t.Errorf("chosen is %v, and 9 ends texts", got)
	}
}

// Pairs that another model collected have its ids: their text counts, and ids without a text must be the model's. Log-probs of
// other ids than are trained on are dropped.
func TestGivenPairsOfAnotherModel(t *testing.T) {
	s := testSetup(t)
	tok := s.Model.Tokenizer
	s.End = tok.EOS()
	enc := tok.EncodePlain
	own := data.Preference{Prompt: "pack", PromptIDs: enc("pack"), Chosen: "tea", ChosenIDs: enc("tea"), ChosenLogps: []float32{-1},
		Rejected: "jam", RejectedIDs: append(enc("jam"), s.End), RejectedLogps: []float32{-2, -3}}
	others := own
	others.ChosenIDs, others.PromptIDs = enc("jam"), []int32{1, 2, 3}
	long := own
	long.Rejected, long.RejectedIDs, long.RejectedLogps = strings.Repeat("tea", 9), slices.Repeat(enc("tea"), 9), make([]float32, 9)
	path := filepath.Join(t.TempDir(), "pairs.parquet")
	load := func(rows ...data.Preference) ([]data.Preference, tally, error) {
		t.Helper()
		if err := data.Write(path, rows, nil); err != nil {
			t.Fatal(err)
		}
		o, count, err := loadOffline(&s, path)
		if err != nil {
			return nil, count, err
		}
		return o.pairs, count, nil
	}
	late := own // in a longer conversation than is kept
	late.PromptIDs = slices.Repeat(enc("pack"), 9)
	got, count, err := load(own, others, long, late)
	if err != nil || count.Reencoded != 1 || count.Truncated != 2 {
		t.Fatalf("%+v, %v", count, err)
	}
	if p := got[0]; !slices.Equal(p.ChosenIDs, own.ChosenIDs) || !slices.Equal(p.RejectedLogps, own.RejectedLogps) {
		t.Errorf("own ids became %+v", p)
	}
	if p := got[1]; !slices.Equal(p.PromptIDs, tok.EncodePrompt("pack")) || !slices.Equal(p.ChosenIDs, append(enc("tea"), s.End)) || p.ChosenLogps != nil || p.RejectedLogps != nil {
		t.Errorf("another model's pair became %+v", p)
	}
	if p := got[2]; len(p.RejectedIDs) != 8 || p.ChosenLogps != nil || p.RejectedLogps != nil {
		t.Errorf("a cut pair became %+v", p)
	}
	if p := got[3]; len(p.PromptIDs) != 8 || p.ChosenLogps != nil || p.RejectedLogps != nil {
		t.Errorf("a pair with a cut prompt became %+v", p)
	}
	bare := data.Preference{PromptIDs: []int32{5}, ChosenIDs: []int32{6}, RejectedIDs: []int32{30000}}
	if _, _, err := load(own, bare); err == nil || !strings.HasSuffix(err.Error(), fmt.Sprintf("row 2: token id 30000, and the model has %d", s.Model.Config.VocabSize)) {
		t.Errorf("error %v", err)
	}
}

// Ensembles of neighbouring seeds share no member.
func TestMemberSeed(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(100) {
		for i := range 20 {
			s := MemberSeed(seed, i)
			if seen[s] || i == 0 && s != seed {
				t.Fatalf("member %d of seed %d has %d", i, seed, s)
			}
			seen[s] = true
		}
	}
}

// An EMA that moves all the way is the learner; what is picked does not change what was sampled.
func TestRelatedLimits(t *testing.T) {
	s := testSetup(t)
	s.Config.Refresh = 4
	_, learner := mustRecord(t, s)
	s.Dir = t.TempDir()
	s.Config.Behavior, s.Config.EMAAlpha = "ema", 1
	_, ema := mustRecord(t, s)
	for step := range 4 {
		if d := learner[step+1]["logps/chosen"] - ema[step+1]["logps/chosen"]; d > 1e-3 || d < -1e-3 {
			t.Errorf("step %d: log-probs %v under the learner, %v under an EMA of it alone", step+1, learner[step+1]["logps/chosen"], ema[step+1]["logps/chosen"])
		}
	}
	s = testSetup(t)
	s.Config.Sample.N = 4
	_, plain := mustRecord(t, s)
	s.Dir = t.TempDir()
	s.Config.Sample.Pick = "random"
	_, picked := mustRecord(t, s)
	for _, name := range []string{"collect/completion_tokens", "collect/stopped_share"} { // of all that were sampled
		if picked[1][name] != plain[1][name] {
			t.Errorf("%s: %g where two of four are picked, %g without", name, picked[1][name], plain[1][name])
		}
	}
}

func TestRelatedConfigErrors(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"start: ":           func(c *Config) { c.Start = "there" },
		"start: 2 learners": func(c *Config) { c.Start, c.Learners = "checkpoint:x", 2 },
		"loss.schedule.name: ": func(c *Config) {
			c.Data, c.SelfPlay.Segment, c.Loss.Schedule = "self_play", 2, BetaSchedule{Name: "adaptive", TargetKL: 1}
		},
		"loss.schedule.name: adaptive": func(c *Config) {
			c.Mix, c.Loss.Schedule = Mix{Pairs: "x", Share: 0.5}, BetaSchedule{Name: "adaptive", TargetKL: 1}
		},
		"self_play.segment: ": func(c *Config) { c.Data = "self_play" },
		"mix.share: ":         func(c *Config) { c.Mix = Mix{Pairs: "x", Share: 1} },
		"mix.pairs: ":         func(c *Config) { c.Mix, c.Data = Mix{Pairs: "x", Share: 0.5}, "offline:x" },
		"replay: ":            func(c *Config) { c.Replay = -1 },
		"select.by: ":         func(c *Config) { c.Select = Select{By: "random", Keep: 0.5} },
		"select.keep: ":       func(c *Config) { c.Select, c.Data = Select{By: "random"}, "offline:x" },
		"select.low: ":        func(c *Config) { c.Select, c.Data = Select{By: "random", Keep: 0.5, Low: true}, "offline:x" },
		"sample.pick: ":       func(c *Config) { c.Sample.Pick = "best" },
		"sample.pick: there is nothing to pick two of": func(c *Config) { c.Sample.Pick = "random" },
		"sample.pick: goes with data: behavior":        func(c *Config) { c.Sample.Pick, c.Sample.N, c.Data = "random", 4, "offline:x" },
		"self_play.segment: 65 tokens":                 func(c *Config) { c.Data, c.SelfPlay.Segment = "self_play", 65 },
		"loss.soft_labels: self_play": func(c *Config) {
			c.Data, c.SelfPlay.Segment, c.Loss.SoftLabels = "self_play", 2, 1
		},
		"loss.schedule.name: adaptive follows the KL to the behavior, which is 0": func(c *Config) {
			c.Refresh, c.Loss.Schedule = c.Steps, BetaSchedule{Name: "adaptive", TargetKL: 1}
		},
		"batch_size: must be at least 1, got 0": func(c *Config) { c.BatchSize = 0 },
		"ema_every: 100: ":                      func(c *Config) { c.Reference, c.EMAEvery = "ema", 100 },
		"behavior: ":                            func(c *Config) { c.Behavior = "emma" },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
