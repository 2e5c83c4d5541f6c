//go:build !linux || !cgo || noxla

package cmem

// Trim does nothing here.
func Trim() {}
