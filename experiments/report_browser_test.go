package experiments

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inChromium opens a report in a browser as narrow as it goes: nothing may be wider than the window but what scrolls by
// itself, figures must have a size, and both colour schemes must set the page's colours.
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
	const probe = `<script>
		const wide = document.documentElement.scrollWidth > innerWidth;
		const empty = [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height < 50).length;
		document.title = "wide:" + wide + " empty:" + empty + " figures:" + document.querySelectorAll("svg").length
			+ " paper:" + getComputedStyle(document.body).backgroundColor;
	</script></html>`
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, []byte(strings.Replace(page, "</html>", probe, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for scheme, paper := range map[string]string{"": "rgb(255, 255, 255)", "--force-dark-mode": "rgb(21, 24, 27)"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		args := []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--user-data-dir=" + t.TempDir(), "--dump-dom"}
		if scheme != "" {
			args = append(args, scheme)
		}
		out, err := exec.CommandContext(ctx, browser, append(args, "file://"+file)...).Output()
		if err != nil {
			t.Fatalf("%s: %v", browser, err)
		}
		_, title, _ := strings.Cut(string(out), "<title>")
		title, _, _ = strings.Cut(title, "</title>")
		if !strings.HasPrefix(title, "wide:false empty:0 figures:") || strings.Contains(title, "figures:0") || !strings.HasSuffix(title, "paper:"+paper) {
			t.Errorf("%s: the page says %q, want no overflow, no empty figure and paper %s", scheme, title, paper)
		}
	}
}
