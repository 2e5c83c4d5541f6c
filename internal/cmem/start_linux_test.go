package cmem

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const helper = "GOBPO_TEST_CMEM"

// TestMain is the program that Start starts again.
func TestMain(m *testing.M) {
	if os.Getenv(helper) == "" {
		os.Exit(m.Run())
	}
	Start()
	maps, _ := os.ReadFile("/proc/self/maps")
	Trim()
	fmt.Printf("pid %d preload %q conf %q jemalloc %t tcmalloc %t\n", os.Getpid(), os.Getenv(preload), os.Getenv(conf),
		strings.Contains(string(maps), "libjemalloc"), strings.Contains(string(maps), "libtcmalloc"))
	os.Exit(0)
}

func start(t *testing.T, env ...string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, helper+"=1")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprintf("pid %d ", cmd.Process.Pid)
	if !strings.HasPrefix(string(out), pid) {
		t.Errorf("%q is another process than %s", out, pid)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), pid))
}

// The allocator is loaded, by the same process, and what that took is gone from the environment of programs it starts.
func TestStartLoadsTheAllocator(t *testing.T) {
	t.Setenv(Env, "")
	lib := Allocator()
	if lib == "" {
		t.Skip("neither jemalloc nor tcmalloc is installed here")
	}
	name := strings.TrimPrefix(strings.FieldsFunc(filepath.Base(lib), func(r rune) bool { return r == '_' || r == '.' })[0], "lib")
	if got := start(t); !strings.HasPrefix(got, `preload "" conf ""`) || !strings.Contains(got, name+" true") {
		t.Errorf("with %s: %s", lib, got)
	}
	if got := start(t, "LD_PRELOAD="+lib, "MALLOC_CONF=dirty_decay_ms:5"); !strings.HasPrefix(got, fmt.Sprintf("preload %q conf %q", lib, "dirty_decay_ms:5")) || !strings.Contains(got, name+" true") {
		t.Errorf("the caller's choice: %s", got)
	}
}

func TestStartWithTheSystemsAllocator(t *testing.T) {
	if got := start(t, Env+"=system"); got != `preload "" conf "" jemalloc false tcmalloc false` {
		t.Error(got)
	}
}
