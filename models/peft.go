package models

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"gobpo/internal/atomicfile"
	"gobpo/models/weights"
)

const peftPrefix = "base_model.model."

// Files of a PEFT directory.
const adapterConfigFile, adapterWeightsFile = "adapter_config.json", "adapter_model.safetensors"

// peftConfig is the part of adapter_config.json that is understood.
type peftConfig struct {
	Type         string             `json:"peft_type"`
	Task         string             `json:"task_type"`
	Base         string             `json:"base_model_name_or_path,omitempty"`
	Inference    bool               `json:"inference_mode"`
	Rank         int                `json:"r"`
	Alpha        float64            `json:"lora_alpha"`
	Dropout      float64            `json:"lora_dropout"`
	Targets      nameSet            `json:"target_modules"`
	Exclude      nameSet            `json:"exclude_modules,omitzero"`
	Layers       ints               `json:"layers_to_transform,omitempty"`
	LayerNames   nameSet            `json:"layers_pattern,omitzero"`
	Saved        []string           `json:"modules_to_save,omitempty"`
	RankPattern  map[string]int     `json:"rank_pattern"`
	AlphaPattern map[string]float64 `json:"alpha_pattern"`
	RSLoRA       bool               `json:"use_rslora"`
	Bias         string             `json:"bias"`
	FanInOut     bool               `json:"fan_in_fan_out"` // how the base stores its weights, which it knows itself
}

// peftPlain are the keys that may hold something; every other one must be null, false or empty.
var peftPlain = []string{"peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules",
	"exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "fan_in_fan_out",
	"init_lora_weights", "loftq_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "auto_mapping"}

// nameSet is a list of names in PEFT's JSON, or one string: a regular expression.
type nameSet struct {
	list []string
	text string
}

func (s *nameSet) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, &s.text)
	}
	return json.Unmarshal(raw, &s.list)
}

func (s nameSet) MarshalJSON() ([]byte, error) {
	if s.list == nil {
		return json.Marshal(s.text)
	}
	return json.Marshal(s.list)
}

// IsZero says that nothing is named.
func (s nameSet) IsZero() bool { return len(s.list) == 0 && s.text == "" }

// has says whether a module is meant: by its path or the end of it, or by an expression for the whole path.
func (s nameSet) has(path string) (exact, ok bool) {
	if s.list == nil {
		re, err := pattern(s.text)
		return false, s.text != "" && err == nil && fits(re, path)
	}
	return slices.Contains(s.list, path), slices.ContainsFunc(s.list, func(n string) bool { return strings.HasSuffix("."+path, "."+n) })
}

// ints is a list of numbers in JSON, or one.
type ints []int

func (n *ints) UnmarshalJSON(raw []byte) error {
	if raw[0] != '[' && string(raw) != "null" {
		raw = slices.Concat([]byte{'['}, raw, []byte{']'})
	}
	return json.Unmarshal(raw, (*[]int)(n))
}

// LoadAdapter reads a PEFT LoRA directory (adapter_config.json, adapter_model.safetensors) for a model of this
// configuration, as float32. Variants that change the computation (DoRA, biases, other layers, …) are refused by name.
func LoadAdapter(dir string, c Config) (*Adapter, error) {
	p, err := readPEFT(dir)
	if err != nil {
		return nil, err
	}
	if p.reward() != c.Reward {
		return nil, fmt.Errorf("load adapter %s: task_type is %s; a reward model's is %s, a policy's is not", dir, p.Task, rewardTask)
	}
	a := &Adapter{Weights: Weights{}}
	if a.LoRA, err = p.lora(c); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, adapterConfigFile), err)
	}
	file, err := weights.Open(filepath.Join(dir, adapterWeightsFile))
	if errors.Is(err, fs.ErrNotExist) {
		for name, why := range map[string]string{
			"adapter_model.bin":                "is a pickle, which can run code, and is not read; load it with peft and save_pretrained it anew",
			adapterWeightsFile + ".index.json": "makes a sharded adapter, which is not supported; save it in one file",
		} {
			if _, statErr := os.Stat(filepath.Join(dir, name)); statErr == nil {
				return nil, fmt.Errorf("load adapter %s: no %s; %s %s", dir, adapterWeightsFile, name, why)
			}
		}
	}
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

// AdapterBase is the model that a PEFT directory names as its adapter's base, "" if it names none, and whether the
// adapter makes a reward model of it.
func AdapterBase(dir string) (base string, reward bool, err error) {
	p, err := readPEFT(dir)
	return p.Base, p.reward(), err
}

// rewardTask is PEFT's task_type of sequence classifiers.
const rewardTask = "SEQ_CLS"

func (p peftConfig) reward() bool { return p.Task == rewardTask }

// IsAdapter says whether a path is a PEFT directory.
func IsAdapter(path string) bool {
	_, err := os.Stat(filepath.Join(path, adapterConfigFile))
	return err == nil
}

func readPEFT(dir string) (p peftConfig, err error) {
	path := filepath.Join(dir, adapterConfigFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("load adapter: %w", err)
	}
	if p, err = parsePEFT(raw); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return p, err
}

func parsePEFT(raw []byte) (p peftConfig, err error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return p, err
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		v := string(bytes.TrimSpace(keys[key]))
		if v == "null" || v == "false" || emptyJSON.MatchString(v) {
			continue
		}
		if !slices.Contains(peftPlain, key) {
			return p, fmt.Errorf("%s: %.60s is not supported", key, v)
		}
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, err
	}
	if p.Type != "LORA" {
		return p, fmt.Errorf("peft_type: %q is not supported (only LORA)", p.Type)
	}
	if p.Bias != "" && p.Bias != "none" {
		return p, fmt.Errorf("bias: %q is not supported (only none)", p.Bias)
	}
	if p.reward() {
		p.Saved = slices.DeleteFunc(p.Saved, func(m string) bool { return m == "score" || m == "classifier" }) // as PEFT adds to such a task
	}
	if len(p.Saved) > 0 {
		return p, fmt.Errorf("modules_to_save: %q is not supported", p.Saved)
	}
	for key, n := range map[string]int{"rank_pattern": len(p.RankPattern), "alpha_pattern": len(p.AlphaPattern)} {
		if n > 1 && !keysSorted(keys[key]) {
			return p, fmt.Errorf("%s: its keys are not in sorted order, in which PEFT saves them and in which the first that fits counts; save the adapter with peft anew", key)
		}
	}
	return p, nil
}

var emptyJSON = regexp.MustCompile(`^(\{\s*\}|\[\s*\])$`)

// keysSorted says whether the keys of a JSON object with plain values stand in order.
func keysSorted(raw []byte) bool {
	d, last := json.NewDecoder(bytes.NewReader(raw)), ""
	d.Token()
	for d.More() {
		key, err := d.Token()
		name, ok := key.(string)
		if err != nil || !ok || name < last {
			return false
		}
		last = name
		d.Token()
	}
	return true
}

// lora is the description of the adapter on a model of this configuration. Targets that are an expression, or limited to
// some layers, become the paths of the layers they mean.
func (p peftConfig) lora(c Config) (LoRA, error) {
	l := LoRA{Rank: p.Rank, Alpha: p.Alpha, Dropout: p.Dropout, RSLoRA: p.RSLoRA}
	if len(p.RankPattern) > 0 {
		l.RankPattern = p.RankPattern
	}
	if len(p.AlphaPattern) > 0 {
		l.AlphaPattern = p.AlphaPattern
	}
	all := strings.EqualFold(p.Targets.text, AllLinear)
	for key, set := range map[string]nameSet{"target_modules": p.Targets, "exclude_modules": p.Exclude} {
		if _, err := pattern(set.text); err != nil {
			return l, fmt.Errorf("%s: %q is not a regular expression: %w", key, set.text, err)
		}
	}
	if p.Targets.list == nil && len(p.Layers) > 0 {
		return l, fmt.Errorf("layers_to_transform: target_modules must be a list beside it")
	}
	plain := p.Exclude.IsZero() && len(p.Layers) == 0
	switch {
	case p.Targets.IsZero():
		return l, fmt.Errorf("target_modules: empty, name layers or %s", AllLinear)
	case all && plain:
		l.Targets = []string{AllLinear}
		return l, l.Validate()
	case p.Targets.list != nil && plain: // names of other architectures do no harm
		for _, t := range slices.Sorted(slices.Values(p.Targets.list)) {
			if one := (LoRA{Targets: []string{t}}); slices.ContainsFunc(c.Linears(), one.on) {
				l.Targets = append(l.Targets, t)
			}
		}
	default:
		for _, lin := range c.Linears() {
			path := moduleOf(lin.Name)
			exact, ok := p.Targets.has(path)
			if _, no := p.Exclude.has(path); !no && (all || exact || ok && p.inLayers(path)) {
				l.Targets = append(l.Targets, path)
			}
		}
	}
	if len(l.Targets) == 0 {
		return l, fmt.Errorf("target_modules: none of the %s model's layers is meant by %s%s", c.Architecture, p.Targets.text, abbreviate(p.Targets.list))
	}
	return l, l.Validate()
}

var layerIndex = regexp.MustCompile(`\.([^.]*)\.(\d+)\.`)

// inLayers says whether a module lies in one of layers_to_transform; any, if that is empty.
func (p peftConfig) inLayers(path string) bool {
	if len(p.Layers) == 0 {
		return true
	}
	found := layerIndex.FindStringSubmatch("." + path)
	if found == nil {
		return false
	}
	if names := append(p.LayerNames.list, p.LayerNames.text); !p.LayerNames.IsZero() && !slices.Contains(names, found[1]) {
		return false
	}
	layer, err := strconv.Atoi(found[2])
	return err == nil && slices.Contains(p.Layers, layer)
}

// Save writes the adapter as a PEFT directory. base is the model that it says it belongs to; "" names none.
func (a *Adapter) Save(dir, base string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	l := a.LoRA
	p := peftConfig{Type: "LORA", Task: "CAUSAL_LM", Base: base, Inference: true, Rank: l.Rank, Alpha: l.Alpha, Dropout: l.Dropout,
		Targets: nameSet{list: l.Targets}, RankPattern: l.RankPattern, AlphaPattern: l.AlphaPattern, RSLoRA: l.RSLoRA, Bias: "none"}
	if a.Weights[RewardHead] != nil {
		p.Task, p.Saved = rewardTask, []string{"classifier", "score"}
	}
	if slices.Contains(l.Targets, AllLinear) {
		p.Targets = nameSet{text: AllLinear}
	}
	if p.RankPattern == nil {
		p.RankPattern = map[string]int{}
	}
	if p.AlphaPattern == nil {
		p.AlphaPattern = map[string]float64{}
	}
	named := Weights{}
	for name, t := range a.Weights {
		named[peftPrefix+name] = t
		p.FanInOut = p.FanInOut || storedTransposed(name)
	}
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("save adapter %s: %w", dir, err)
	}
	defer named.dropHostCopies()
	if err := weights.Write(filepath.Join(dir, adapterWeightsFile), named, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, adapterConfigFile), append(raw, '\n')); err != nil { // last: it says that an adapter is here
		return fmt.Errorf("save adapter: %w", err)
	}
	return nil
}
