package data

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Reasons a well-formed row is counted and left out of an import.
const (
	SkipEmptyPrompt = "the prompt is empty"
	SkipIdentical   = "chosen and rejected are identical"
	SkipEmpty       = "a completion is empty"
	SkipNoPrompt    = "no prompt: the two texts share no complete turn"
	SkipDiverged    = "the conversations diverge before the last reply"
	SkipNoReply     = "the prompt is not followed by exactly one assistant reply"
)

// Layouts are the row shapes an import understands; "auto" picks one by a
// file's first row. docs/data.md shows each.
var Layouts = []string{"auto", "prompts", "preferences", "prompt-label", "prompt-completion", "prompt-only", "messages", "trl", "hh"}

// knownKeys are the keys, or Parquet columns, that some layout reads.
var knownKeys = func() map[string]bool {
	m := map[string]bool{}
	for _, k := range []string{
		"id", "prompt", "label", "reference", "completion", "messages", "chosen", "rejected", "prompt_id",
		"prompt_ids", "chosen_ids", "rejected_ids", "chosen_score", "rejected_score", "score_chosen", "score_rejected",
		"chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps", "annotator", "behavior_version", "phase", "step",
	} {
		m[k] = true
	}
	return m
}()

// detect names the layout of a row by its keys and values.
func detect(r rawRow) (string, error) {
	has := func(k string) bool { return r.fields[k] != nil }
	switch {
	case has("chosen") && has("rejected"):
		c, err := r.text("chosen")
		j, _ := r.text("rejected")
		if _, isText := r.text("prompt"); err == nil && isText == nil && (has("prompt_id") || has("chosen_ids") || has("behavior_version")) {
			return "preferences", nil
		}
		if p, _ := r.text("prompt"); p == "" && isTranscript(c) && isTranscript(j) {
			return "hh", nil
		}
		return "trl", nil
	case has("prompt") && has("label"):
		return "prompt-label", nil
	case has("prompt") && has("completion"):
		return "prompt-completion", nil
	case has("prompt") && (has("reference") || has("id")):
		return "prompts", nil
	case has("prompt"):
		return "prompt-only", nil
	case has("messages"):
		return "messages", nil
	}
	return "", fmt.Errorf("%s: no layout has the keys %s (known: prompt,label · prompt,completion · prompt · messages · [prompt,]chosen,rejected)", r.at, keyList(r.fields))
}

// unread is an error where the layout that the first row shows would pass over the row's reference: the first may have none.
func (r rawRow) unread(layout string) error {
	if layout != "prompt-only" && (layout != "prompts" || r.fields["reference"] != nil) {
		return nil
	}
	for _, k := range []string{"reference", "label", "completion"} {
		if raw := r.fields[k]; raw != nil && string(raw) != "null" {
			return fmt.Errorf("%s: key %q would not be read: the file's first row lacks it (layout %s); give it to every row, if only as null", r.at, k, layout)
		}
	}
	return nil
}

func keyList(fields map[string]json.RawMessage) string {
	var keys []string
	for k := range fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if len(keys) > 12 {
		keys = append(keys[:12], "…")
	}
	return "{" + strings.Join(keys, ", ") + "}"
}

// text is the string at key; "" if the key is absent or null.
func (r rawRow) text(key string) (string, error) {
	raw := r.fields[key]
	if raw == nil || string(raw) == "null" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%s: key %q is not text", r.at, key)
	}
	return s, nil
}

// id is the key "id" as text; data sets number their rows too.
func (r rawRow) id() (string, error) {
	if raw := r.fields["id"]; len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9') {
		return string(raw), nil
	}
	return r.text("id")
}

// need is text, but the key must be there.
func (r rawRow) need(key string) (string, error) {
	if r.fields[key] == nil {
		return "", fmt.Errorf("%s: no key %q", r.at, key)
	}
	return r.text(key)
}

// messages is the message list at key; ok is false where it holds text.
func (r rawRow) messages(key string) (msgs []Message, ok bool, err error) {
	msgs, ok, err = decodeMessages(r.fields[key])
	if err != nil {
		return nil, ok, fmt.Errorf("%s: key %q: %w", r.at, key, err)
	}
	return msgs, ok, nil
}

// decode fills a record of ours from a row that has its keys.
func (r rawRow) decode(into any) error {
	b, err := json.Marshal(r.fields)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.at, err)
	}
	return nil
}
