package experiments

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gobpo/bpo"
	"gobpo/data"
	"gobpo/experiments/tasks"
	"gobpo/models"
	"gobpo/models/chat"
)

// corpus is the prompts of an experiment by what they are for.
type corpus struct {
	sft, train, eval, test []data.Prompt
	gold                   func(prompt, completion string) float64 // reward of the task, or nil
	words                  []string                                // of the task, for a tokenizer
	dropped                int                                     // evaluation prompts left out as they are trained on
}

// loadCorpus makes or reads the prompts and looks for leakage between training and evaluation. Given pairs have been located.
func loadCorpus(c *Config) (*corpus, error) {
	s := &corpus{}
	if c.Task.Name != "" { // which has no files but those that a finished run is measured on
		var err error
		if s, err = taskCorpus(c); err != nil {
			return nil, err
		}
	}
	for _, f := range []struct {
		key, path string
		into      *[]data.Prompt
	}{{"train", c.Prompts.Train, &s.train}, {"sft", c.Prompts.SFT, &s.sft}, {"eval", c.Prompts.Eval, &s.eval}, {"test", c.Prompts.Test, &s.test}} {
		if f.path == "" {
			continue
		}
		prompts, err := data.LoadPrompts(f.path)
		if err != nil {
			return nil, fmt.Errorf("prompts.%s: %w", f.key, err)
		}
		*f.into = prompts
	}
	if n := c.Prompts.TrainN; n > 0 && n < len(s.train) {
		s.train = s.train[:n]
	}
	if s.sft == nil {
		s.sft = s.train
	}
	var given []data.Prompt
	if c.Prompts.Eval+c.Prompts.Test != "" {
		var err error
		if given, err = c.givenPrompts(); err != nil {
			return nil, err
		}
	}
	for _, f := range []struct {
		key, path string
		into      *[]data.Prompt
	}{{"eval", c.Prompts.Eval, &s.eval}, {"test", c.Prompts.Test, &s.test}} {
		if f.path == "" {
			continue
		}
		if err := s.checkLeakage(c.Prompts.Leakage, f.key, f.into, given); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(*f.into, func(p data.Prompt) bool { return p.Reference == "" }); i >= 0 {
			return nil, fmt.Errorf("prompts.%s: prompt %s has no reference text to be compared with", f.key, (*f.into)[i].ID)
		}
		if n := c.Eval.N; n > 0 && n < len(*f.into) {
			*f.into = (*f.into)[:n]
		}
	}
	return s, nil
}

func taskCorpus(c *Config) (*corpus, error) {
	t, err := tasks.Get(c.Task.Name)
	if err != nil {
		return nil, fmt.Errorf("task.name: %w", err)
	}
	n := c.Eval.N
	if n == 0 {
		n = 200
	}
	s := &corpus{gold: t.Reward, words: t.Words()}
	for _, f := range []struct {
		split string
		n     int
		into  *[]data.Prompt
	}{{"sft", c.Task.SFTN, &s.sft}, {"train", c.Task.TrainN, &s.train}, {"dev", n, &s.eval}, {"test", n, &s.test}} {
		if *f.into, err = t.Prompts(f.n, c.Task.Seed, f.split); err != nil {
			return nil, fmt.Errorf("task: %w", err)
		}
	}
	return s, nil
}

// givenPrompts are the prompts of the pairs that a located data or mix.pairs names, to look for leakage.
func (c *Config) givenPrompts() (out []data.Prompt, err error) {
	path := cmp.Or(c.OfflinePath(), c.Mix.Pairs)
	if path == "" || c.Prompts.Leakage == "allow" {
		return nil, nil
	}
	for p, err := range bpo.GivenPairs(path) {
		if err != nil {
			return nil, err
		}
		out = append(out, data.Prompt{Prompt: p.Prompt})
	}
	return out, nil
}

// checkLeakage finds evaluation prompts that are also trained on, those of given pairs among them, and does what prompts.leakage
// says.
func (s *corpus) checkLeakage(rule, key string, eval *[]data.Prompt, given []data.Prompt) error {
	if rule == "allow" || len(*eval) == 0 {
		return nil
	}
	train := slices.Concat(s.train, s.sft, given)
	leak := data.Leakage(*eval, train)
	if leak.Prompts == 0 {
		return nil
	}
	if rule == "error" {
		return fmt.Errorf("prompts.%s: %d of %d prompts are also trained on, such as %q; set prompts.leakage to drop or allow, or evaluate on held-out prompts", key, leak.Prompts, leak.Of, clip(leak.Example, 60))
	}
	trained := make(map[string]bool, len(train))
	for _, p := range train {
		trained[p.Prompt] = true
	}
	before := len(*eval)
	*eval = slices.DeleteFunc(*eval, func(p data.Prompt) bool { return trained[p.Prompt] })
	s.dropped += before - len(*eval)
	if len(*eval) == 0 {
		return fmt.Errorf("prompts.%s: every prompt is also trained on", key)
	}
	return nil
}

// clip shortens a text to n runes for a message.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// hash identifies the texts, for the manifest: a file that changes under a run's name is noticed.
func (s *corpus) hash() (map[string]string, error) {
	out := map[string]string{}
	for name, set := range map[string][]data.Prompt{"prompts/sft": s.sft, "prompts/train": s.train, "prompts/eval": s.eval, "prompts/test": s.test} {
		if len(set) == 0 {
			continue
		}
		texts := make([]string, 0, 2*len(set))
		for _, p := range set {
			texts = append(texts, p.Prompt, p.Reference)
		}
		out[name] = fmt.Sprintf("%s (%d)", data.ID(texts...), len(set))
	}
	return out, nil
}

// tokenise renders prompts through the model's chat template where it has one, and keeps the last limit tokens.
func tokenise(m *models.Model, useTemplate string, prompts []data.Prompt, limit int) (out []bpo.Prompt, cut int, err error) {
	out = make([]bpo.Prompt, len(prompts))
	for i, p := range prompts {
		out[i] = bpo.Prompt{ID: p.ID, Text: p.Prompt, Reference: p.Reference, Messages: p.Messages}
		ids, err := encodePrompt(m, useTemplate, p.Prompt, p.Messages)
		if err != nil {
			return nil, 0, fmt.Errorf("prompt %s: %w", p.ID, err)
		}
		if len(ids) == 0 {
			return nil, 0, fmt.Errorf("prompt %s has no tokens", p.ID)
		}
		if len(ids) > limit {
			ids, cut = ids[len(ids)-limit:], cut+1
		}
		out[i].Tokens = ids
	}
	return out, cut, nil
}

// encodePrompt gives the ids of a prompt as the policy is trained on it: its conversation, or what data.Conversation finds in its
// text, through the model's chat template where it has one and useTemplate is auto; plain otherwise.
func encodePrompt(m *models.Model, useTemplate, text string, conversation []data.Message) ([]int32, error) {
	if m.ChatTemplate == "" || useTemplate != "auto" {
		return m.Tokenizer.EncodePrompt(text), nil
	}
	if len(conversation) == 0 {
		conversation = data.Conversation(text)
	}
	messages := make([]chat.Message, len(conversation))
	for i, msg := range conversation {
		messages[i] = chat.Message{Role: msg.Role, Content: msg.Content}
	}
	return chat.Encode(m.Tokenizer, m.ChatTemplate, messages, true)
}

// turnEnd is what ends a completion: in the model's chat template the special token that ends the assistant's turn, such as
// <end_of_turn>; the tokenizer's EOS without a template, or where that ends no turn.
func turnEnd(m *models.Model, useTemplate string) int32 {
	t := m.Tokenizer
	if m.ChatTemplate == "" || useTemplate != "auto" {
		return t.EOS()
	}
	const said = "5e3a1c"
	bos := ""
	if id, ok := t.BOS(); ok {
		bos = t.Spelling(id)
	}
	text, err := chat.Render(m.ChatTemplate, []chat.Message{{Role: "user", Content: "?"}, {Role: "assistant", Content: said}}, false, bos, t.Spelling(t.EOS()))
	_, rest, found := strings.Cut(text, said)
	if err != nil || !found {
		return t.EOS()
	}
	controls := t.Controls()
	for _, id := range t.Encode(rest) {
		if slices.Contains(controls, t.Spelling(id)) {
			return id
		}
	}
	return t.EOS()
}
