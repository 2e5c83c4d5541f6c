// Package data holds the record types of the framework, their Parquet schemas,
// and everything that turns files into records: importers, splits, checks.
// It knows text and numbers, never tensors. docs/data.md describes the formats.
package data

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Message is one turn of a conversation.
type Message struct {
	Role    string `parquet:"role,dict" json:"role"`
	Content string `parquet:"content" json:"content"`
}

// Prompt is a row of schema prompts/v1: a text to complete and, where there is
// one, the human text an evaluation compares with.
type Prompt struct {
	ID        string `parquet:"id" json:"id,omitempty"`
	Prompt    string `parquet:"prompt" json:"prompt"`                 // exactly the text that precedes a completion
	Reference string `parquet:"reference" json:"reference,omitempty"` // "" = none
	// Messages is the prompt as a conversation, for a chat template; empty when
	// the source was plain text. Prompt is then RenderMessages(Messages).
	Messages []Message `parquet:"messages,list" json:"messages,omitempty"`
}

// Preference is a row of schema preferences/v1: two completions of one prompt,
// the better one first, and what is known about how they came to be. Rows
// imported from text have no ids and no log-probabilities.
type Preference struct {
	ID        string    `parquet:"id" json:"id,omitempty"`
	PromptID  string    `parquet:"prompt_id" json:"prompt_id,omitempty"`
	Prompt    string    `parquet:"prompt" json:"prompt"`
	Reference string    `parquet:"reference" json:"reference,omitempty"`
	Messages  []Message `parquet:"messages,list" json:"messages,omitempty"` // of the prompt, as in Prompt
	Chosen    string    `parquet:"chosen" json:"chosen"`
	Rejected  string    `parquet:"rejected" json:"rejected"`

	// Token ids as sampled: completions end with EOS only if it was sampled.
	PromptIDs   []int32 `parquet:"prompt_ids,list" json:"prompt_ids,omitempty"`
	ChosenIDs   []int32 `parquet:"chosen_ids,list" json:"chosen_ids,omitempty"`
	RejectedIDs []int32 `parquet:"rejected_ids,list" json:"rejected_ids,omitempty"`

	ChosenScore   *float64 `parquet:"chosen_score,optional" json:"chosen_score,omitempty"` // nil: the annotator only compares
	RejectedScore *float64 `parquet:"rejected_score,optional" json:"rejected_score,omitempty"`

	// Natural-log probability of every completion token, untempered: under the
	// behavior policy that sampled it, and under the reference policy.
	ChosenLogps      []float32 `parquet:"chosen_logps,list" json:"chosen_logps,omitempty"`
	RejectedLogps    []float32 `parquet:"rejected_logps,list" json:"rejected_logps,omitempty"`
	RefChosenLogps   []float32 `parquet:"ref_chosen_logps,list" json:"ref_chosen_logps,omitempty"`
	RefRejectedLogps []float32 `parquet:"ref_rejected_logps,list" json:"ref_rejected_logps,omitempty"`

	Annotator       string `parquet:"annotator,dict" json:"annotator,omitempty"`
	BehaviorVersion int    `parquet:"behavior_version" json:"behavior_version,omitempty"` // refreshes before this pair was sampled
	Phase           int    `parquet:"phase" json:"phase,omitempty"`                       // 0-based collection phase
	Step            int    `parquet:"step" json:"step,omitempty"`                         // training step the pair is meant for
}

// Completion is a row of schema completions/v1: one sampled text.
type Completion struct {
	ID        string    `parquet:"id" json:"id,omitempty"`
	PromptID  string    `parquet:"prompt_id" json:"prompt_id,omitempty"`
	Prompt    string    `parquet:"prompt" json:"prompt"`
	Reference string    `parquet:"reference" json:"reference,omitempty"`
	Text      string    `parquet:"text" json:"text"`
	PromptIDs []int32   `parquet:"prompt_ids,list" json:"prompt_ids,omitempty"`
	IDs       []int32   `parquet:"ids,list" json:"ids,omitempty"`     // ends with EOS only if Stopped
	Logps     []float32 `parquet:"logps,list" json:"logps,omitempty"` // untempered policy, natural log, per token
	Stopped   bool      `parquet:"stopped" json:"stopped,omitempty"`  // EOS was sampled
	Policy    string    `parquet:"policy,dict" json:"policy,omitempty"`
	Score     *float64  `parquet:"score,optional" json:"score,omitempty"`
	Sample    int       `parquet:"sample" json:"sample,omitempty"` // 0-based index among the prompt's samples
	Step      int       `parquet:"step" json:"step,omitempty"`
}

// Record is a row type with a schema of ours.
type Record interface {
	Prompt | Preference | Completion
}

// Schema is the name and version of T's schema as it stands in a file's
// key-value metadata under SchemaKey: "prompts/v1".
func Schema[T Record]() string {
	var zero T
	switch any(zero).(type) {
	case Prompt:
		return "prompts/v1"
	case Preference:
		return "preferences/v1"
	case Completion:
		return "completions/v1"
	}
	panic(fmt.Sprintf("data: no schema for %T", zero)) // unreachable by Record's type set
}

// SchemaKey is the Parquet key-value metadata key that names a file's schema.
const SchemaKey = "gobpo.schema"

// ID is the content hash that identifies a record made of these texts: 16 hex
// digits of a SHA-256 over the texts and their lengths. A prompt's ID is
// ID(prompt, reference), a preference's ID(prompt, chosen, rejected).
func ID(texts ...string) string {
	h := digest(texts...)
	return hex.EncodeToString(h[:8])
}

// digest is the 16-byte hash used for ids, duplicates and splits. Lengths are
// hashed too, so that moving a character across a boundary changes it.
func digest(texts ...string) (d [16]byte) {
	h := sha256.New()
	var n [8]byte
	for _, t := range texts {
		for i, l := 0, uint64(len(t)); i < 8; i++ {
			n[i] = byte(l >> (8 * i))
		}
		h.Write(n[:])
		h.Write([]byte(t))
	}
	copy(d[:], h.Sum(nil))
	return d
}
