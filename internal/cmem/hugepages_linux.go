package cmem

import (
	"os"
	"strings"
	"syscall"
)

// HugePages makes the C heap ask for transparent huge pages, by starting the program again (same process, same
// arguments) with glibc's switch for it in the environment, which is read only at a program's start. XLA allocates a
// step's temporaries afresh every time: with pages of 4 KiB, a training step of SmolLM2 on two CPUs spends a sixth of
// its time in page faults. Call it first in main. Where the kernel doesn't leave the choice to programs, or
// GLIBC_TUNABLES already speaks of it, it does nothing.
func HugePages() {
	const name, tunable = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
	choice, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	given := os.Getenv(name)
	if err != nil || !strings.Contains(string(choice), "[madvise]") || strings.Contains(given, tunable) {
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	if os.Setenv(name, strings.TrimPrefix(given+":"+tunable+"=1", ":")) == nil {
		_ = syscall.Exec(self, os.Args, os.Environ()) // returns only on failure: then with small pages
	}
}
