//go:build cgo && !noxla && ((linux && (amd64 || arm64)) || (darwin && arm64) || (windows && amd64))

package backend

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/installer"
	"github.com/gomlx/go-xla/pjrt"
)

func init() {
	// Plugins are found and installed by this package, with a checksum and only when asked: go-xla would download in
	// the middle of opening a backend.
	xla.EnableAutoInstall(false)
}

func openXLA(s spec, o Options) (compute.Backend, error) {
	if filepath.IsAbs(s.plugin) {
		if err := checkPlugin(s.plugin); err != nil {
			return nil, fmt.Errorf("backend xla: %w", err)
		}
		return newXLA(s, s.plugin)
	}
	found, bad := FindPlugins()
	for _, name := range wanted(s.plugin) {
		for _, p := range found {
			if p.matches(name) {
				return newXLA(s, p.Path)
			}
		}
	}
	if bad != nil {
		fmt.Fprintf(o.Log, "backend: %s\n", oneLine(bad))
	}
	if s.plugin != "" && s.plugin != "cpu" {
		return nil, fmt.Errorf("backend xla: %w for %q; install go-xla's (see its README) or set PJRT_PLUGIN_LIBRARY_PATH", errNoPlugin, s.plugin)
	}
	path, err := install(o)
	if err != nil {
		return nil, fmt.Errorf("backend xla: %w: %w", errNoPlugin, err)
	}
	return newXLA(s, path)
}

// wanted lists the plugin names that satisfy a requested name, best first.
func wanted(name string) []string {
	if name != "" {
		return []string{name}
	}
	if installer.HasNvidiaGPU() {
		return []string{"cuda", "cpu"}
	}
	return []string{"cpu"}
}

func newXLA(s spec, path string) (compute.Backend, error) {
	config := path
	if s.options != "" {
		config += "," + s.options
	}
	// The CPU plugin shows 4 devices by default; we run everything on one. That costs no speed, as a device is not a
	// core: a float32 1024³ matmul ran on all cores either way, for the same CPU time (150 products: 4.2–4.9 s with
	// one device, 4.1–4.8 s with four), at best 147 GFLOP/s with one and 162 with four on a busy 2-core EPYC where
	// single runs ranged from 68 to 162.
	var options pjrt.NamedValuesMap
	if strings.Contains(strings.ToLower(filepath.Base(path)), "cpu") {
		options = pjrt.NamedValuesMap{"cpu_device_count": s.devices}
	}
	b, err := xla.NewWithOptions(config, options)
	if err != nil {
		return nil, fmt.Errorf("backend xla: cannot open %s: %w", path, err)
	}
	return b, nil
}
