package experiments

import (
	"reflect"
	"testing"
)

func TestSpent(t *testing.T) {
	annotated := []point{{x: 1, y: 64}, {x: 5, y: 32}}
	evaluated := []point{{x: 0, y: 0.2}, {x: 2, y: 0.3}, {x: 4, y: 0.4}, {x: 6, y: 0.5}, {x: 8, y: 0.6}}
	want := []point{{x: 64, y: 0.4}, {x: 96, y: 0.6}}
	if got := spent(annotated, evaluated); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func tableOf(keys []string, points ...map[string]any) Table {
	t := Table{Keys: keys}
	for i, p := range points {
		rate := 0.5
		t.Rows = append(t.Rows, Row{Point: p, Method: "m", Seeds: 1, Runs: []string{string(rune('a' + i))}, Cells: map[string]Cell{"eval/win_rate": {Mean: &rate}}})
	}
	return t
}

// A few losses have a panel each, so that the references within each can be told apart and held to its on-policy line.
func TestPanelsOfLosses(t *testing.T) {
	dpo, ipo := map[string]any{"name": "dpo", "beta": 0.1}, map[string]any{"name": "ipo", "beta": 1.0}
	table := tableOf([]string{"refresh", "reference", "loss"},
		map[string]any{"refresh": 2, "reference": "behavior", "loss": dpo}, map[string]any{"refresh": 40, "reference": "sft", "loss": dpo},
		map[string]any{"refresh": 2, "reference": "behavior", "loss": ipo}, map[string]any{"refresh": 40, "reference": "sft", "loss": ipo})
	l := layoutOf(table)
	if l.panelKey != "loss" || len(l.panels) != 2 || len(l.arms) != 2 {
		t.Fatalf("%+v", l)
	}
	f := winRateOverF(table, l, map[string]bool{"b": true, "d": true})
	if len(f.panels) != 2 {
		t.Fatalf("%d panels", len(f.panels))
	}
	for _, p := range f.panels {
		lines := 0
		for _, s := range p.series {
			if s.dash == 2 {
				lines++
			}
		}
		if lines != 1 {
			t.Errorf("%s: %d on-policy lines", p.title, lines)
		}
	}
	if got := fileName("loss-" + l.panels[1]); got != "loss-ipo-beta-1" {
		t.Errorf("file name %q", got)
	}
	// Losses alone are arms of one panel; so are many.
	if l := layoutOf(tableOf([]string{"loss"}, map[string]any{"loss": dpo}, map[string]any{"loss": ipo})); l.panelKey != "" || len(l.arms) != 2 {
		t.Errorf("%+v", l)
	}
	var many []map[string]any
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		many = append(many, map[string]any{"loss.name": name, "reference": "sft"})
	}
	if l := layoutOf(tableOf([]string{"loss.name", "reference"}, many...)); l.panelKey != "" || len(l.arms) != 5 {
		t.Errorf("%+v", l)
	}
}
