package bpo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/models/sample"
)

// Prompt is a training prompt. Tokens keep the prompt's end; a prompt longer than the limit loses its start.
type Prompt struct {
	ID, Text, Reference string
	Messages            []data.Message // the prompt as a conversation, where it is one
	Tokens              []int32
}

// collector runs a data-collection phase: the behavior policy samples, the annotator judges, pairs are formed.
type collector struct {
	*run
	orders map[int][]int      // epoch → shuffled prompt order
	spent  map[string]float64 // annotate.Usage of this and all earlier phases; nil: not known yet
}

// tally counts what became of the prompts of a collection.
type tally struct {
	Prompts, Identical, Ties, Truncated, Completions int
	Reencoded                                        int `json:",omitempty"` // given pairs whose ids were another model's
	Tokens, SampledStops                             int
	SampleSeconds, AnnotateSeconds, ReferenceSeconds float64
	Usage                                            map[string]float64 `json:",omitempty"` // of the annotator
}

func (t *tally) add(o tally) {
	t.Prompts += o.Prompts
	t.Identical += o.Identical
	t.Ties += o.Ties
	t.Truncated += o.Truncated
	t.Reencoded += o.Reencoded
	t.Completions += o.Completions
	t.Tokens += o.Tokens
	t.SampledStops += o.SampledStops
	t.SampleSeconds += o.SampleSeconds
	t.AnnotateSeconds += o.AnnotateSeconds
	t.ReferenceSeconds += o.ReferenceSeconds
	t.Usage = plus(t.Usage, o.Usage)
}

// sampled counts a completion.
func (t *tally) sampled(y sample.Completion) {
	t.Completions++
	t.Tokens += len(y.Tokens)
	if y.Stopped {
		t.SampledStops++
	}
}

// plus adds b to a, which it changes and makes if need be.
func plus(a, b map[string]float64) map[string]float64 {
	if a == nil {
		a = map[string]float64{}
	}
	for name, n := range b {
		a[name] += n
	}
	return a
}

// shardSteps is how many steps' prompts are collected at a time. A shard is the unit of work that a kill can lose,
// and large enough to fill the sampler's batches.
func (c *Config) shardSteps() int {
	return max(1, (4*c.Sample.Batch+c.Fresh()-1)/c.Fresh())
}

// prompt is the g-th prompt of the run's annotation budget: a shuffled pass over the prompts, reshuffled each epoch.
// It depends on the seed and g alone, so every F spends the same prompts in the same order.
func (c *collector) prompt(g int) Prompt {
	n := len(c.setup.Prompts)
	epoch := g / n
	order, ok := c.orders[epoch]
	if !ok {
		order = data.Order(n, c.cfg.Seed, epoch)
		c.orders = map[int][]int{epoch: order}
	}
	return c.setup.Prompts[order[g%n]]
}

// phase collects the pairs of steps [from, to), by step. Shards already on disk from before a kill are read back.
func (c *collector) phase(ctx context.Context, phase, from, to int, behavior versioned, ref *reference) (map[int][]*data.Preference, tally, error) {
	pairs, total := map[int][]*data.Preference{}, tally{}
	dir := c.phaseDir(phase)
	for at := from; at < to; at += c.cfg.shardSteps() {
		end := min(at+c.cfg.shardSteps(), to)
		path := filepath.Join(dir, fmt.Sprintf("steps-%06d-%06d.parquet", at, end-1))
		rows, count, err := c.shard(ctx, path, phase, at, end, behavior, ref)
		if err != nil {
			return nil, total, fmt.Errorf("collect phase %d: %w", phase, err)
		}
		total.add(count)
		for i := range rows {
			pairs[rows[i].Step] = append(pairs[rows[i].Step], &rows[i])
		}
		c.progress("collect", end, c.cfg.Steps)
	}
	return pairs, total, nil
}

// spend adds what a phase's annotation used. What a resumed run used before is in its shards.
func (c *collector) spend(phase int, used map[string]float64) error {
	if c.spent == nil {
		for p := range phase { // by phase, as in a run that was not interrupted: the sums are the same to the last bit
			total, err := c.counted(p)
			if err != nil {
				return err
			}
			c.spent = plus(c.spent, total.Usage)
		}
	}
	c.spent = plus(c.spent, used)
	return nil
}

// counted is what an earlier phase has counted, as its shards have it.
func (c *collector) counted(phase int) (total tally, err error) {
	shards, err := os.ReadDir(c.phaseDir(phase))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return total, err
	}
	for _, e := range shards {
		if !strings.HasPrefix(e.Name(), "steps-") { // half of one, that a kill left
			continue
		}
		count, err := readTally(filepath.Join(c.phaseDir(phase), e.Name()))
		if err != nil {
			return total, err
		}
		total.add(count)
	}
	return total, nil
}

// nothing is an error if no prompt of the run has given a pair, the last phase's included: it would end as it began, and look
// like a method that does nothing. The whole budget decides, and so every F alike.
func (c *collector) nothing(phase int, total tally) error {
	for p := range phase {
		count, err := c.counted(p)
		if err != nil {
			return err
		}
		total.add(count)
	}
	pairs := total.Prompts - total.Identical
	if c.cfg.Ties == "drop" {
		pairs -= total.Ties
	}
	if pairs > 0 {
		return nil
	}
	see := "annotator, ties and sample"
	if c.cfg.selfPlay() {
		see = "self_play"
	}
	return fmt.Errorf("collect: none of the %d prompts gave a pair (%d ties, %d times all completions the same), so there was nothing to learn from; see %s", total.Prompts, total.Ties, total.Identical, see)
}

func (c *collector) phaseDir(phase int) string {
	return filepath.Join(c.setup.Dir, "pairs", fmt.Sprintf("phase-%04d", phase))
}

// shard is one file of a phase: read if it is there, made and written if not.
func (c *collector) shard(ctx context.Context, path string, phase, from, to int, behavior versioned, ref *reference) ([]data.Preference, tally, error) {
	if _, err := os.Stat(path); err == nil {
		rows, err := data.Read[data.Preference](path)
		if err != nil {
			return nil, tally{}, err
		}
		count, err := readTally(path)
		return rows, count, err
	}
	rows, count, err := c.collect(ctx, phase, from, to, behavior)
	if err != nil {
		return nil, count, err
	}
	if ref.isBehavior(behavior) && !c.cfg.selfPlay() {
		for i := range rows { // log π_β of the sampled tokens is what the sampler already knows
			rows[i].RefChosenLogps, rows[i].RefRejectedLogps = rows[i].ChosenLogps, rows[i].RejectedLogps
		}
	} else if ref.kind != "ema" && !c.loss.ReferenceFree && len(rows) > 0 {
		start := time.Now()
		pointers := make([]*data.Preference, len(rows))
		for i := range rows {
			pointers[i] = &rows[i]
		}
		if err := ref.fill(ctx, c.setup.Backend, c.setup.Scorer, ref.of(behavior).policy, pointers, c.cfg.Micro()); err != nil {
			return nil, count, err
		}
		count.ReferenceSeconds = time.Since(start).Seconds()
	}
	return rows, count, data.Write(path, rows, writeTally(count))
}

// collect samples, annotates and pairs the prompts of steps [from, to).
func (c *collector) collect(ctx context.Context, phase, from, to int, behavior versioned) ([]data.Preference, tally, error) {
	var (
		count   tally
		prompts []Prompt
		queries []sample.Prompt
	)
	if c.cfg.selfPlay() {
		return c.selfPlay(ctx, phase, from, to, behavior)
	}
	for g := from * c.cfg.Fresh(); g < to*c.cfg.Fresh(); g++ {
		p := c.prompt(g)
		prompts = append(prompts, p)
		queries = append(queries, sample.Prompt{Key: uint64(g), Tokens: p.Tokens})
	}
	start := time.Now()
	s := c.cfg.Sample
	policy, done, err := rounded(c.setup.Backend, behavior.policy)
	if err != nil {
		return nil, count, err
	}
	defer done()
	completions, err := c.setup.Sampler.Sample(ctx, policy, queries, sample.Options{
		Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, N: s.N, Batch: s.Batch,
		MaxNewTokens: c.cfg.MaxCompletionTokens, Seed: c.cfg.Seed, Stop: c.stop(), Fold: true,
	}, func(done, total int) { c.progress("sample", from+done*(to-from)/max(total, 1), c.cfg.Steps) })
	if err != nil {
		return nil, count, fmt.Errorf("sample: %w", err)
	}
	count.SampleSeconds = time.Since(start).Seconds()
	for _, y := range slices.Concat(completions...) {
		count.sampled(y)
	}
	if completions, err = c.pick(ctx, queries, completions); err != nil {
		return nil, count, err
	}
	start = time.Now()
	requests := make([]annotate.Request, len(prompts))
	for i, p := range prompts {
		requests[i] = annotate.Request{Prompt: p.Text, Reference: p.Reference}
		for _, y := range completions[i] {
			requests[i].Completions = append(requests[i].Completions, c.setup.Model.Tokenizer.Decode(y.Tokens))
		}
	}
	judgments, used, err := annotate.Counted(ctx, c.setup.Annotator, requests, c.cfg.Seed)
	if err != nil {
		return nil, count, err
	}
	count.AnnotateSeconds, count.Usage = time.Since(start).Seconds(), used

	var rows []data.Preference
	for i, p := range prompts {
		count.Prompts++
		texts, j := requests[i].Completions, judgments[i]
		chosen, rejected, tie := j.Pair()
		switch {
		case allEqual(texts):
			count.Identical++
			continue
		case tie:
			count.Ties++
			if c.cfg.Ties == "drop" {
				continue
			}
			chosen, rejected = coin(c.cfg.Seed, from*c.cfg.Fresh()+i, texts)
		}
		w, l := completions[i][chosen], completions[i][rejected]
		row := data.Preference{
			PromptID: p.ID, Prompt: p.Text, Messages: p.Messages, Reference: p.Reference,
			Chosen: texts[chosen], Rejected: texts[rejected],
			PromptIDs: p.Tokens, ChosenIDs: w.Tokens, RejectedIDs: l.Tokens,
			ChosenLogps: w.PolicyLogProbs, RejectedLogps: l.PolicyLogProbs,
			Annotator: c.setup.Annotator.Name(), BehaviorVersion: behavior.version,
			Phase: phase, Step: from + i/c.cfg.Fresh(),
		}
		row.ID = data.ID(strconv.Itoa(from*c.cfg.Fresh()+i), p.ID, row.Chosen, row.Rejected)
		if j.Scores != nil {
			row.ChosenScore, row.RejectedScore = &j.Scores[chosen], &j.Scores[rejected]
		}
		rows = append(rows, row)
	}
	return rows, count, nil
}

const tallyKey = "gobpo.tally"

// writeTally and readTally keep a shard's counts in its file, so that a resumed run reports them again.
func writeTally(t tally) map[string]string {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // a struct of numbers
	}
	return map[string]string{tallyKey: string(text)}
}

func readTally(path string) (t tally, err error) {
	info, err := data.Describe(path)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(info.Meta[tallyKey]), &t); err != nil {
		return t, fmt.Errorf("%s: metadata %s: %w", path, tallyKey, err)
	}
	return t, nil
}

func allEqual(texts []string) bool {
	for _, t := range texts[1:] {
		if t != texts[0] {
			return false
		}
	}
	return true
}

// coin breaks a tie: two differing completions in an order drawn from the seed and the prompt's place in the run.
func coin(seed uint64, g int, texts []string) (chosen, rejected int) {
	for rejected = 1; texts[rejected] == texts[0]; {
		rejected++
	}
	if mix(seed^mix(uint64(g)))&1 == 0 {
		return 0, rejected
	}
	return rejected, 0
}

// mix is the finalizer of SplitMix64: a bijection whose output bits all depend on all input bits.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// offline serves given pairs instead of sampling: step t takes the next BatchSize of a shuffled pass over them.
type offline struct {
	cfg   *Config
	each  int // pairs a step
	pairs []data.Preference
}

// encodePrompt is EncodePrompt, or what stands for it.
func (s *Setup) encodePrompt(text string, conversation []data.Message) ([]int32, error) {
	if s.EncodePrompt == nil {
		return s.Model.Tokenizer.EncodePrompt(text), nil
	}
	return s.EncodePrompt(text, conversation)
}

// loadOffline reads a preferences file. Rows without token ids, and those whose ids do not read as their text, because another
// model collected them, are tokenised as prompt + completion + End.
func loadOffline(s *Setup, path string) (*offline, tally, error) {
	c, t := &s.Config, s.Model.Tokenizer
	var count tally
	o := &offline{cfg: c, each: c.BatchSize}
	if c.OfflinePath() == "" {
		o.each = c.given()
	}
	for row, err := range GivenPairs(path) {
		if err != nil {
			return nil, count, err
		}
		count.Prompts++
		text := row.Chosen != "" || row.Rejected != ""
		if given := len(row.ChosenIDs) > 0 || len(row.RejectedIDs) > 0; !given || text && (t.Decode(row.ChosenIDs) != row.Chosen || t.Decode(row.RejectedIDs) != row.Rejected) {
			if row.PromptIDs, err = s.encodePrompt(row.Prompt, row.Messages); err != nil {
				return nil, count, fmt.Errorf("%s: row %d: %w", path, count.Prompts, err)
			}
			row.ChosenIDs = append(t.EncodePlain(row.Chosen), s.End)
			row.RejectedIDs = append(t.EncodePlain(row.Rejected), s.End)
			row.ChosenLogps, row.RejectedLogps = nil, nil
			if given {
				count.Reencoded++
			}
		}
		for _, id := range slices.Concat(row.PromptIDs, row.ChosenIDs, row.RejectedIDs) {
			if id < 0 || int(id) >= s.Model.Config.VocabSize {
				return nil, count, fmt.Errorf("%s: row %d: token id %d, and the model has %d", path, count.Prompts, id, s.Model.Config.VocabSize)
			}
		}
		for _, y := range []*[]int32{&row.ChosenIDs, &row.RejectedIDs} {
			if len(*y) > c.MaxCompletionTokens { // completions keep their start, and lose their EOS
				*y = (*y)[:c.MaxCompletionTokens]
				row.ChosenLogps, row.RejectedLogps = nil, nil // of texts that are not these
				count.Truncated++
			}
		}
		if n := len(row.PromptIDs); n > c.MaxPromptTokens { // prompts keep their end
			row.PromptIDs = row.PromptIDs[n-c.MaxPromptTokens:]
			row.ChosenLogps, row.RejectedLogps = nil, nil // after a prompt that is not this one
			count.Truncated++
		}
		row.RefChosenLogps, row.RefRejectedLogps = nil, nil
		if slices.Equal(row.ChosenIDs, row.RejectedIDs) {
			count.Identical++
			continue
		}
		if len(row.PromptIDs) == 0 || len(row.ChosenIDs) == 0 || len(row.RejectedIDs) == 0 {
			return nil, count, fmt.Errorf("%s: row %d: empty prompt or completion", path, count.Prompts)
		}
		o.pairs = append(o.pairs, row)
	}
	if len(o.pairs) == 0 {
		return nil, count, fmt.Errorf("data: %s holds no usable pair (%d rows, %d of identical completions)", path, count.Prompts, count.Identical)
	}
	return o, count, nil
}

// pairFiles are the files of given pairs: one, or those that a run collected, in the order of its steps.
func pairFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("given pairs: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	files, err := filepath.Glob(filepath.Join(path, "pairs", "*", "*.parquet"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("given pairs: %s is no run that collected pairs", path)
	}
	return files, err
}

// GivenPairs reads what "offline:<path>" means: a file of pairs, or what a run collected.
func GivenPairs(path string) iter.Seq2[data.Preference, error] {
	return func(yield func(data.Preference, error) bool) {
		files, err := pairFiles(path)
		if err != nil {
			yield(data.Preference{}, err)
			return
		}
		for _, f := range files {
			for row, err := range data.Pairs(f) {
				if !yield(row, err) {
					return
				}
			}
		}
	}
}

// step gives the pairs of one step, a pure function of seed and step.
func (o *offline) step(t int) []*data.Preference {
	out := make([]*data.Preference, 0, o.each)
	n := len(o.pairs)
	var order []int
	for g, epoch := t*o.each, -1; g < (t+1)*o.each; g++ {
		if g/n != epoch {
			epoch = g / n
			order = data.Order(n, o.cfg.Seed, epoch)
		}
		pair := o.pairs[order[g%n]]
		out = append(out, &pair)
	}
	return out
}
