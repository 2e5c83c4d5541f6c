//go:build linux && cgo && !noxla

package cmem

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

const (
	// choice is the user's C allocator: a path to a library, or "system" for none.
	choice  = "GOBPO_MALLOC"
	preload = "LD_PRELOAD"
	// given keeps the caller's LD_PRELOAD while the program starts again.
	given = "GOBPO_LD_PRELOAD"
	// One arena, for what one thread frees another needs next; pages go back after two seconds, also those of large buffers (with
	// keepLarge). Kept for good, as is fastest for one shape, the buffers of a reward model's many shapes filled 24 GB.
	conf, keep = "MALLOC_CONF", "narenas:1,oversize_threshold:0,dirty_decay_ms:2000,muzzy_decay_ms:0"
)

// Start tunes the C heap by starting the program again (same process, same arguments) with an environment that is read
// only at a program's start. Call it first in main. XLA allocates a step's temporaries, and what its matmuls pack, afresh
// every time, from many threads. With tcmalloc or jemalloc, where one is installed, a run on two CPUs takes about
// three quarters of its time with glibc's malloc. Without one, glibc is told to ask for huge pages, which saves it page
// faults where the kernel leaves the choice to programs. Programs that this one starts get the caller's LD_PRELOAD.
func Start() {
	before, again := os.LookupEnv(given)
	if again {
		os.Unsetenv(given)
		os.Unsetenv(preload)
		if before != "" {
			os.Setenv(preload, before)
		}
		if os.Getenv(conf) == keep {
			os.Unsetenv(conf)
			keepLarge()
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	if lib := allocator(); lib != "" {
		env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, preload+"=") })
		env = append(env, given+"="+os.Getenv(preload), preload+"="+strings.Trim(lib+":"+os.Getenv(preload), ":"))
		if _, set := os.LookupEnv(conf); !set && strings.Contains(lib, "jemalloc") {
			env = append(env, conf+"="+keep)
		}
		_ = syscall.Exec(self, os.Args, env) // returns only on failure
		return
	}
	hugePages(self)
}

// allocator is the library that Start puts in malloc's place: $GOBPO_MALLOC, else what is installed; "" for glibc's own.
func allocator() string {
	if lib := os.Getenv(choice); lib == "system" {
		return ""
	} else if lib != "" {
		return lib
	}
	if strings.Contains(os.Getenv(preload), "malloc") { // the caller chose one
		return ""
	}
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	dirs := []string{"/usr/lib/" + triple, "/usr/lib64", "/usr/lib", "/usr/local/lib"}
	if conda := os.Getenv("CONDA_PREFIX"); filepath.IsAbs(conda) && !strings.ContainsAny(conda, ": ") { // which separate LD_PRELOAD
		dirs = append(dirs, filepath.Join(conda, "lib"))
	}
	for _, name := range []string{"libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libtcmalloc.so.4"} {
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path
			}
		}
	}
	return ""
}

// Loaded is the path of the allocator in glibc's place in this process, or "".
func Loaded() string {
	maps, _ := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		if path := strings.Fields(line); len(path) == 6 && strings.Contains(filepath.Base(path[5]), "malloc") {
			return path[5]
		}
	}
	return ""
}

// hugePages is glibc's switch for them.
func hugePages(self string) {
	const name, tunable = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
	enabled, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	set := os.Getenv(name)
	if err != nil || !strings.Contains(string(enabled), "[madvise]") || strings.Contains(set, tunable) {
		return
	}
	if os.Setenv(name, strings.TrimPrefix(set+":"+tunable+"=1", ":")) == nil {
		_ = syscall.Exec(self, os.Args, os.Environ()) // returns only on failure: then with small pages
	}
}
