package models

import (
	"errors"
	"sync"

	"github.com/gomlx/gomlx/core/tensors"
)

// Replicas keeps copies of base weights on further devices, for scoring and sampling, where each device works on rows of
// its own. The zero value knows one device.
type Replicas struct {
	mu      sync.Mutex
	devices int
	base    map[*tensors.Tensor][]*tensors.Tensor // by the original, one for each further device
}

// Spread has work done by devices 0 to n−1.
func (r *Replicas) Spread(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.devices = n
}

// Each runs work on every device at once, with a policy whose tensors are that device's. Copies of the base stay for the
// next call, those of the policy's own tensors don't.
func (r *Replicas) Each(p Policy, work func(device int, p Policy) error) error {
	r.mu.Lock()
	n := max(1, r.devices)
	policies, own, err := r.copies(p, n)
	r.mu.Unlock()
	defer finalize(own)
	if err != nil {
		return err
	}
	errs := make([]error, n)
	var wait sync.WaitGroup
	for device, p := range policies {
		wait.Go(func() { errs[device] = work(device, p) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (r *Replicas) copies(p Policy, n int) (policies []Policy, own []*tensors.Tensor, err error) {
	policies = append(policies, p)
	for d := 1; d < n; d++ {
		copied := func(w Weights, base bool) (Weights, error) {
			out := make(Weights, len(w))
			for name, t := range w {
				if base {
					if at := r.base[t]; len(at) >= d {
						out[name] = at[d-1]
						continue
					}
				}
				c, err := rowsOf(t, 0, 1)
				if err != nil {
					return nil, err
				}
				Weights{name: t}.dropHostCopies()
				if out[name] = c; !base {
					own = append(own, c)
					continue
				}
				if r.base == nil {
					r.base = map[*tensors.Tensor][]*tensors.Tensor{}
				}
				r.base[t] = append(r.base[t], c)
			}
			return out, nil
		}
		q := p
		under := make(Weights, len(p.Base)) // what is overridden is not needed
		for name, t := range p.Base {
			if p.Override[name] == nil {
				under[name] = t
			}
		}
		if q.Base, err = copied(under, true); err != nil {
			return nil, own, err
		}
		if q.Override, err = copied(p.Override, false); err != nil {
			return nil, own, err
		}
		if p.Adapter != nil {
			a := *p.Adapter
			if a.Weights, err = copied(p.Adapter.Weights, false); err != nil {
				return nil, own, err
			}
			q.Adapter = &a
		}
		policies = append(policies, q)
	}
	return policies, own, nil
}

// Finalize frees the copies.
func (r *Replicas) Finalize() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range r.base {
		finalize(at)
	}
	r.base = nil
}
