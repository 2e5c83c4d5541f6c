package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gobpo/models/tokenizer"
)

// optional reads a file that may be absent: nil then.
func optional(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	return raw, nil
}

// loadTokenizer reads tokenizer.json or else a SentencePiece model, tokenizer_config.json and the chat template; a
// directory may have none of them.
func (m *Model) loadTokenizer(dir string) error {
	var raw []byte
	var err error
	for _, kind := range []struct {
		name string
		read func([]byte) (*tokenizer.Tokenizer, error)
	}{
		{"tokenizer.json", tokenizer.FromHF},
		{"tokenizer.model", tokenizer.FromSentencePiece},
		{"spiece.model", tokenizer.FromSentencePiece},
	} {
		path := filepath.Join(dir, kind.name)
		if raw, err = optional(path); err != nil {
			return err
		}
		if raw == nil {
			continue
		}
		if m.Tokenizer, err = kind.read(raw); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		break
	}
	if m.Tokenizer == nil {
		return noTokenizer(dir)
	}
	path := filepath.Join(dir, "tokenizer_config.json")
	if raw, err = optional(path); err != nil {
		return err
	}
	if raw != nil {
		if err := m.Tokenizer.Configure(raw); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if m.ChatTemplate, err = chatTemplate(raw); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	raw, err = optional(filepath.Join(dir, "chat_template.jinja")) // newer than the field, and goes before it
	if raw != nil {
		m.ChatTemplate = string(raw)
	}
	return err
}

// noTokenizer refuses a directory whose tokenizer is in a form that is not read; one that has none at all is in order.
func noTokenizer(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "vocab.json")); err == nil {
		return fmt.Errorf(`%s: there is vocab.json but no tokenizer.json; make it: python -c "from transformers import AutoTokenizer as T; T.from_pretrained('%s').save_pretrained('%s')"`,
			dir, dir, dir)
	}
	return nil
}

// chatTemplate is tokenizer_config.json's chat_template: a string, or a list of named ones, of which "default" counts,
// or the only one. Empty if there is none.
func chatTemplate(tokenizerConfig []byte) (string, error) {
	var c struct {
		ChatTemplate json.RawMessage `json:"chat_template"`
	}
	if err := json.Unmarshal(tokenizerConfig, &c); err != nil {
		return "", err
	}
	if c.ChatTemplate == nil || string(c.ChatTemplate) == "null" {
		return "", nil
	}
	var one string
	if json.Unmarshal(c.ChatTemplate, &one) == nil {
		return one, nil
	}
	var named []struct{ Name, Template string }
	if err := json.Unmarshal(c.ChatTemplate, &named); err != nil {
		return "", errors.New("chat_template: neither a string nor a list of {name, template}")
	}
	var names []string
	for _, t := range named {
		if t.Name == "default" || len(named) == 1 {
			return t.Template, nil
		}
		names = append(names, t.Name)
	}
	return "", fmt.Errorf("chat_template: of %s none is named default; put the one to use into chat_template.jinja", strings.Join(names, ", "))
}

// generation is the part of generation_config.json that is used. Its sampling defaults (temperature, top_p, …) are not
// taken: a run samples as its configuration says.
type generation struct {
	EOS tokenIDs `json:"eos_token_id,omitempty"`
}

// tokenIDs is one id or a list of them.
type tokenIDs []int32

func (ids *tokenIDs) UnmarshalJSON(raw []byte) error {
	var one int32
	if json.Unmarshal(raw, &one) == nil && string(raw) != "null" {
		*ids = tokenIDs{one}
		return nil
	}
	var many []int32
	if err := json.Unmarshal(raw, &many); err != nil {
		return fmt.Errorf("%.60s is neither a token id nor a list of them", raw)
	}
	*ids = many
	return nil
}

// loadGeneration takes the ids that end a completion from generation_config.json or, as transformers does where that
// file is absent, from config.json.
func (m *Model) loadGeneration(dir string, config []byte) error {
	path := filepath.Join(dir, "generation_config.json")
	raw, err := optional(path)
	if err != nil {
		return err
	}
	if raw == nil {
		path, raw = filepath.Join(dir, "config.json"), config
	}
	var g generation
	if err := json.Unmarshal(raw, &g); err != nil {
		return fmt.Errorf("%s: eos_token_id: %w", path, err)
	}
	m.EOS = slices.Compact(slices.Sorted(slices.Values(g.EOS)))
	return nil
}

// hint says what to do about a directory that lacks what a model needs.
func hint(dir string) string {
	has := func(pattern string) bool {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		return len(found) > 0
	}
	const save = `: python -c "from transformers import AutoModelForCausalLM as M; M.from_pretrained('%s').save_pretrained('%s')"`
	switch {
	case has("adapter_config.json"):
		return "; this is an adapter's directory: bpo export makes a model of it and its base, as in bpo export " + dir + " -o model"
	case has("pytorch_model*.bin"):
		return "; pytorch_model.bin is a pickle, which can run code, and is not read; convert it" + fmt.Sprintf(save, dir, dir)
	case has("*.gguf"):
		return "; to use a GGUF file, name the file itself"
	case has("*.safetensors"):
		return "; of several .safetensors files, model.safetensors.index.json says what is where; make it" + fmt.Sprintf(save, dir, dir)
	}
	return ""
}
