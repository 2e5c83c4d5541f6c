package models

import "maps"

// Policy is a named weight set: a frozen base, dense replacements of some of its entries (full-weight training, EMA,
// folded adapters), and at most one adapter. Policies share base tensors; copying the struct copies no weights.
type Policy struct {
	Name     string
	Base     Weights
	Override Weights
	Adapter  *Adapter
}

// Sets gives the two weight sets a compiled function takes: the base with overrides applied, and the adapter
// (empty, not nil, without one). Both share the policy's tensors.
func (p Policy) Sets() (base, adapter Weights) {
	base = p.Base
	if len(p.Override) > 0 {
		base = maps.Clone(p.Base)
		maps.Copy(base, p.Override)
	}
	if p.Adapter == nil {
		return base, Weights{}
	}
	return base, p.Adapter.Weights
}

// LoRA is the adapter's description, zero without an adapter.
func (p Policy) LoRA() LoRA {
	if p.Adapter == nil {
		return LoRA{}
	}
	return p.Adapter.LoRA
}

// Hash identifies the policy's own part (overrides and adapter); the base is hashed by whoever loads it.
func (p Policy) Hash() string {
	own := Weights{}
	maps.Copy(own, p.Override)
	if p.Adapter != nil {
		maps.Copy(own, p.Adapter.Weights)
	}
	return own.Hash()
}
