package main

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gobpo/models"
)

// smol is the shape of SmolLM2-135M.
var smol = models.Config{
	Architecture: "llama", VocabSize: 49152, HiddenSize: 576, IntermediateSize: 1536, NumLayers: 30,
	NumHeads: 9, NumKVHeads: 3, HeadDim: 64, MaxPositions: 8192, RopeTheta: 1e5, RMSNormEps: 1e-5, TieEmbeddings: true,
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*math.Abs(want)) {
		t.Errorf("%s is %g, want %g", what, got, want)
	}
}

func TestParseReply(t *testing.T) {
	for _, c := range []struct {
		line    string
		ok, bad bool
		seconds float64
	}{
		{`@{"seconds":{"learn":1.5,"reference":0.5}}` + "\n", true, false, 1.5},
		{`  @{"seconds":{"learn":2}}`, true, false, 2},
		{"Loading weights: 100%\n", false, false, 0},
		{`{"seconds":{"learn":2}}`, false, false, 0}, // no mark
		{"@someone wrote this", false, false, 0},
		{"", false, false, 0},
		{`@{"seconds":`, true, true, 0},
		{`@{"seconds":{"learn":"fast"}}`, true, true, 0},
	} {
		r, ok, err := parseReply(c.line)
		if ok != c.ok || (err != nil) != c.bad || r.Seconds["learn"] != c.seconds {
			t.Errorf("parseReply(%q) = %v, %v, %v", c.line, r, ok, err)
		}
	}
}

func TestParseProc(t *testing.T) {
	status := "Name:\tbench\nVmPeak:\t 9000000 kB\nVmHWM:\t 2097152 kB\nVmRSS:\t 1024 kB\n"
	if got := parsePeak(status); got != 2048 {
		t.Errorf("peak is %g MB, want 2048", got)
	}
	if got := parsePeak("Name:\tkernel thread\n"); got != 0 {
		t.Errorf("peak without VmHWM is %g", got)
	}
	stat := "4242 (a (b) c d) S 1 2 3 4 5 6 7 8 9 10 1234 66 0 0 20 0"
	if got := parseCPU(stat); got != 13 {
		t.Errorf("CPU time is %g s, want 13", got)
	}
	for _, short := range []string{"", "1 (x) S 1 2"} {
		if got := parseCPU(short); got != 0 {
			t.Errorf("CPU time of %q is %g", short, got)
		}
	}
}

func TestTail(t *testing.T) {
	var s tail
	if got := s.last(); got != "it said nothing" {
		t.Errorf("silence is %q", got)
	}
	for range 1000 {
		_, _ = s.Write([]byte("progress 50%\rprogress 51%\r"))
	}
	_, _ = s.Write([]byte("\nTraceback:\nValueError: no such head\n\n"))
	if got := s.last(); got != "ValueError: no such head" {
		t.Errorf("last line is %q", got)
	}
	if len(s.buf) > 4096 {
		t.Errorf("kept %d bytes", len(s.buf))
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 100}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %g, want %g", c.values, got, c.want)
		}
	}
	values := []float64{3, 1, 2}
	if median(values); values[0] != 3 {
		t.Error("median reorders its argument: rounds would no longer match")
	}
}

// A machine that is three times slower in one round slows both sides; the ratio does not move.
func TestSpeedupIsByRound(t *testing.T) {
	mid, low, high := speedup([]float64{1, 3, 1.1}, []float64{2, 6, 2.2})
	near(t, "ratio", mid, 2, 1e-9)
	near(t, "low", low, 2, 1e-9)
	near(t, "high", high, 2, 1e-9)
	mid, low, high = speedup([]float64{1, 1, 1, 0}, []float64{1, 4, 2, 9})
	if mid != 2 || low != 1 || high != 4 {
		t.Errorf("speedup is %g in %g to %g, want 2 in 1 to 4", mid, low, high)
	}
	if mid, _, _ := speedup([]float64{1}, nil); mid != 0 {
		t.Errorf("speedup over nobody is %g", mid)
	}
}

func TestTasks(t *testing.T) {
	names := map[string]bool{}
	for _, c := range tasks(false) {
		if names[c.Name] {
			t.Errorf("%s is there twice", c.Name)
		}
		names[c.Name] = true
		var back task
		if err := json.Unmarshal([]byte(c.json()), &back); err != nil || back.json() != c.json() {
			t.Errorf("%s does not survive JSON: %v", c.Name, err)
		}
	}
	for _, c := range tasks(true) {
		if !names[c.Name] {
			t.Errorf("quick case %s is no full case", c.Name)
		}
	}
	if len(names) != 9 || len(tasks(true)) != 5 {
		t.Errorf("%d cases, %d quick ones", len(names), len(tasks(true)))
	}
}

func TestTokens(t *testing.T) {
	c := task{Config: smol}
	a, b := c.tokens(4, 64, 1), c.tokens(4, 64, 2)
	seen := map[int32]bool{}
	for i := range a {
		for j, id := range a[i] {
			if id < 100 || int(id) >= smol.VocabSize {
				t.Fatalf("id %d is special or out of the vocabulary", id)
			}
			if id == b[i][j] {
				t.Fatalf("salts 1 and 2 agree at %d, %d", i, j)
			}
			seen[id] = true
		}
	}
	if len(seen) < 200 {
		t.Errorf("only %d different ids of 256", len(seen))
	}
}

// The peer must see the same ids, else the check of the log-probs means nothing. Runs where any Python is.
func TestPeerTokens(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	_, after, ok := strings.Cut(peerScript, "def tokens(")
	body, _, ok2 := strings.Cut(after, "    return torch")
	if !ok || !ok2 {
		t.Fatal("peer.py has no function tokens as expected")
	}
	script := "import json\ndef tokens(" + body + "    return flat\nprint(json.dumps(tokens({'config': {'VocabSize': 49152}}, 3, 5, 2)))"
	out, err := exec.Command(python, "-c", script).Output()
	if err != nil {
		t.Fatal(err)
	}
	var want, got []int32
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	for _, row := range (task{Config: smol}).tokens(3, 5, 2) {
		got = append(got, row...)
	}
	if len(got) != len(want) {
		t.Fatalf("%d ids, the peer has %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("ids differ at %d: %d, peer %d", i, got[i], want[i])
		}
	}
}

// Both sides are credited as the peer lays a pair out; the FLOPs are those of ours, where a pair shares its prompt.
func TestCounts(t *testing.T) {
	train := task{Kind: "train", Pairs: 4, Prompt: 64, Completion: 64, Rank: 16, Config: smol}
	if got := train.count(); got != 1024 {
		t.Errorf("a step counts %d tokens, want 1024", got)
	}
	if got := (task{Kind: "sample", Batch: 8, Completion: 64}).count(); got != 512 {
		t.Errorf("sampling counts %d tokens, want 512", got)
	}
	// By hand: 30 layers of 3,538,944 linear weights; adapter 16·(2·1152 + 2·768 + 3·2112)·30; vocabulary 28,311,552.
	const linear, adapter, vocab, attention = 106168320, 4884480, 28311552, 4 * 30 * 576 * (64*64 + 128*128)
	learn, reference := train.flops()
	near(t, "learn", learn, 4*(192*(4*linear+6*adapter)+128*4*vocab+3*attention), 1e-12)
	near(t, "reference", reference, 4*(192*(2*linear+2*adapter)+128*2*vocab+attention), 1e-12)

	decode := task{Kind: "sample", Batch: 1, Prompt: 64, Completion: 64, Rank: 16, Folded: true, Config: smol}
	const norms, cache = 61 * 576, 96 * 2 * 30 * 192
	near(t, "folded bytes", decode.decodeBytes(), 4*(linear+vocab+norms+cache), 1e-12)
	folded := decode.decodeBytes()
	decode.Folded = false
	near(t, "adapter bytes", decode.decodeBytes()-folded, 4*adapter, 1e-12)
}

// made is a report of two rounds: ours twice as fast in training, four times in sampling.
func made() *report {
	train := task{Name: "train 4 pairs 64+64", Kind: "train", Pairs: 4, Prompt: 64, Completion: 64, Rank: 16, Config: smol}
	draw := task{Name: "sample merged batch 1", Kind: "sample", Batch: 1, Prompt: 64, Completion: 64, Folded: true, Rank: 16, Config: smol}
	product := task{Name: "matmul", Kind: "matmul", Sizes: []int{1000}}
	runs := func(parts ...map[string]float64) *measured {
		return &measured{Ready: reply{Load: 1, Compiled: 3, Compile: 20, Check: -700.25, Note: "weights", Versions: "v1"}, Runs: parts, CPU: []float64{6, 6}, PeakMB: 2000}
	}
	type s = map[string]float64
	peer := runs(s{"learn": 6, "reference": 2}, s{"learn": 6, "reference": 2})
	peer.PeakMB = 5000
	return &report{CPUs: 2, Rounds: 2, Model: "/x/model.gguf", Config: smol, ReadGBs: 20, Results: []result{
		{product, runs(s{"1000": 0.01}, s{"1000": 0.01}), runs(s{"1000": 0.02}, s{"1000": 0.02})},
		{train, runs(s{"learn": 3, "reference": 1}, s{"learn": 3, "reference": 1}), peer},
		{draw, runs(s{"sample": 2, "fold": 0.5}, s{"sample": 2, "fold": 0.5}), runs(s{"sample": 8, "fold": 1}, s{"sample": 8, "fold": 1})},
	}}
}

func TestReport(t *testing.T) {
	var out strings.Builder
	made().print(&out)
	for _, want := range []string{
		"matmul 1000                          200.0  100.0  GFLOP/s   2.00  2.00-2.00",
		"train 4 pairs 64+64, with reference  256.0  128.0    tok/s   2.00  2.00-2.00   1.5   0.8     2000  5000   0.40",
		"train 4 pairs 64+64, without         341.3  170.7    tok/s   2.00",
		"sample merged batch 1                 32.0    8.0    tok/s   4.00",
		"with its pass 2.67x",
		"141 GFLOP/s = 71% of the matmul peak",
		"folding takes gobpo 0.50 s, once per phase, not counted (peer: merge 1.00 s)",
		"compiles 3 executables in 20.0 s",
		"gobpo -700.250, peer -700.250 (weights)",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestReportWithoutPeer(t *testing.T) {
	rep := made()
	rep.PeerMissing = "python3 lacks peft: python3 -m pip install peft"
	rep.Load = 6.5
	for i := range rep.Results {
		rep.Results[i].Peer = nil
	}
	var out strings.Builder
	rep.print(&out)
	for _, want := range []string{"pip install peft", "not installed", "busy (load average 6.5)", "256.0"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "peer 0") {
		t.Errorf("a missing peer has numbers:\n%s", out.String())
	}
}

func TestTableAligns(t *testing.T) {
	lines := strings.Split(strings.TrimRight(table([]row{{Name: "a", Unit: "tok/s", Ours: 1}, {Name: "a much longer name", Unit: "GFLOP/s", Ours: 12345.6, Peer: 2, Ratio: 3, Low: 2.5, High: 3.5}}, false), "\n"), "\n")
	for _, l := range lines[1:] {
		if len(l) != len(lines[0]) {
			t.Errorf("lines of %d and %d characters:\n%s", len(lines[0]), len(l), strings.Join(lines, "\n"))
		}
	}
}

func TestWriteJSON(t *testing.T) {
	rep := made()
	rep.print(&strings.Builder{})
	path := filepath.Join(t.TempDir(), "bench.json")
	if err := rep.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Rows) != 4 || back.Results[1].Peer.Runs[1]["learn"] != 6 || back.Rows[1].Ratio != 2 {
		t.Errorf("read back %+v", back)
	}
	if err := rep.write(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("an unwritable path is no error")
	}
}

func TestFindPython(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole, lacking, broken := script("whole", "echo"), script("lacking", "echo transformers peft"), script("broken", "exit 1")
	t.Setenv("GOBPO_PYTHON", lacking)
	if p, why := findPython(t.Context(), whole); p != whole || why != "" {
		t.Errorf("the flag's interpreter: %q, %q", p, why)
	}
	if p, why := findPython(t.Context(), ""); p != "" || !strings.Contains(why, "lacks transformers, peft: "+lacking+" -m pip install") {
		t.Errorf("$GOBPO_PYTHON without packages: %q, %q", p, why)
	}
	if p, why := findPython(t.Context(), broken); p != "" || !strings.Contains(why, "does not run") {
		t.Errorf("a broken interpreter: %q, %q", p, why)
	}
}

// A worker is any process that speaks the protocol; here a shell script, one that dies, and one that hangs up.
func TestProtocol(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh here")
	}
	begin := func(script string) *proc {
		p, err := start(t.Context(), t.TempDir(), []string{shell, "-c", script})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		return p
	}
	p := begin(`echo noise; echo '@{"load":2}'; while read l; do echo more noise; echo '@{"seconds":{"learn":3}}'; done; echo bye`)
	if r, err := p.read(); err != nil || r.Load != 2 {
		t.Fatalf("ready: %v, %v", r, err)
	}
	for range 3 {
		if r, err := p.ask(); err != nil || r.Seconds["learn"] != 3 {
			t.Fatalf("run: %v, %v", r, err)
		}
	}
	if err := p.close(); err != nil {
		t.Errorf("close: %v", err)
	}
	p = begin(`echo '@{"load":2}'; read l; echo 'MemoryError: too large' >&2; exit 3`)
	if _, err := p.read(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.ask(); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "MemoryError: too large") {
		t.Errorf("a worker that died: %v", err)
	}
}

func TestWorkRefuses(t *testing.T) {
	for _, text := range []string{"", "{", `{"kind":"bake","backend":"go","model":"/nowhere"}`} {
		if err := work(text, strings.NewReader(""), &strings.Builder{}); err == nil {
			t.Errorf("work(%q) is no error", text)
		}
	}
}

// The smallest real case: products on the Go backend, over the whole protocol.
func TestWorkMatmul(t *testing.T) {
	var out strings.Builder
	if err := work(`{"kind":"matmul","backend":"go","sizes":[16,32]}`, strings.NewReader("run\nrun\n"), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d replies, want ready and two runs:\n%s", len(lines), out.String())
	}
	for i, l := range lines {
		r, ok, err := parseReply(l)
		if !ok || err != nil || (i > 0) != (r.Seconds["32"] > 0) {
			t.Errorf("reply %d: %q", i, l)
		}
	}
}
