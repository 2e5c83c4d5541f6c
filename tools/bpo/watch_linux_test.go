package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// On a terminal the page is drawn again and again, cut to its size, with what the run has written since, until Ctrl-C.
func TestWatchOnATerminal(t *testing.T) {
	dir := tinyDir(t)
	stdout, stderr, status := cli(t, dir, "", "train", "tiny.yaml", "--set", "refresh=2", "--set", "reference=behavior")
	if status != 0 {
		t.Fatal(stderr)
	}
	run, _, _ := strings.Cut(stdout, "\n")
	const width = 40
	screen, tty := terminal(t, 24, width)
	path, _ := binary()
	cmd := exec.Command(path, "watch", "runs/tiny", "--every", "50ms")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // Ctrl-C reaches whom the terminal belongs to
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	t.Cleanup(func() { cmd.Process.Kill() })

	var mu sync.Mutex
	var shown bytes.Buffer
	text := func() string { mu.Lock(); defer mu.Unlock(); return shown.String() }
	closed := make(chan struct{})
	go func() { // until the program ends, when there is nobody left on the other side
		defer close(closed)
		for part := make([]byte, 4096); ; {
			n, err := screen.Read(part)
			mu.Lock()
			shown.Write(part[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()

	const clear = "\x1b[H\x1b[2J"
	waitFor(t, 20*time.Second, "two pages", func() bool { return strings.Count(text(), clear) > 2 })
	log, err := os.OpenFile(filepath.Join(dir, run, "metrics.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = log.WriteString("{\"step\":77}\n")
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 20*time.Second, "a page with the new step", func() bool { return strings.Contains(text(), " 77/2 ") })
	if _, err := screen.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatalf("it goes on after Ctrl-C")
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}

	pages := strings.Split(text(), clear)
	if pages[0] != "" || !strings.HasPrefix(pages[1], "1 runs: 0 running, 1 done, 0 failed, 0 t\r\n\r\nrun ") || !strings.Contains(pages[1], " 2/2 ") {
		t.Errorf("the first page is %q", pages[1])
	}
	for _, page := range pages {
		for line := range strings.SplitSeq(page, "\r\n") {
			if n := len([]rune(strings.ReplaceAll(line, "^C", ""))); n > width {
				t.Errorf("a line of %d columns: %q", n, line)
			}
		}
	}
	if last := pages[len(pages)-1]; strings.Contains(text(), "goroutine") || strings.Contains(text(), "bpo:") {
		t.Errorf("it ended with %q", last)
	}
}

// terminal opens a pseudo-terminal: what a program writes to tty is read from screen, and what is typed there reaches it.
func terminal(t *testing.T, rows, columns uint16) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { screen.Close() })
	fd := int(screen.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	return screen, tty
}
