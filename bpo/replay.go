package bpo

import (
	"context"
	"fmt"
	"maps"

	"gobpo/data"
)

// keep joins a phase's pairs with earlier ones that later steps still draw from. What a resumed run does not hold any more
// is read back.
func (c *collector) keep(ctx context.Context, old, fresh map[int][]*data.Preference, phase int, behavior versioned, ref *reference) (map[int][]*data.Preference, error) {
	k := c.cfg.K()
	oldest := phase*k - c.cfg.Replay + 1 // step
	if c.cfg.Replay == 0 || oldest >= phase*k || phase == 0 {
		return fresh, nil
	}
	all := map[int][]*data.Preference{}
	if old == nil {
		for p := max(0, oldest) / k; p < phase; p++ {
			rows, _, err := c.phase(ctx, p, p*k, (p+1)*k, behavior, ref)
			if err != nil {
				return nil, fmt.Errorf("replay: %w", err)
			}
			maps.Copy(all, rows)
		}
	}
	maps.Copy(all, old)
	maps.DeleteFunc(all, func(step int, _ []*data.Preference) bool { return step < oldest })
	maps.Copy(all, fresh)
	return all, nil
}
