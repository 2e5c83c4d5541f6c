package experiments

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
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

// A legend of any length stands above the data.
func TestLegendIsAboveTheData(t *testing.T) {
	for _, n := range []int{1, 3, 6, 10, 14, 24} {
		f := figure{}
		p := panel{title: "β = 0.1", x: "F", y: "win rate", ticks: []string{"1", "2"}, legend: true, rate: true, lines: map[string]float64{parLine: 0.5}}
		for i := range n {
			p.series = append(p.series, series{name: "an arm", hue: i, dash: i / len(palette), marks: true, points: []point{{x: 0, y: 0.3, half: 0.02}, {x: 1, y: 0.7, half: 0.1}}})
		}
		f.panels = []panel{p}
		p = shareY(f).panels[0]
		pl, err := p.plot()
		if err != nil {
			t.Fatal(err)
		}
		canvas := pl.DataCanvas(draw.New(vgsvg.New(p.size())))
		legend := pl.Legend.Rectangle(canvas)
		_, y := pl.Transforms(&canvas)
		if top := y(0.8); top > legend.Min.Y {
			t.Errorf("%d series: the data reach up to %.0f, the legend down to %.0f", n, top, legend.Min.Y)
		}
		if legend.Max.Y > canvas.Max.Y {
			t.Errorf("%d series: the legend reaches up to %.0f, the canvas to %.0f", n, legend.Max.Y, canvas.Max.Y)
		}
	}
}

// Arms of a study without F stand by their names.
func TestArmsByName(t *testing.T) {
	var points []map[string]any
	for i := range 14 {
		points = append(points, map[string]any{"loss": map[string]any{"name": "dpo", "beta": float64(i), "note": strings.Repeat("long ", 4*(i%5))}})
	}
	table := tableOf([]string{"loss"}, points...)
	for i := range table.Rows {
		rate, half := 0.3+0.03*float64(i), 0.03
		table.Rows[i].Cells["eval/win_rate"] = Cell{Mean: &rate, Half: &half}
	}
	f := winRateOverF(table, layoutOf(table), nil)
	pl, err := f.panels[0].plot()
	if err != nil {
		t.Fatal(err)
	}
	if ticks := pl.Y.Tick.Marker.Ticks(pl.Y.Min, pl.Y.Max); len(ticks) != 14 || !strings.HasPrefix(ticks[13].Label, "loss = dpo(beta=0,") {
		t.Errorf("%v", ticks)
	}
	if pl.X.Min > 0.27 || pl.X.Max < 0.72 {
		t.Errorf("win rates from %g to %g", pl.X.Min, pl.X.Max)
	}
	if err := f.save(filepath.Join(t.TempDir(), "arms"), 2); err != nil {
		t.Fatal(err)
	}
}
