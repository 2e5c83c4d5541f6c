//go:build !linux || !cgo || noxla

package cmem

// Start does nothing here.
func Start() {}

// Loaded is "" here: the system's own.
func Loaded() string { return "" }
