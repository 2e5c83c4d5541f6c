//go:build !(cgo && !noxla && ((linux && (amd64 || arm64)) || (darwin && arm64) || (windows && amd64)))

package backend

import (
	"errors"

	"github.com/gomlx/compute"
)

func openXLA(spec, Options) (compute.Backend, error) {
	return nil, errors.New("backend xla: not built in (needs cgo with a C compiler, a supported platform, and no tag noxla)")
}
