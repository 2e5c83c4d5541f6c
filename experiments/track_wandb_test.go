package experiments

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// readWandb reads the records of a .wandb file back, checksums verified: number, field and message of each.
func readWandb(t *testing.T, path string) (nums []int, fields []protowire.Number, messages [][]byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(raw, []byte(":W&B\xe1\xbe\x00")) {
		t.Fatalf("header %q", raw[:7])
	}
	var record []byte
	for at := 7; at < len(raw); {
		if left := wandbBlock - at%wandbBlock; left < wandbHeader {
			at += left
			continue
		}
		n, kind := int(binary.LittleEndian.Uint16(raw[at+4:])), raw[at+6]
		data := raw[at+7 : at+7+n]
		if at/wandbBlock != (at+6+n)/wandbBlock {
			t.Fatalf("the fragment at %d crosses its block", at)
		}
		if crc32.ChecksumIEEE(append([]byte{kind}, data...)) != binary.LittleEndian.Uint32(raw[at:]) {
			t.Fatalf("the checksum at %d is wrong", at)
		}
		at += 7 + n
		if kind == wandbFull || kind == wandbFirst {
			record = nil
		}
		record = append(record, data...)
		if kind == wandbFull || kind == wandbLast {
			each(t, record, func(num protowire.Number, value []byte, n uint64) {
				if num == recordNum {
					nums = append(nums, int(n))
				} else {
					fields, messages = append(fields, num), append(messages, value)
				}
			})
		}
	}
	return nums, fields, messages
}

// Records of every size, around those that end a block or leave too little of it for a header.
func TestWandbLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.wandb")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var want [][]byte
	l := &wandbLog{f: f}
	if err := l.begin(); err != nil {
		t.Fatal(err)
	}
	add := func(n int) {
		message := make([]byte, n)
		for i := range message {
			message[i] = byte(rng.Uint32())
		}
		want = append(want, message)
		if err := l.record(recordHistory, message); err != nil {
			t.Fatal(err)
		}
	}
	for left := range 40 {
		add(1000)
		// Two bytes of number, one tag and up to three of length: some of these end exactly where left bytes remain.
		add(wandbBlock - l.size%wandbBlock - wandbHeader - 4 - left)
	}
	for _, n := range []int{0, 1, wandbBlock, 3 * wandbBlock, 100_000} {
		add(n)
	}
	f.Close()
	nums, _, messages := readWandb(t, path)
	if len(nums) != len(want) || nums[len(nums)-1] != len(want) {
		t.Fatalf("%d records, the last is number %d, of %d", len(nums), nums[len(nums)-1], len(want))
	}
	for i := range want {
		if !bytes.Equal(messages[i], want[i]) {
			t.Errorf("record %d of %d bytes came back with %d", i, len(want[i]), len(messages[i]))
		}
	}
}

// wandbTrial is a trial, tracked offline, that died in its second attempt at step 2 and was resumed.
func wandbTrial(t *testing.T) (dir string) {
	t.Helper()
	trial := trialsOf(t, taskYAML+"track: {wandb: offline}\n")[0]
	out := t.TempDir()
	if _, _, err := RunOne(t.Context(), trial, out, loggingRun(1, 2, errKilled), &silent{}); err == nil {
		t.Fatal("the first attempt did not fail")
	}
	dir, _, err := RunOne(t.Context(), trial, out, loggingRun(2, 3, nil), &silent{})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWandbRun(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(wandbTrial(t), "wandb", "offline-run-*", "run-*.wandb"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	_, fields, messages := readWandb(t, files[0])
	if want := []protowire.Number{recordHeader, recordRun, recordSummary, recordHistory, recordSummary, recordHistory, recordSummary, recordHistory, recordSummary, recordExit}; !reflect.DeepEqual(fields, want) {
		t.Errorf("records %v, want %v", fields, want)
	}
	each(t, messages[len(messages)-1], func(num protowire.Number, _ []byte, n uint64) {
		if num == exitCode && n != 0 {
			t.Errorf("exit code %d", n)
		}
	})
}

// fakeWandb answers what wandb sync asks, and keeps what it is sent.
type fakeWandb struct {
	mu      sync.Mutex
	run     map[string]any // of the first upsert
	history []string
	summary map[string]any
	exit    any
}

func (f *fakeWandb) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	var in struct {
		Query     string
		Variables map[string]any
		Files     map[string]struct {
			Offset  int
			Content []string
		}
		ExitCode any
	}
	raw, _ := io.ReadAll(body)
	_ = json.Unmarshal(raw, &in)
	answer := map[string]any{}
	switch {
	case strings.Contains(in.Query, "upsertBucket"):
		if f.run == nil {
			f.run = in.Variables
		}
		project := map[string]any{"id": "P", "name": in.Variables["project"], "entity": map[string]any{"id": "E", "name": "me"}}
		answer["upsertBucket"] = map[string]any{"inserted": true, "bucket": map[string]any{"id": "B", "name": in.Variables["name"], "displayName": in.Variables["displayName"], "config": "{}", "historyLineCount": 0, "project": project}}
	case strings.Contains(in.Query, "createRunFiles"):
		files := []map[string]any{}
		for _, name := range in.Variables["files"].([]any) {
			files = append(files, map[string]any{"name": name, "uploadUrl": "http://" + r.Host + "/upload"})
		}
		answer["createRunFiles"] = map[string]any{"runID": "B", "uploadHeaders": []string{}, "files": files}
	case strings.Contains(in.Query, "viewer"):
		answer["viewer"] = map[string]any{"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": map[string]any{"edges": []any{}}}
	case strings.Contains(in.Query, "serverInfo"):
		answer["serverInfo"] = map[string]any{"features": []any{}, "cliVersionInfo": map[string]any{"max_cli_version": "9.9.9"}}
	}
	if h, ok := in.Files["wandb-history.jsonl"]; ok {
		f.history = append(f.history[:h.Offset], h.Content...)
	}
	if s, ok := in.Files["wandb-summary.json"]; ok {
		_ = json.Unmarshal([]byte(s.Content[len(s.Content)-1]), &f.summary)
	}
	if in.ExitCode != nil {
		f.exit = in.ExitCode
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"data": answer})
}

// wandb's own sync takes the files and sends each step once, to what stands for W&B here.
func TestWandbSync(t *testing.T) {
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import wandb").Run(); err != nil {
		t.Skipf("%s cannot import wandb (pip install wandb, or set GOBPO_PYTHON)", python)
	}
	fake := &fakeWandb{}
	server := httptest.NewServer(fake)
	defer server.Close()
	dir := wandbTrial(t)
	runs, _ := filepath.Glob(filepath.Join(dir, "wandb", "offline-run-*"))
	cmd := exec.Command(python, "-m", "wandb", "sync", runs[0])
	home := t.TempDir()
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home, "WANDB_BASE_URL="+server.URL, "WANDB_API_KEY="+strings.Repeat("0123456789", 4), "WANDB_ERROR_REPORTING=false")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	hash := filepath.Base(dir)
	if r := fake.run; r["displayName"] != "trial "+hash || r["project"] != "s" || !strings.Contains(r["config"].(string), `"batch_size":{"value":`) || !strings.HasPrefix(r["name"].(string), hash) {
		t.Errorf("the run is %v\n%s", r, out)
	}
	if len(fake.history) != 3 {
		t.Fatalf("history %q\n%s", fake.history, out)
	}
	for i, line := range fake.history {
		var row map[string]float64
		if err := json.Unmarshal([]byte(line), &row); err != nil || row["_step"] != float64(i+1) || row["rewards/chosen"] != 0.5*float64(i+1) {
			t.Errorf("history line %d: %s, %v", i, line, err)
		}
	}
	if fake.exit != 0.0 {
		t.Errorf("exit code %v", fake.exit)
	}
}
