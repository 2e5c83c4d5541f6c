package experiments

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// point is one mark, with half the width of its interval (0 = none) and a text beside it.
type point struct {
	x, y, half float64
	label      string
}

// series is one line of marks. Hue says which arm, dash which variant of it.
type series struct {
	name      string
	hue, dash int
	marks     bool
	points    []point
}

// panel is one small plot.
type panel struct {
	title, x, y string
	ticks       []string // names of x = 0, 1, 2, …; nil for numbers
	series      []series
	lines       map[string]float64 // horizontal lines by name
	rate        bool               // y is a share
	legend      bool
	byName      bool // one mark a series, which its name stands beside: a forest plot, y runs along the axis below
	// One scale for the panels of a figure: its range, and the entries of the legend that needs room above it.
	yMin, yMax float64
	entries    int
}

// figure is a row of panels that are read together.
type figure struct {
	name, title, caption string
	panels               []panel
}

// palette of Okabe and Ito, which the colour-blind can tell apart.
var palette = []color.RGBA{
	{0x00, 0x72, 0xB2, 255}, {0xD5, 0x5E, 0x00, 255}, {0x00, 0x9E, 0x73, 255}, {0xCC, 0x79, 0xA7, 255},
	{0xE6, 0x9F, 0x00, 255}, {0x56, 0xB4, 0xE9, 255}, {0x55, 0x55, 0x55, 255},
}

var (
	dashes = [][]vg.Length{nil, {vg.Points(5), vg.Points(2)}, {vg.Points(1.5), vg.Points(2)}, {vg.Points(6), vg.Points(2), vg.Points(1.5), vg.Points(2)}}
	glyphs = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.PyramidGlyph{}}
	gray   = color.RGBA{0x70, 0x70, 0x70, 255}

	gridColor = color.RGBA{0xDD, 0xDD, 0xDD, 255}
)

const panelWidth, panelHeight = 4 * vg.Inch, 3.1 * vg.Inch

// around is what of a panel's height is not data: title, axis, label. A legend has an entry on each line above the data.
const around, entryHeight = vg.Length(58), vg.Length(10)

// size is that of most panels, more where a long legend or many names need it.
func (p panel) size() (w, h vg.Length) {
	if !p.byName {
		return panelWidth, panelHeight + entryHeight*vg.Length(max(0, p.legendEntries()-4))
	}
	longest := 0
	for _, s := range p.series {
		longest = max(longest, utf8.RuneCountInString(s.name))
	}
	return panelWidth + 4.2*vg.Length(min(longest, mostNameRunes)), around + entryHeight*vg.Length(len(p.lines)) + p.rowsHeight()
}

// rowsHeight is that of a forest plot's marks.
func (p panel) rowsHeight() vg.Length { return 15 * vg.Length(max(3, len(p.series))) }

// mostNameRunes of a name stand beside its mark.
const mostNameRunes = 64

func (p panel) legendEntries() int {
	switch {
	case p.entries > 0:
		return p.entries
	case !p.legend:
		return 0
	}
	return len(p.series) + len(p.lines)
}

func init() {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
}

func (p panel) plot() (*plot.Plot, error) {
	if p.byName {
		return p.forest()
	}
	out := p.frame(p.x, p.y)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = gridColor
	out.Add(grid)
	if p.ticks != nil {
		out.NominalX(p.ticks...)
		out.X.Tick.Label.Rotation, out.X.Width = 0, vg.Points(0.5)
		out.X.Min, out.X.Max = -0.4, float64(len(p.ticks))-0.6
	}
	for _, s := range p.series {
		if err := p.addSeries(out, s); err != nil {
			return nil, fmt.Errorf("plot %q: %w", s.name, err)
		}
	}
	for _, name := range sortedNames(p.lines) {
		if err := p.addLine(out, name, p.lines[name]); err != nil {
			return nil, err
		}
	}
	if p.ticks == nil && out.X.Min < out.X.Max { // marks at the edge keep their bars and texts
		pad := 0.03 * (out.X.Max - out.X.Min)
		out.X.Min, out.X.Max = out.X.Min-pad, out.X.Max+pad
	}
	if out.Y.Min > out.Y.Max { // nothing in it
		out.Y.Min, out.Y.Max, out.X.Min, out.X.Max = 0, 1, 0, 1
	}
	if p.yMin < p.yMax {
		out.Y.Min, out.Y.Max = p.yMin, p.yMax
	}
	room := out.Y.Max - out.Y.Min
	if room == 0 {
		room = max(math.Abs(out.Y.Max), 1)
		out.Y.Min -= room / 2
	}
	out.Y.Min -= 0.04 * room
	out.Y.Max += 0.06 * room
	// The legend stands above the data, not over it.
	_, height := p.size()
	share := float64((entryHeight*vg.Length(p.legendEntries()) + 4) / (height - around))
	out.Y.Max += (out.Y.Max - out.Y.Min) * share / (1 - share)
	if p.rate {
		out.Y.Min = max(out.Y.Min, -0.02)
		out.Y.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick { // none beside the legend, where no share is
			return slices.DeleteFunc(niceTicks(lo, hi), func(t plot.Tick) bool { return t.Value > 1 })
		})
	}
	return out, nil
}

// forest draws each series' first mark on a line of its own, its interval along x, and the panel's lines upright.
func (p panel) forest() (*plot.Plot, error) {
	out := p.frame(p.y, "")
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	grid.Vertical.Color = gridColor
	out.Add(grid)
	var names []string
	for _, s := range slices.Backward(p.series) { // the first on top
		y := float64(len(names))
		names = append(names, shorten(s.name))
		if len(s.points) == 0 {
			continue
		}
		q := s.points[0]
		at := plotter.XYs{{X: q.y, Y: y}}
		bar, err := plotter.NewXErrorBars(struct {
			plotter.XYs
			plotter.XErrors
		}{at, plotter.XErrors{{Low: q.half, High: q.half}}})
		if err != nil {
			return nil, fmt.Errorf("plot %q: %w", s.name, err)
		}
		mark, err := plotter.NewScatter(at)
		if err != nil {
			return nil, fmt.Errorf("plot %q: %w", s.name, err)
		}
		bar.Color, bar.Width, bar.CapWidth = palette[0], vg.Points(1.2), vg.Points(4)
		mark.Color, mark.Radius, mark.Shape = palette[0], vg.Points(3), draw.CircleGlyph{}
		out.Add(bar, mark)
	}
	lo, hi := -0.6, float64(len(names))-0.4
	for _, name := range sortedNames(p.lines) {
		x := p.lines[name]
		if err := p.addRule(out, name, plotter.XYs{{X: x, Y: lo}, {X: x, Y: hi}}); err != nil {
			return nil, err
		}
	}
	out.NominalY(names...)
	out.Y.Width = vg.Points(0.5)
	if p.yMin < p.yMax {
		out.X.Min, out.X.Max = p.yMin, p.yMax
	}
	pad := max(0.04*(out.X.Max-out.X.Min), 0.005)
	out.X.Min, out.X.Max = out.X.Min-pad, out.X.Max+pad
	out.Y.Min = lo
	out.Y.Max = hi + (hi-lo)*float64((entryHeight*vg.Length(len(p.lines))+2)/p.rowsHeight())
	return out, nil
}

// shorten leaves the ends of a long name, where arms differ.
func shorten(name string) string {
	r := []rune(name)
	if len(r) <= mostNameRunes {
		return name
	}
	half := mostNameRunes/2 - 1
	return string(r[:half]) + " … " + string(r[len(r)-half:])
}

// frame is an empty plot in this project's style.
func (p panel) frame(x, y string) *plot.Plot {
	out := plot.New()
	out.BackgroundColor = color.White
	out.Title.Text, out.X.Label.Text, out.Y.Label.Text = p.title, x, y
	out.Title.TextStyle.Font.Size = vg.Points(11)
	out.Title.Padding = vg.Points(6)
	for _, a := range []*plot.Axis{&out.X, &out.Y} {
		a.Label.TextStyle.Font.Size = vg.Points(10)
		a.Tick.Label.Font.Size = vg.Points(9)
		a.LineStyle.Color, a.Tick.LineStyle.Color = gray, gray
		a.Padding = vg.Points(2)
		a.Tick.Marker = plot.TickerFunc(niceTicks)
	}
	if p.legend {
		out.Legend.Top, out.Legend.Left = true, true
		out.Legend.TextStyle.Font.Size = vg.Points(8.5)
		out.Legend.XOffs, out.Legend.YOffs = vg.Points(6), vg.Points(-2)
		out.Legend.ThumbnailWidth = vg.Points(22)
		out.Legend.Padding = vg.Points(1.5)
	}
	return out
}

// niceTicks puts about five ticks at multiples of 1, 2 or 5 times a power of ten.
func niceTicks(lo, hi float64) []plot.Tick {
	if !(hi > lo) {
		return []plot.Tick{{Value: lo, Label: strconv.FormatFloat(lo, 'g', 3, 64)}}
	}
	unit := math.Pow(10, math.Floor(math.Log10((hi-lo)/5)))
	step := unit
	for _, m := range []float64{2, 5, 10} {
		if (hi-lo)/step > 8 {
			step = m * unit
		}
	}
	digits := max(0, int(-math.Floor(math.Log10(step)+1e-9)))
	var ticks []plot.Tick
	for k := math.Ceil(lo/step - 1e-9); k*step <= hi+1e-9*step; k++ {
		ticks = append(ticks, plot.Tick{Value: k * step, Label: strconv.FormatFloat(k*step+0, 'f', digits, 64)})
	}
	return ticks
}

func (p panel) addSeries(out *plot.Plot, s series) error {
	if len(s.points) == 0 {
		return nil
	}
	xys := make(plotter.XYs, len(s.points))
	bars := make(plotter.YErrors, len(s.points))
	tops := make(plotter.XYs, len(s.points))
	labels := plotter.XYLabels{XYs: tops}
	for i, q := range s.points {
		xys[i] = plotter.XY{X: q.x, Y: q.y}
		tops[i] = plotter.XY{X: q.x, Y: q.y + q.half} // texts stand above their bars
		bars[i].Low, bars[i].High = q.half, q.half
		labels.Labels = append(labels.Labels, q.label)
	}
	c := palette[s.hue%len(palette)]
	line, scatter, err := plotter.NewLinePoints(xys)
	if err != nil {
		return err
	}
	line.Color, line.Width, line.Dashes = c, vg.Points(1.5), dashes[s.dash%len(dashes)]
	scatter.Color, scatter.Radius, scatter.Shape = c, vg.Points(2.8), glyphs[s.dash%len(glyphs)]
	out.Add(line)
	thumbs := []plot.Thumbnailer{line}
	if s.marks {
		errs, err := plotter.NewYErrorBars(struct {
			plotter.XYs
			plotter.YErrors
		}{xys, bars})
		if err != nil {
			return err
		}
		errs.Color, errs.Width, errs.CapWidth = c, vg.Points(1), vg.Points(4)
		out.Add(errs, scatter)
		thumbs = append(thumbs, scatter)
		text, err := plotter.NewLabels(labels)
		if err != nil {
			return err
		}
		for i := range text.TextStyle {
			text.TextStyle[i].Color, text.TextStyle[i].Font.Size, text.TextStyle[i].XAlign = c, vg.Points(8), draw.XCenter
		}
		text.Offset = vg.Point{Y: vg.Points(3)}
		out.Add(text)
	}
	if p.legend {
		out.Legend.Add(s.name, thumbs...)
	}
	return nil
}

func (p panel) addLine(out *plot.Plot, name string, y float64) error {
	lo, hi := out.X.Min, out.X.Max
	if lo > hi {
		lo, hi = 0, 1
	}
	return p.addRule(out, name, plotter.XYs{{X: lo, Y: y}, {X: hi, Y: y}})
}

func (p panel) addRule(out *plot.Plot, name string, ends plotter.XYs) error {
	l, err := plotter.NewLine(ends)
	if err != nil {
		return err
	}
	l.Color, l.Width, l.Dashes = gray, vg.Points(0.9), dashes[1]
	if name == parLine {
		l.Dashes = dashes[2]
	}
	out.Add(l)
	if p.legend {
		out.Legend.Add(name, l)
	}
	return nil
}

const parLine = "on a par with the references"

// svg draws one panel for a page.
func (p panel) svg() (string, error) {
	pl, err := p.plot()
	if err != nil {
		return "", err
	}
	c := vgsvg.New(p.size())
	pl.Draw(draw.New(c))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return "", err
	}
	return out.String(), nil
}

// save draws the panels side by side, at most cols a row, as PNG and SVG.
func (f figure) save(base string, cols int) error {
	cols = min(cols, len(f.panels))
	rows := (len(f.panels) + cols - 1) / cols
	plots := make([][]*plot.Plot, rows)
	for i := range rows * cols {
		var p *plot.Plot
		if i < len(f.panels) {
			var err error
			if p, err = f.panels[i].plot(); err != nil {
				return err
			}
		}
		plots[i/cols] = append(plots[i/cols], p)
	}
	w, h := f.panels[0].size() // the panels of a figure share their scale, or are small
	for _, p := range f.panels {
		pw, ph := p.size()
		w, h = max(w, pw), max(h, ph)
	}
	w, h = w*vg.Length(cols), h*vg.Length(rows)
	drawAll := func(c vg.CanvasSizer) {
		dc := draw.New(c)
		dc.SetColor(color.White)
		dc.Fill(dc.Rectangle.Path())
		tiles := draw.Tiles{Rows: rows, Cols: cols, PadX: vg.Points(12), PadY: vg.Points(12), PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(10)}
		for j, row := range plot.Align(plots, tiles, dc) {
			for i, cell := range row {
				if plots[j][i] != nil {
					plots[j][i].Draw(cell)
				}
			}
		}
	}
	png := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(w, h), vgimg.UseDPI(150))}
	drawAll(png)
	var raw bytes.Buffer
	if _, err := png.WriteTo(&raw); err != nil {
		return err
	}
	if err := WriteFile(base+".png", raw.Bytes()); err != nil {
		return err
	}
	svg := vgsvg.New(w, h)
	drawAll(svg)
	raw.Reset()
	if _, err := svg.WriteTo(&raw); err != nil {
		return err
	}
	return WriteFile(base+".svg", raw.Bytes())
}
