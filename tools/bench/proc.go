package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// A worker, ours or the peer's, is a process that answers each line on its standard input with one run. Its replies are
// JSON behind replyMark, so that whatever libraries print on standard output does no harm.
const (
	workerArg = "worker"
	replyMark = "@"
)

// reply is what a worker says: once when ready, then after each run.
type reply struct {
	Seconds map[string]float64 `json:"seconds,omitempty"` // of the run, by part

	Load     float64 `json:"load,omitempty"`   // seconds from the start of the process's own work to a loaded model
	Warmup   float64 `json:"warmup,omitempty"` // seconds of the first run, compilation included
	Compiled int     `json:"compiled,omitempty"`
	Compile  float64 `json:"compile,omitempty"` // seconds of that
	Check    float64 `json:"check,omitempty"`   // a number that both sides must agree on
	Note     string  `json:"note,omitempty"`
	Versions string  `json:"versions,omitempty"`
}

// parseReply reads a line of a worker's output; ok is false for a line that is no reply.
func parseReply(line string) (r reply, ok bool, err error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(line), replyMark+"{")
	if !ok {
		return r, false, nil
	}
	if err := json.Unmarshal([]byte("{"+text), &r); err != nil {
		return r, true, fmt.Errorf("reply %q: %w", line, err)
	}
	return r, true, nil
}

type proc struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr tail
}

func start(ctx context.Context, dir string, args []string) (*proc, error) {
	p := &proc{cmd: exec.CommandContext(ctx, args[0], args[1:]...)}
	p.cmd.Env = append(os.Environ(), "GOBPO_BENCH_DIR="+dir)
	p.cmd.Stderr = &p.stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

func (p *proc) read() (reply, error) {
	for {
		line, err := p.out.ReadString('\n')
		if r, ok, bad := parseReply(line); ok {
			return r, bad
		}
		if err != nil {
			_ = p.cmd.Wait()
			return reply{}, fmt.Errorf("stopped (%v): %s", p.cmd.ProcessState, p.stderr.last())
		}
	}
}

// ask has the worker do one run.
func (p *proc) ask() (reply, error) {
	if _, err := io.WriteString(p.in, "run\n"); err != nil {
		return reply{}, err
	}
	return p.read()
}

func (p *proc) close() error {
	p.in.Close()
	_, _ = io.Copy(io.Discard, p.out)
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, p.stderr.last())
	}
	return nil
}

func (p *proc) kill() { _ = p.cmd.Process.Kill() }

// peakMB is the process's peak resident memory so far (VmHWM), 0 where /proc does not tell.
func (p *proc) peakMB() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	return parsePeak(string(text))
}

func parsePeak(status string) float64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024
		}
	}
	return 0
}

// cpuSeconds is the processor time the process has used so far, 0 where /proc does not tell.
func (p *proc) cpuSeconds() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	return parseCPU(string(text))
}

// parseCPU sums user and system time of a /proc/pid/stat line, whose second field may hold spaces and parentheses.
func parseCPU(stat string) float64 {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	const ticks = 100 // USER_HZ, the same on every Linux that Go runs on
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}

// loadAverage is the number of processes that wanted a CPU over the last minute, 0 where /proc does not tell.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// tail keeps the end of what a process writes to standard error, for the message if it fails.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-4096):]
	return len(p), nil
}

// last is the last line that says something.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.FieldsFunc(t.buf, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) == 0 {
		return "it said nothing"
	}
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}
