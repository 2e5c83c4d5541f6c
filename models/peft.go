package models

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"gobpo/internal/atomicfile"
	"gobpo/models/weights"
)

const peftPrefix = "base_model.model."

type peftConfig struct {
	Type     string  `json:"peft_type"`
	Task     string  `json:"task_type"`
	Rank     int     `json:"r"`
	Alpha    float64 `json:"lora_alpha"`
	Dropout  float64 `json:"lora_dropout"`
	Targets  any     `json:"target_modules"` // a list, or the string "all-linear"
	Bias     string  `json:"bias"`
	FanInOut bool    `json:"fan_in_fan_out"`
}

// peftPlain are the keys of a PEFT configuration that may hold anything; every other key must be null, false or empty.
var peftPlain = []string{"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "base_model_name_or_path",
	"inference_mode", "init_lora_weights", "loftq_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "auto_mapping",
	"fan_in_fan_out"} // the last: how the base stores its weights, which it knows itself

// LoadAdapter reads a PEFT LoRA directory (adapter_config.json, adapter_model.safetensors) for a model of this
// configuration, as float32. Variants that change the computation (DoRA, rank patterns, …) are refused by name.
func LoadAdapter(dir string, c Config) (*Adapter, error) {
	path := filepath.Join(dir, "adapter_config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load adapter: %w", err)
	}
	a := &Adapter{Weights: Weights{}}
	if a.LoRA, err = parsePEFT(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file, err := weights.Open(filepath.Join(dir, "adapter_model.safetensors"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	host := &placer{dtype: dtypes.Float32}
	for _, name := range file.Names() {
		shape, _ := file.Info(name)
		t, err := host.place(shape.Dimensions, func(flat any) error { return file.Read(name, flat) })
		if err != nil {
			a.Weights.Finalize()
			return nil, err
		}
		a.Weights[strings.TrimPrefix(name, peftPrefix)] = t
	}
	if err := a.Check(c); err != nil {
		a.Weights.Finalize()
		return nil, fmt.Errorf("load adapter %s: %w", dir, err)
	}
	return a, nil
}

func parsePEFT(raw []byte) (LoRA, error) {
	var keys map[string]any
	if err := json.Unmarshal(raw, &keys); err != nil {
		return LoRA{}, err
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		switch v := keys[key].(type) {
		case nil:
			continue
		case bool:
			if !v {
				continue
			}
		case map[string]any:
			if len(v) == 0 {
				continue
			}
		case []any:
			if len(v) == 0 {
				continue
			}
		}
		if !slices.Contains(peftPlain, key) {
			return LoRA{}, fmt.Errorf("%s: %v is not supported", key, keys[key])
		}
	}
	var p peftConfig
	if err := json.Unmarshal(raw, &p); err != nil {
		return LoRA{}, err
	}
	if p.Type != "LORA" {
		return LoRA{}, fmt.Errorf("peft_type: %q is not supported (only LORA)", p.Type)
	}
	if p.Bias != "" && p.Bias != "none" {
		return LoRA{}, fmt.Errorf("bias: %q is not supported (only none)", p.Bias)
	}
	l := LoRA{Rank: p.Rank, Alpha: p.Alpha, Dropout: p.Dropout}
	switch targets := p.Targets.(type) {
	case string:
		l.Targets = []string{targets}
	case []any:
		for _, t := range targets {
			l.Targets = append(l.Targets, fmt.Sprint(t))
		}
	}
	slices.Sort(l.Targets)
	return l, l.Validate()
}

// Save writes the adapter as a PEFT directory.
func (a *Adapter) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	var targets any = a.LoRA.Targets
	if slices.Contains(a.LoRA.Targets, AllLinear) {
		targets = AllLinear
	}
	raw, err := json.MarshalIndent(peftConfig{Type: "LORA", Task: "CAUSAL_LM", Rank: a.LoRA.Rank, Alpha: a.LoRA.Alpha,
		Dropout: a.LoRA.Dropout, Targets: targets, Bias: "none"}, "", "  ")
	if err != nil {
		return fmt.Errorf("save adapter %s: %w", dir, err)
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, "adapter_config.json"), raw); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	named := Weights{}
	for name, t := range a.Weights {
		named[peftPrefix+name] = t
	}
	defer named.dropHostCopies()
	return weights.Write(filepath.Join(dir, "adapter_model.safetensors"), named, map[string]string{"format": "pt"})
}
