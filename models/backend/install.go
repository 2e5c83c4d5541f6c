//go:build cgo && !noxla && ((linux && (amd64 || arm64)) || (darwin && arm64) || (windows && amd64))

package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/gomlx/go-xla/installer"

	"gobpo/models/fetch"
)

// install brings a CPU plugin into the cache and returns its path: from pip where there is a wheel for this platform,
// else by go-xla's own installer (its releases carry no checksum, hence second).
func install(o Options) (string, error) {
	if fetch.Offline(o.Offline) {
		return "", fetch.ErrOffline
	}
	pipErr := fmt.Errorf("no pip package for %s/%s", runtime.GOOS, runtime.GOARCH)
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" {
		var path string
		if path, pipErr = cpuPlugin.Fetch(context.Background(), o.Log, o.Offline); pipErr == nil {
			return path, nil
		}
		if errors.Is(pipErr, fetch.ErrChecksum) { // somebody's file, not the one we pinned: stop, look no further
			return "", pipErr
		}
	}
	fmt.Fprintf(o.Log, "backend: %s; trying go-xla's installer\n", oneLine(pipErr))
	path, err := installGoXLA()
	if err != nil {
		return "", fmt.Errorf("%w; go-xla's installer: %w", pipErr, err)
	}
	return path, nil
}

// installGoXLA is a variable so that tests need no network.
var installGoXLA = func() (string, error) {
	dir, err := fetch.CacheDir("pjrt")
	if err != nil {
		return "", err
	}
	if err := installer.CPUAutoInstall(dir, true, installer.Quiet); err != nil {
		return "", err
	}
	found, bad := FindPlugins()
	for _, p := range found {
		if p.matches("cpu") {
			return p.Path, nil
		}
	}
	return "", errors.Join(errors.New("it left no plugin in "+dir), bad)
}
