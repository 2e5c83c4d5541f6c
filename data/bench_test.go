package data

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// writeRows makes a JSONL file of n distinct prompt/label rows of about 500
// bytes.
func writeRows(t testing.TB, path string, n int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	filler := strings.Repeat("the quick brown fox jumps over a lazy dog ", 6)
	for i := range n {
		fmt.Fprintf(w, "{\"prompt\": \"Question %d: %s\", \"label\": \"Answer %d: %s\"}\n", i, filler[i%97:], i*7, filler[i%89:])
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// peakHeap runs body and returns the largest live-plus-garbage heap seen.
func peakHeap(body func()) uint64 {
	runtime.GC()
	var peak, stop atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		var m runtime.MemStats
		for stop.Load() == 0 {
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	body()
	stop.Store(1)
	<-done
	return peak.Load()
}

// rss is the process's peak resident memory in bytes, 0 where unknown.
func rss() (bytes int64) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.SplitSeq(string(b), "\n") {
		if n, err := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); n == 1 && err == nil {
			return bytes << 10
		}
	}
	return 0
}

// TestImportMemory imports 50,000 rows (1,000,000 with BPO_BIG_TESTS set) and
// holds the heap to what streaming needs.
func TestImportMemory(t *testing.T) {
	n := 50_000
	if os.Getenv("BPO_BIG_TESTS") != "" {
		n = 1_000_000
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.parquet")
	writeRows(t, in, n)
	st, err := os.Stat(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, dedup := range []string{"", "exact"} {
		start := time.Now()
		peak := peakHeap(func() {
			rep, err := Import(t.Context(), []string{in}, out, ImportOptions{Dedup: dedup, Force: true})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Written[out] != n {
				t.Fatalf("report %+v, want %d rows", rep, n)
			}
		})
		t.Logf("%d rows, %d MiB, dedup %q: heap peak %d MiB, process peak %d MiB, %.0f rows/s",
			n, st.Size()>>20, dedup, peak>>20, rss()>>20, float64(n)/time.Since(start).Seconds())
		limit := uint64(128 << 20) // constant: codecs, one row group and the garbage between collections
		if dedup != "" {
			limit += uint64(n) * 100 // 16 bytes a row, in a map that may be copying itself to twice the size
		}
		if peak > limit {
			t.Errorf("heap peak %d MiB with dedup %q, want at most %d", peak>>20, dedup, limit>>20)
		}
	}
	peak := peakHeap(func() {
		rows := 0
		for _, err := range Rows[Prompt](out) {
			if err != nil {
				t.Fatal(err)
			}
			rows++
		}
		if rows != n {
			t.Fatalf("%d rows read back, want %d", rows, n)
		}
	})
	t.Logf("reading back: heap peak %d MiB", peak>>20)
	if peak > 128<<20 {
		t.Errorf("heap peak %d MiB reading back, want at most 128", peak>>20)
	}
}
