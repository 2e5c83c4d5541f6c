package experiments

import (
	"bytes"
	"context"
	"errors"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A window of Chromium's is no narrower than 500 px, a frame in it is: 390 px are a phone's.
const phone = `<!doctype html><title>silent</title><body style="margin:0"><iframe src="report.html" style="width:390px;height:900px;border:0"></iframe>
	<script>addEventListener("message", e => document.title = e.data)</script></html>`

const probe = `<script>addEventListener("load", () => {
	const wide = document.documentElement.scrollWidth > innerWidth;
	const empty = [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height < 50).length;
	parent.postMessage("wide:" + wide + " empty:" + empty + " figures:" + document.querySelectorAll("svg").length
		+ " paper:" + getComputedStyle(document.body).backgroundColor, "*");
})</script></html>`

// inChromium opens a report as on a phone, in both colour schemes: nothing may be wider than the window but what scrolls by
// itself, figures must have a size, the schemes must set the page's colours, and the screenshot must show text on them.
// GOBPO_SCREENSHOTS is a directory to keep the screenshots in.
func inChromium(t *testing.T, page string) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no chromium here (apt-get install chromium)")
	}
	dir := t.TempDir()
	err := errors.Join(os.WriteFile(filepath.Join(dir, "report.html"), []byte(strings.Replace(page, "</html>", probe, 1)), 0o644),
		os.WriteFile(filepath.Join(dir, "phone.html"), []byte(phone), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	keep := os.Getenv("GOBPO_SCREENSHOTS")
	if keep == "" {
		keep = dir
	}
	for _, scheme := range []struct {
		name, flag string
		paper      color.RGBA
		css        string
	}{
		{"light", "--no-first-run", color.RGBA{255, 255, 255, 255}, "rgb(255, 255, 255)"},
		{"dark", "--force-dark-mode", color.RGBA{21, 24, 27, 255}, "rgb(21, 24, 27)"},
	} {
		run := func(do string) []byte {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900",
				"--user-data-dir="+t.TempDir(), "--virtual-time-budget=3000", scheme.flag, do, "file://"+dir+"/phone.html").Output()
			if err != nil {
				t.Fatalf("%s: %v", browser, err)
			}
			return out
		}
		_, title, _ := strings.Cut(string(run("--dump-dom")), "<title>")
		title, _, _ = strings.Cut(title, "</title>")
		if !strings.HasPrefix(title, "wide:false empty:0 figures:") || strings.Contains(title, "figures:0") || !strings.HasSuffix(title, "paper:"+scheme.css) {
			t.Errorf("%s: the page says %q, want no overflow, no empty figure and paper %s", scheme.name, title, scheme.css)
		}

		shot := filepath.Join(keep, "report-"+scheme.name+".png")
		run("--screenshot=" + shot)
		raw, err := os.ReadFile(shot)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("%s: %v", shot, err)
		}
		near := func(a, b uint8) bool { return max(a, b)-min(a, b) < 12 } // a figure's own paper, too
		paper, all := 0, 0
		for y := range min(900, img.Bounds().Dy()) {
			for x := range 390 {
				all++
				if c := color.RGBAModel.Convert(img.At(x, y)).(color.RGBA); near(c.R, scheme.paper.R) && near(c.G, scheme.paper.G) && near(c.B, scheme.paper.B) {
					paper++
				}
			}
		}
		if share := float64(paper) / float64(all); share < 0.6 || share > 0.98 {
			t.Errorf("%s: %.2f of the screenshot is the paper's colour; it should be most of it, and the rest text", scheme.name, share)
		}
	}
}
