// Package cmem tunes the C heap, which XLA's CPU plugin allocates from and Go's memory settings do not reach.
package cmem
