//go:build linux && cgo && !noxla

package cmem

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gobpo/internal/cmem/cmemtest"
)

const helper = "GOBPO_TEST_CMEM"

// TestMain is the program that Start starts again.
func TestMain(m *testing.M) {
	if os.Getenv(helper) == "" {
		os.Exit(m.Run())
	}
	Start()
	Trim()
	fmt.Printf("pid %d preload %q conf %q loaded %q\n", os.Getpid(), os.Getenv(preload), os.Getenv(conf), filepath.Base(Loaded()))
	if os.Getenv(helper) == "large" {
		fmt.Println("faults", cmemtest.Large(32<<20, 20))
	}
	os.Exit(0)
}

func start(t *testing.T, env ...string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append([]string{helper + "=1"}, slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, preload+"=") || strings.HasPrefix(v, conf+"=") || strings.HasPrefix(v, choice+"=")
	})...)
	cmd.Env = append(cmd.Env, env...)
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
	t.Setenv(choice, "")
	t.Setenv(preload, "")
	lib := allocator()
	if lib == "" {
		t.Skip("neither jemalloc nor tcmalloc is installed here")
	}
	real, err := filepath.EvalSymlinks(lib)
	if err != nil {
		t.Fatal(err)
	}
	loaded := fmt.Sprintf(" loaded %q", filepath.Base(real))
	if got, want := start(t), `preload "" conf ""`+loaded; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := start(t, "LD_PRELOAD=libm.so.6"), `preload "libm.so.6" conf ""`+loaded; got != want {
		t.Errorf("beside another library: %s, want %s", got, want)
	}
	if got, want := start(t, "LD_PRELOAD="+lib, "MALLOC_CONF=dirty_decay_ms:5"), fmt.Sprintf("preload %q conf %q%s", lib, "dirty_decay_ms:5", loaded); got != want {
		t.Errorf("the caller's choice: %s, want %s", got, want)
	}
}

// Buffers as large as XLA's temporaries are reused, not given back to the system when they are freed: 20 times 8192 pages
// of 4 KB are written, and one time as many are asked of the system.
func TestLargeBuffersAreKept(t *testing.T) {
	t.Setenv(choice, "")
	t.Setenv(preload, "")
	if !strings.Contains(allocator(), "jemalloc") {
		t.Skip("jemalloc is not installed here")
	}
	const pages = 32 << 20 / 4096
	_, faults, _ := strings.Cut(start(t, helper+"=large"), "faults ")
	if n, err := strconv.Atoi(faults); err != nil || n > 2*pages {
		t.Errorf("%s page faults of a buffer of %d pages", faults, pages)
	}
}

func TestStartWithTheSystemsAllocator(t *testing.T) {
	if got := start(t, choice+"=system"); got != `preload "" conf "" loaded "."` {
		t.Error(got)
	}
}

// Nothing is loaded from where a relative name would point.
func TestAllocatorIsNotOfTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(choice, "")
	t.Setenv(preload, "")
	t.Setenv("CONDA_PREFIX", "")
	if err := errors.Join(os.Mkdir("lib", 0o777), os.WriteFile("lib/libjemalloc.so.2", nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	if lib := allocator(); lib != "" && !filepath.IsAbs(lib) {
		t.Error(lib)
	}
}
