//go:build !unix

package weights

import (
	"errors"
	"os"
)

func mapFile(*os.File, int64) ([]byte, error) { return nil, errors.ErrUnsupported }
func unmapFile([]byte) error                  { return nil }
func prefetch([]byte, int64, int64)           {}
func drop([]byte, int64, int64)               {}
