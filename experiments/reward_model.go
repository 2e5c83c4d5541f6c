package experiments

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"gonum.org/v1/gonum/stat"

	"gobpo/bpo"
	"gobpo/bpo/annotate"
	"gobpo/data"
	"gobpo/models"
	"gobpo/models/chat"
)

// RewardModel judges texts: a model, or an ensemble of models over one base.
type RewardModel struct {
	model   *models.Model
	members []models.Policy // named by their directories
	scorer  *models.Scorer
	chat    string
	most    int // tokens of a text; longer ones lose their start
	batch   int
}

// RewardOptions say how a reward model is opened. Zero values are what it was trained with, where that is known.
type RewardOptions struct {
	Backend, DType, Chat string
	MaxTokens, Batch     int
}

// Validate reports the first option that a user cannot mean, as "key: message".
func (o RewardOptions) Validate() error {
	switch {
	case !slices.Contains([]string{"", "auto", "none"}, o.Chat):
		return fmt.Errorf("chat: %q is not auto or none", o.Chat)
	case !slices.Contains([]string{"", "float32", "bfloat16"}, o.DType):
		return fmt.Errorf("dtype: %q is not float32 or bfloat16", o.DType)
	case o.MaxTokens < 0 || o.MaxTokens == 1: // a token that the texts share, and one of their own
		return fmt.Errorf("max_tokens: %d is neither 0 nor at least 2", o.MaxTokens)
	case o.Batch < 1:
		return fmt.Errorf("batch: %d is not at least 1", o.Batch)
	}
	return nil
}

// OpenReward opens a Hugging Face directory of a sequence classifier with one label, a PEFT directory of such a task, or
// what bpo reward train made, an ensemble too.
func (s *Session) OpenReward(ctx context.Context, path string, o RewardOptions) (*RewardModel, error) {
	r := &RewardModel{chat: o.Chat, most: o.MaxTokens, batch: o.Batch}
	c, err := rewardConfig(path)
	if err != nil {
		return nil, err
	}
	if c != nil {
		if r.chat == "" {
			r.chat = c.Model.Chat
		}
		if r.most == 0 {
			r.most = c.MaxTokens
		}
		if o.DType == "" {
			o.DType = c.Model.DType
		}
	}
	for _, v := range []struct {
		into  *string
		value string
	}{{&r.chat, "auto"}, {&o.DType, "float32"}, {&o.Backend, "auto"}} {
		if *v.into == "" {
			*v.into = v.value
		}
	}
	if r.batch == 0 {
		r.batch = 8
	}
	b, err := s.Backend(o.Backend)
	if err != nil {
		return nil, err
	}
	dirs, err := memberDirs(path, c)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		base := dir
		adapter := models.IsAdapter(dir)
		if adapter {
			reward := false
			if base, reward, err = adapterBase(dir, ""); err != nil {
				return nil, err
			}
			if !reward {
				return nil, fmt.Errorf("%s is the adapter of a language model, not of a reward model", dir)
			}
		}
		m, err := s.Load(ctx, b, base, o.DType)
		if err != nil {
			return nil, err
		}
		if !adapter && !m.model.Config.Reward {
			return nil, fmt.Errorf("%s is a language model, not a reward model: its config.json names no sequence classifier", dir)
		}
		model := *m.model
		model.Config.Reward = true
		p := models.Policy{Name: dir, Base: model.Base}
		if adapter {
			if p.Adapter, err = models.LoadAdapter(dir, model.Config); err != nil {
				return nil, err
			}
		}
		if r.model != nil && r.model.Source != model.Source && adapter {
			return nil, fmt.Errorf("%s: members of an ensemble have one base, not %s and %s", path, r.model.Source, model.Source)
		}
		r.model, r.members = &model, append(r.members, p)
	}
	if most := r.model.Config.MaxPositions; r.most == 0 || r.most > most {
		r.most = most
	}
	r.scorer = models.NewScorer(b, r.model.Config, models.CoarseBucket)
	return r, nil
}

const memberPrefix = "member-"

// memberDir is where a member of an ensemble lies.
func memberDir(i int) string { return fmt.Sprint(memberPrefix, i) }

// memberDirs lists where the models of a configuration lie in its directory.
func (c *RewardConfig) memberDirs(dir string) []string {
	if c.Members == 1 {
		return []string{dir}
	}
	dirs := make([]string, c.Members)
	for i := range dirs {
		dirs[i] = filepath.Join(dir, memberDir(i))
	}
	return dirs
}

// memberDirs lists where the models of a reward model lie, all of those that its configuration has if it is known.
func memberDirs(path string, c *RewardConfig) ([]string, error) {
	if c == nil { // somebody else's, or members that were put together
		var dirs []string
		entries, _ := os.ReadDir(path) // what is no directory is a model or an error to those who open it
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), memberPrefix) { // by number: sorted names have 10 before 2
				dirs = append(dirs, filepath.Join(path, memberDir(len(dirs))))
			}
		}
		if len(dirs) == 0 {
			dirs = []string{path}
		}
		return dirs, nil
	}
	dirs, done := c.memberDirs(path), 0
	for _, dir := range dirs {
		if isTrained(dir) {
			done++
		}
	}
	if done < len(dirs) {
		return nil, fmt.Errorf("%s: %d of %d members are trained; bpo reward train %s -o %s goes on", path, done, len(dirs), filepath.Join(path, rewardConfigFile), path)
	}
	return dirs, nil
}

// isTrained says whether a directory holds a model: its configuration is written last.
func isTrained(dir string) bool {
	_, err := models.ReadConfig(dir)
	return err == nil || models.IsAdapter(dir)
}

// rewardConfig is the configuration in the directory of a reward model that was trained here, or nil.
func rewardConfig(dir string) (*RewardConfig, error) {
	path := filepath.Join(dir, rewardConfigFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	c, err := LoadReward(path, nil)
	return &c, err
}

// rewardRow makes a row of the completions of a prompt as a reward model reads them: through the chat template a whole
// conversation, else the plain texts and an end of text.
func rewardRow(m *models.Model, useTemplate string, prompt string, messages []data.Message, completions []string, limit int) (models.Row, error) {
	texts, shared := make([][]int32, len(completions)), 0
	for i, y := range completions {
		ids, n, err := rewardText(m, useTemplate, prompt, messages, y)
		if err != nil {
			return models.Row{}, err
		}
		texts[i], shared = ids, max(shared, n)
	}
	return bpo.SharedRow(limit, shared, texts...), nil
}

// rewardText gives the ids of one text, and how many of them others of its prompt begin with at most.
func rewardText(m *models.Model, useTemplate string, prompt string, messages []data.Message, completion string) (ids []int32, shared int, err error) {
	t := m.Tokenizer
	if m.ChatTemplate != "" && useTemplate == "auto" {
		if len(messages) == 0 {
			messages = data.Conversation(prompt)
		}
		var turns []chat.Message
		for _, msg := range append(slices.Clone(messages), data.Message{Role: "assistant", Content: completion}) {
			turns = append(turns, chat.Message{Role: msg.Role, Content: msg.Content})
		}
		if ids, err = chat.Encode(t, m.ChatTemplate, turns, false); err != nil {
			return nil, 0, err
		}
		return ids, len(ids), nil
	}
	if ids = t.EncodePrompt(prompt); len(ids) == 0 {
		ids = []int32{t.EOS()} // something to begin with
	}
	return append(append(slices.Clone(ids), t.EncodePlain(completion)...), t.EOS()), len(ids), nil
}

// Rewards gives every member's reward of every completion: [member][request][completion], finite numbers. Equal texts have
// equal rewards, whatever their order.
func (r *RewardModel) Rewards(ctx context.Context, reqs []annotate.Request) ([][][]float64, error) {
	byTexts := map[int][]int{} // requests by their number of different texts, which share batches
	rows := make([]models.Row, len(reqs))
	texts := make([][]string, len(reqs))
	for i, req := range reqs {
		texts[i] = slices.Compact(slices.Sorted(slices.Values(req.Completions)))
		if len(texts[i]) == 0 {
			continue
		}
		var err error
		if rows[i], err = rewardRow(r.model, r.chat, req.Prompt, nil, texts[i], r.most); err != nil {
			return nil, fmt.Errorf("request %d: %w", i, err)
		}
		byTexts[len(texts[i])] = append(byTexts[len(texts[i])], i)
	}
	out := make([][][]float64, len(r.members))
	for m, member := range r.members {
		out[m] = make([][]float64, len(reqs))
		for _, group := range byTexts {
			some := make([]models.Row, len(group))
			for j, i := range group {
				some[j] = rows[i]
			}
			values, err := r.scorer.Rewards(ctx, member, some, r.batch)
			if err != nil {
				return nil, err
			}
			for j, i := range group {
				for _, text := range reqs[i].Completions {
					at, _ := slices.BinarySearch(texts[i], text)
					v := values[j][at]
					if math.IsNaN(v) || math.IsInf(v, 0) { // which would pass for a tie, or win
						return nil, fmt.Errorf("%s: the reward of completion %q of prompt %q is %g", member.Name, clip(text, 60), clip(reqs[i].Prompt, 60), v)
					}
					out[m][i] = append(out[m][i], v)
				}
			}
		}
	}
	return out, nil
}

func init() { annotate.Register(rewardKind(new(Session), "auto")) }

// rewardKind is the annotator that a reward model is. It is opened at its first judgment, by the session that trains.
func rewardKind(s *Session, backend string) annotate.Kind {
	return annotate.Kind{
		Name: "reward",
		Doc:  "A reward model's value of prompt and completion.",
		Params: []annotate.Param{
			{Name: "path", Default: "", Doc: "a directory that bpo reward train made, or a Hugging Face sequence classifier with one label, or a PEFT adapter of one (required)", File: func(string) bool { return true }},
			{Name: "combine", Default: "mean", Doc: "of an ensemble's members: mean, or min (worst-case optimisation, arXiv 2310.02743)"},
			{Name: "uncertainty", Default: 0.0, Doc: "so many standard deviations among the members are taken off the mean"},
			{Name: "chat", Default: "", Doc: "auto (the model's chat template) or none; empty: as it was trained, else auto"},
			{Name: "dtype", Default: "", Doc: "float32 or bfloat16; empty: as it was trained, else float32"},
			{Name: "max_tokens", Default: 0.0, Doc: "of prompt and completion, which lose their start beyond; 0: as it was trained, else the model's context"},
			{Name: "batch", Default: 8.0, Doc: "prompts judged at a time"},
		},
		Build: func(a annotate.Args) (annotate.Annotator, error) {
			r := &rewardAnnotator{session: s, name: a.Name, path: a.String("path"), combine: a.String("combine"), uncertainty: a.Float("uncertainty")}
			r.options = RewardOptions{Backend: backend, DType: a.String("dtype"), Chat: a.String("chat"), MaxTokens: int(a.Float("max_tokens")), Batch: int(a.Float("batch"))}
			switch {
			case r.path == "":
				return nil, fmt.Errorf("path: reward needs the directory of a reward model")
			case r.combine != "mean" && r.combine != "min":
				return nil, fmt.Errorf("combine: %q is not mean or min", r.combine)
			case r.uncertainty < 0 || r.uncertainty > 0 && r.combine != "mean":
				return nil, fmt.Errorf("uncertainty: %g, must be 0 or more, and combine mean", r.uncertainty)
			}
			if err := r.options.Validate(); err != nil {
				return nil, err
			}
			if _, err := os.Stat(r.path); err != nil {
				return nil, fmt.Errorf("path: %w", err)
			}
			return r, nil
		},
	}
}

type rewardAnnotator struct {
	session     *Session
	name, path  string
	combine     string
	uncertainty float64
	options     RewardOptions
	mu          sync.Mutex
	model       *RewardModel
}

func (r *rewardAnnotator) Name() string { return r.name }

func (r *rewardAnnotator) open(ctx context.Context) (*RewardModel, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.model != nil {
		return r.model, nil
	}
	var err error
	r.model, err = r.session.OpenReward(ctx, r.path, r.options)
	return r.model, err
}

func (r *rewardAnnotator) Annotate(ctx context.Context, reqs []annotate.Request, _ uint64) ([]annotate.Judgment, error) {
	m, err := r.open(ctx)
	if err == nil {
		err = ctx.Err()
	}
	var members [][][]float64
	if err == nil {
		members, err = m.Rewards(ctx, reqs)
	}
	if err != nil {
		return nil, fmt.Errorf("annotate with %s: %w", r.name, err)
	}
	out := make([]annotate.Judgment, len(reqs))
	for i, req := range reqs {
		scores := make([]float64, len(req.Completions))
		for k := range scores {
			values := make([]float64, len(members))
			for n := range members {
				values[n] = members[n][i][k]
			}
			scores[k] = r.one(values)
		}
		out[i].Scores = scores
	}
	return out, nil
}

// one makes one reward of the members'.
func (r *rewardAnnotator) one(values []float64) float64 {
	if r.combine == "min" {
		return slices.Min(values)
	}
	mean, deviation := stat.PopMeanStdDev(values, nil)
	return mean - r.uncertainty*deviation
}
