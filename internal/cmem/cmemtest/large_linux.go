//go:build linux && cgo && !noxla

// Package cmemtest allocates from the C heap for the tests of cmem: test files themselves cannot use C.
package cmemtest

/*
#include <stdlib.h>

static void large(size_t bytes) {
	volatile char *p = malloc(bytes); // volatile, or the compiler leaves it all out
	if (!p) abort();
	for (size_t i = 0; i < bytes; i += 4096) p[i] = 1;
	free((void *)p);
}
*/
import "C"

import "syscall"

// Large writes into a C buffer of this many bytes n times, freeing it each time, and returns the page faults of that.
func Large(bytes, n int) int64 {
	faults := func() int64 {
		var usage syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
		return usage.Minflt
	}
	before := faults()
	for range n {
		C.large(C.size_t(bytes))
	}
	return faults() - before
}
