//go:build !linux

package cmem

// HugePages does nothing here.
func HugePages() {}
