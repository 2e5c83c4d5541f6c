package data

import (
	"encoding/json"
	"fmt"
)

// convertPair reads TRL's preference layouts: chosen and rejected as texts or
// message lists, the prompt as text, as messages, or implicit in a common
// prefix of whole turns. (TRL also cuts an implicit prompt out of plain texts
// at the first differing character, which takes the replies' shared first
// words for prompt; such rows are counted as SkipNoPrompt instead.)
func convertPair(r rawRow) (row, error) {
	p := new(Preference)
	for key, score := range map[string]**float64{"chosen": &p.ChosenScore, "rejected": &p.RejectedScore} {
		var err error
		if *score, err = r.score(key); err != nil {
			return row{}, err
		}
	}
	chosen, chosenList, err := r.messages("chosen")
	if err != nil {
		return row{}, err
	}
	rejected, rejectedList, err := r.messages("rejected")
	if err != nil {
		return row{}, err
	}
	if chosenList != rejectedList {
		return row{}, fmt.Errorf("%s: chosen and rejected must both be text or both be messages", r.at)
	}
	prompt, promptList, err := r.messages("prompt")
	if err != nil {
		return row{}, err
	}
	text := ""
	if !promptList {
		if text, err = r.text("prompt"); err != nil {
			return row{}, err
		}
	}
	if p.ID, err = r.id(); err != nil {
		return row{}, err
	}
	if chosenList {
		return pairOfMessages(p, text, prompt, chosen, rejected), nil
	}
	if p.Chosen, err = r.need("chosen"); err != nil {
		return row{}, err
	}
	if p.Rejected, err = r.need("rejected"); err != nil {
		return row{}, err
	}
	switch {
	case promptList:
		p.Prompt, p.Messages = RenderMessages(prompt), prompt
	case text != "":
		p.Prompt = text
	default:
		var reason string
		if p.Prompt, p.Chosen, p.Rejected, reason = SplitTranscripts(p.Chosen, p.Rejected); reason != "" {
			return row{skip: reason}, nil
		}
	}
	return finishPair(p), nil
}

// pairOfMessages builds a pair from message lists. The lists may repeat the
// prompt (UltraFeedback), follow it, or contain it implicitly.
func pairOfMessages(p *Preference, text string, prompt, chosen, rejected []Message) row {
	switch n := commonTurns(chosen, rejected); {
	case n == len(chosen) && n == len(rejected):
		return row{skip: SkipIdentical}
	case n > 0 && (prompt == nil || commonTurns(prompt, chosen) == len(prompt)):
		prompt = chosen[:n] // implicit or repeated
		chosen, rejected = chosen[n:], rejected[n:]
	case n > 0: // shared turns that follow an explicit prompt
		prompt = append(prompt[:len(prompt):len(prompt)], chosen[:n]...)
		chosen, rejected = chosen[n:], rejected[n:]
	case prompt == nil && text != "":
		prompt = []Message{{Role: "user", Content: text}}
	case prompt == nil:
		return row{skip: SkipNoPrompt}
	}
	if len(chosen) != 1 || len(rejected) != 1 || chosen[0].Role != "assistant" || rejected[0].Role != "assistant" {
		return row{skip: SkipDiverged}
	}
	p.Prompt, p.Messages = RenderMessages(prompt), prompt
	p.Chosen, p.Rejected = chosen[0].Content, rejected[0].Content
	return finishPair(p)
}

// score is chosen_score or, as UltraFeedback calls it, score_chosen.
func (r rawRow) score(side string) (*float64, error) {
	for _, key := range []string{side + "_score", "score_" + side} {
		if raw := r.fields[key]; raw != nil && string(raw) != "null" {
			v := new(float64)
			if err := json.Unmarshal(raw, v); err != nil {
				return nil, fmt.Errorf("%s: key %q is not a number", r.at, key)
			}
			return v, nil
		}
	}
	return nil, nil
}
