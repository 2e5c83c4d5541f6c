//go:build linux && cgo && !noxla

package cmem

/*
#include <stddef.h>
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>

// Before any thread of Go or XLA can have made an arena of its own.
__attribute__((constructor)) static void one_arena(void) { mallopt(M_ARENA_MAX, 1); }
static void trim_libc(void) { malloc_trim(0); }
#else
static void trim_libc(void) {}
#endif

// Of a preloaded allocator; absent, they are null.
extern int mallctl(const char *, void *, size_t *, void *, size_t) __attribute__((weak));
extern void MallocExtension_ReleaseFreeMemory(void) __attribute__((weak));

static void trim(void) {
	if (MallocExtension_ReleaseFreeMemory) MallocExtension_ReleaseFreeMemory();
	else if (mallctl) mallctl("arena.4096.purge", NULL, NULL, NULL, 0); // 4096: MALLCTL_ARENAS_ALL
	else trim_libc();
}

static void keep_large(void) {
	size_t never = (size_t)1 << 60;
	if (mallctl) mallctl("arena.0.oversize_threshold", NULL, NULL, &never, sizeof never);
}
*/
import "C"

// The C heap is kept in one piece. XLA allocates and frees large buffers from many threads; with glibc's arena for each
// thread, freed buffers stay behind in all of them: a SmolLM2 run held 11 to 13 GB, and 3.5 to 4.5 GB with one arena.
// MALLOC_ARENA_MAX in the environment does the same for a program that doesn't import this package.

// Trim gives the C heap's free pages back to the system. Compiling a gradient graph leaves about a gigabyte of them.
func Trim() { C.trim() }

// keepLarge lets jemalloc keep freed buffers above 8 MB for as long as others. Its first arena gives those back at once,
// whatever MALLOC_CONF says of oversize_threshold, and most of XLA's temporaries are such.
func keepLarge() { C.keep_large() }
