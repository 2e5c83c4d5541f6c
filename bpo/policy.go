package bpo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/gomlx/core/tensors"
	"gobpo/models"
	"gobpo/models/weights"
)

// SavePolicy writes a policy's own tensors (adapter and overrides, not the base) to one safetensors file, atomically.
func SavePolicy(path string, p models.Policy) error {
	set := models.Weights{}
	for name, t := range p.Override {
		set[overridePrefix+name] = t
	}
	if p.Adapter != nil {
		for name, t := range p.Adapter.Weights {
			set[adapterPrefix+name] = t
		}
	}
	return writeSet(path, set, policyMeta(p.Name, p.Adapter))
}

// Prefixes of a policy's tensors in its file.
const overridePrefix, adapterPrefix = "override.", "adapter."

func policyMeta(name string, a *models.Adapter) map[string]string {
	meta := map[string]string{"name": name}
	if a != nil {
		lora, err := json.Marshal(a.LoRA)
		if err != nil {
			panic(err) // a struct of numbers and names
		}
		meta["lora"] = string(lora)
	}
	return meta
}

// SavedPolicy is an open file of SavePolicy's: the adapter is read, the overrides, which may be a whole model, are not.
type SavedPolicy struct {
	Name    string
	Adapter *models.Adapter // nil if there is none
	file    *weights.File
}

// OpenPolicy opens what SavePolicy wrote, and checks every tensor's name and shape against the model.
func OpenPolicy(path string, c models.Config) (_ *SavedPolicy, err error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	p := &SavedPolicy{Name: f.Metadata()["name"], file: f}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if lora, ok := f.Metadata()["lora"]; ok {
		p.Adapter = &models.Adapter{Weights: models.Weights{}}
		if err := json.Unmarshal([]byte(lora), &p.Adapter.LoRA); err != nil {
			return nil, fmt.Errorf("%s: metadata lora: %w", path, err)
		}
	}
	dims := c.Shapes()
	for _, name := range f.Names() {
		shape, _ := f.Info(name)
		if rest, ok := strings.CutPrefix(name, overridePrefix); ok {
			if want, known := dims[rest]; !known || !slices.Equal(want, shape.Dimensions) {
				return nil, fmt.Errorf("%s: tensor %s %v does not fit the model", path, rest, shape.Dimensions)
			}
		} else if rest, ok := strings.CutPrefix(name, adapterPrefix); ok && p.Adapter != nil {
			if p.Adapter.Weights[rest], err = f.Tensor(name); err != nil {
				return nil, err
			}
		} else {
			return nil, fmt.Errorf("%s: unexpected tensor %s", path, name)
		}
	}
	if p.Adapter != nil {
		if err := p.Adapter.Check(c); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return p, nil
}

// Overrides lists the weights that the policy has instead of its base's.
func (p *SavedPolicy) Overrides() []string {
	var names []string
	for _, name := range p.file.Names() {
		if rest, ok := strings.CutPrefix(name, overridePrefix); ok {
			names = append(names, rest)
		}
	}
	return names
}

// Override reads one of them as it is.
func (p *SavedPolicy) Override(name string) (*tensors.Tensor, error) {
	return p.file.Tensor(overridePrefix + name)
}

// Over gives the policy's weights over those of its base.
func (p *SavedPolicy) Over(base models.Reader) models.Reader {
	own := func(name string, flat []float32) error {
		if _, ok := p.file.Info(overridePrefix + name); ok {
			return p.file.Read(overridePrefix+name, flat)
		}
		return base(name, flat)
	}
	if p.Adapter == nil {
		return own
	}
	return p.Adapter.Over(own)
}

// Close closes the file; the adapter stays.
func (p *SavedPolicy) Close() error { return p.file.Close() }

// LoadPolicy reads what SavePolicy wrote, over a base.
func LoadPolicy(path string, m *models.Model) (models.Policy, error) {
	p := models.Policy{Base: m.Base, Override: models.Weights{}}
	f, err := OpenPolicy(path, m.Config)
	if err != nil {
		return p, err
	}
	defer f.Close()
	p.Name, p.Adapter = f.Name, f.Adapter
	for _, name := range f.Overrides() {
		if p.Override[name], err = f.Override(name); err != nil {
			return p, err
		}
	}
	return p, nil
}
