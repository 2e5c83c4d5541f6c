//go:build !linux || !cgo || noxla

package cmem

// Start does nothing here.
func Start() {}

// Allocator and Loaded are "" here: the system's own.
func Allocator() string { return "" }

// Loaded is as Allocator.
func Loaded() string { return "" }
