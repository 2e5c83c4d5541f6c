package data

import (
	"crypto/rand"
	"encoding/hex"
	"os"
)

// tempSuffix keeps two writers of one path, in one process or two, apart.
func tempSuffix() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// syncDir makes a rename durable. Some file systems cannot sync a directory;
// the file itself is already synced, so that is not an error.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}
