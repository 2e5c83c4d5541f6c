// Package backend opens the compute backend the whole program runs on: XLA through a PJRT plugin where one can be
// had, else gomlx's pure-Go backend.
package backend

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
)

// EnvName is the environment variable read when Options.Name is empty or "auto"; it is gomlx's own.
const EnvName = "GOMLX_BACKEND"

// Options says which backend to open.
type Options struct {
	// Name is one of
	//
	//	"", "auto"           $GOMLX_BACKEND, else XLA if a PJRT plugin is found or can be installed, else go
	//	"xla"                XLA on the best plugin found (CUDA if there is a GPU, else CPU); the CPU plugin is installed if missing
	//	"xla:cpu"            the same, CPU only
	//	"xla:cuda"           a CUDA plugin, never installed by us
	//	"xla:/abs/plugin.so" this plugin
	//	"go"                 gomlx's pure-Go backend
	//
	// An xla name takes go-xla's options after a comma ("xla:cuda,tf32=false") and one of our own: "devices=4", the
	// number of devices a CPU plugin shows (default 1).
	Name string
	// Offline refuses every download; so does GOBPO_OFFLINE=1.
	Offline bool
	// Log receives progress and one-line notices; nil discards them.
	Log io.Writer
}

// Open opens the backend o.Name stands for. A backend that was asked for by name and cannot be opened is an error;
// only "auto" falls back, and says so in one line on o.Log.
func Open(o Options) (compute.Backend, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	name := o.Name
	if name == "" || name == "auto" {
		name = os.Getenv(EnvName)
	}
	s, err := parseName(name)
	if err != nil {
		return nil, err
	}
	switch s.kind {
	case "go":
		return openGo()
	case "xla":
		return openXLA(s, o)
	}
	b, err := openXLA(s, o)
	if err == nil {
		return b, nil
	}
	fmt.Fprintf(o.Log, "backend: no XLA (%v); using the pure-Go backend, which is slower\n", oneLine(err))
	return openGo()
}

// spec is a parsed Options.Name.
type spec struct {
	kind    string // "auto", "xla" or "go"
	plugin  string // "", "cpu", "cuda", another plugin's name, or an absolute path
	options string // go-xla's own options, comma separated
	devices int64  // CPU devices to show
}

// Check reports a name that is none of those that Options lists; whether its backend is here, Open tells.
func Check(name string) error {
	_, err := parseName(name)
	return err
}

func parseName(name string) (spec, error) {
	s := spec{kind: "auto", devices: 1}
	if name == "" || name == "auto" {
		return s, nil
	}
	kind, rest, _ := strings.Cut(name, ":")
	if k, opts, found := strings.Cut(kind, ","); found { // "xla,devices=2"
		kind, rest = k, ","+opts
	}
	s.kind = kind
	switch kind {
	case "go":
		if rest != "" {
			return s, fmt.Errorf("backend %q: the go backend takes no options", name)
		}
		return s, nil
	case "xla":
	default:
		return s, fmt.Errorf("backend %q is unknown: want auto, xla, xla:cpu, xla:cuda, xla:/abs/plugin.so or go", name)
	}
	parts := strings.Split(rest, ",")
	s.plugin = parts[0]
	if strings.ContainsAny(s.plugin, `/\`) && !isAbs(s.plugin) {
		return s, fmt.Errorf("backend %q: a plugin's path must be absolute", name)
	}
	var keep []string
	for _, p := range parts[1:] {
		value, found := strings.CutPrefix(p, "devices=")
		if !found {
			keep = append(keep, p)
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 1 || n > 1024 {
			return s, fmt.Errorf("backend %q: devices=%s: want a number from 1 to 1024", name, value)
		}
		s.devices = n
	}
	s.options = strings.Join(keep, ",")
	return s, nil
}

func openGo() (compute.Backend, error) {
	// gomlx's fused Softmax and Dense fail at run time on bfloat16 and float16 in the Go backend instead of falling
	// back to the decomposed ops. XLA's CPU plugin has none of the fused ops, so this changes nothing there. The
	// price on the Go backend: a [512,512] softmax takes 8.4 ms instead of 3.4 beside the 70 ms of a matmul that size.
	if _, set := os.LookupEnv("GOMLX_FUSION"); !set {
		if err := os.Setenv("GOMLX_FUSION", "0"); err != nil {
			return nil, fmt.Errorf("backend go: %w", err)
		}
	}
	// One operation at a time, each on all cores. The default starts operations side by side in the same pool of workers
	// that a batched matmul asks for more of: with as many matmuls ready as the pool has places, each waits for ever.
	b, err := gobackend.New("ops_sequential")
	if err != nil {
		return nil, fmt.Errorf("backend go: %w", err)
	}
	return b, nil
}

// errNoPlugin is wrapped by openXLA when no plugin was found and none could be installed.
var errNoPlugin = errors.New("no PJRT plugin found")

func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
