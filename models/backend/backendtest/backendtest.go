// Package backendtest gives tests the backends to run on. Each backend is opened once per test process and shared.
package backendtest

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/compute"

	"gobpo/models/backend"
)

type opened struct {
	b   compute.Backend
	err error
}

var (
	openXLA = sync.OnceValue(func() opened {
		if os.Getenv(flagsEnv) == "" { // tests compile many graphs and run each a few times
			os.Setenv(flagsEnv, "--xla_backend_optimization_level=0")
		}
		name := "xla:cpu"
		if env := os.Getenv(backend.EnvName); strings.HasPrefix(env, "xla") {
			name = env
		}
		b, err := backend.Open(backend.Options{Name: name, Log: os.Stderr})
		return opened{b, err}
	})
	openGo = sync.OnceValue(func() opened {
		b, err := backend.Open(backend.Options{Name: "go"})
		return opened{b, err}
	})
)

// flagsEnv is read by the XLA plugin when it is loaded.
const flagsEnv = "XLA_FLAGS"

// Each runs the body as subtests "xla" and "go". The Go backend lacks DynamicSlice and DynamicUpdateSlice and is far
// slower: keep such bodies tiny.
func Each(t *testing.T, body func(t *testing.T, b compute.Backend)) {
	t.Helper()
	t.Run("xla", func(t *testing.T) { body(t, XLA(t)) })
	t.Run("go", func(t *testing.T) { body(t, Go(t)) })
}

// XLA returns the process's XLA backend ($GOMLX_BACKEND if that names one, else xla:cpu with one device). Where it
// cannot be had, the test fails on CI (environment variable CI set) and is skipped elsewhere.
func XLA(t testing.TB) compute.Backend {
	t.Helper()
	o := openXLA()
	if o.err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("XLA is needed on CI: %v", o.err)
		}
		t.Skipf("no XLA on this machine: %v", o.err)
	}
	return o.b
}

// Go returns the process's pure-Go backend.
func Go(t testing.TB) compute.Backend {
	t.Helper()
	o := openGo()
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o.b
}
