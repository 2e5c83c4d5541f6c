//go:build !linux

package cmem

// Start does nothing here.
func Start() {}

// Allocator is "" here: the system's own.
func Allocator() string { return "" }
