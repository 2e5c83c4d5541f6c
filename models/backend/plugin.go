package backend

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"gobpo/models/fetch"
)

// Plugin is a PJRT plugin found on this machine.
type Plugin struct {
	Name string // "cpu", "cuda", …
	Path string // absolute
}

// The names go-xla's own search accepts.
var pluginFile = regexp.MustCompile(`^(?:pjrt_c_api_(.+)_plugin|pjrt[-_]plugin[-_](.+))\.(?:so|dylib|dll)$`)

// FindPlugins lists the plugins in the places go-xla looks, in its order ($PJRT_PLUGIN_LIBRARY_PATH, else
// ~/.local/lib/go-xla, /usr/local/lib/go-xla and the system's library paths), and then in our own cache. Files that
// are damaged are left out and reported in the error, which does not make the plugins found any less usable.
//
// We search ourselves because go-xla's search loads every candidate, and dereferences nil on one it cannot load.
func FindPlugins() ([]Plugin, error) {
	var found []Plugin
	var bad []error
	seen := map[string]bool{}
	for _, dir := range pluginDirs() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // most of these places do not exist
		}
		for _, e := range entries {
			m := pluginFile.FindStringSubmatch(e.Name())
			path := filepath.Join(dir, e.Name())
			if m == nil || seen[path] {
				continue
			}
			seen[path] = true
			if err := checkPlugin(path); err != nil {
				bad = append(bad, err)
				continue
			}
			found = append(found, Plugin{Name: m[1] + m[2], Path: path})
		}
	}
	return found, errors.Join(bad...)
}

// The OpenXLA authors' CPU plugin, PJRT C API 0.81; go-xla 0.4.1 loads it as it is.
var cpuPlugin = fetch.Asset{
	Package: "xla-cpu-pjrt", Version: "0.0.1",
	WheelSHA256: "55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc", WheelSize: 63461052,
	Member: "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
	SHA256: "88c3f28c5900f48ad4a82cab9e79bba9537809743395e341485f8794268820dc", Size: 259284552,
	Kind: "pjrt", File: "pjrt_c_api_cpu_plugin.so", // the name go-xla's search needs
}

// Verify hashes the plugin if it is the one this package installs; of others there is no checksum to compare with.
func (p Plugin) Verify() (checked bool, err error) {
	if path, ok := cpuPlugin.Path(); !ok || path != p.Path {
		return false, nil
	}
	return true, cpuPlugin.Verify()
}

// matches says whether p answers to name: "cpu" also names a versioned "cpu_v0.114.0".
func (p Plugin) matches(name string) bool {
	return p.Name == name || strings.HasPrefix(p.Name, name+"_")
}

func pluginDirs() []string {
	cache, err := fetch.CacheDir("pjrt")
	if env, set := os.LookupEnv("PJRT_PLUGIN_LIBRARY_PATH"); set {
		dirs := strings.FieldsFunc(env, func(r rune) bool { return r == os.PathListSeparator })
		if err == nil {
			dirs = append(dirs, cache)
		}
		for i, d := range dirs {
			if abs, err := filepath.Abs(d); err == nil {
				dirs[i] = abs
			}
		}
		return dirs
	}
	var dirs []string
	if home, err := os.UserHomeDir(); err == nil {
		lib := filepath.Join(home, ".local", "lib")
		if runtime.GOOS == "darwin" {
			lib = filepath.Join(home, "Library", "Application Support")
		}
		dirs = append(dirs, filepath.Join(lib, "go-xla"), filepath.Join(lib, "go-xla", "nvidia"), filepath.Join(lib, "gomlx", "pjrt"))
	}
	dirs = append(dirs, "/usr/local/lib/go-xla", "/usr/local/lib/go-xla/nvidia", "/usr/local/lib/gomlx/pjrt")
	for _, d := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		if filepath.IsAbs(d) {
			dirs = append(dirs, d)
		}
	}
	dirs = append(dirs, ldConfDirs("/etc/ld.so.conf", 0)...)
	if err == nil {
		dirs = append(dirs, cache)
	}
	return dirs
}

// ldConfDirs reads the directories of an ld.so.conf and of the files it includes.
func ldConfDirs(path string, depth int) []string {
	f, err := os.Open(path)
	if err != nil || depth > 4 {
		return nil
	}
	defer f.Close()
	var dirs []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "#")
		line = strings.TrimSpace(line)
		if pattern, found := strings.CutPrefix(line, "include "); found {
			files, _ := filepath.Glob(strings.TrimSpace(pattern))
			for _, file := range files {
				dirs = append(dirs, ldConfDirs(file, depth+1)...)
			}
		} else if filepath.IsAbs(line) {
			dirs = append(dirs, line)
		}
	}
	return dirs
}

// checkPlugin refuses a shared library whose file is shorter than its own headers say: loading one ends the process
// with SIGBUS. Only ELF files are checked.
//
// The plugin we installed is also checked to be unchanged: pages of zeros within make the dynamic linker end the
// process too.
func checkPlugin(path string) error {
	if ours, ok := cpuPlugin.Path(); path == ours && !ok {
		return fmt.Errorf("plugin %s is damaged: not the file that was installed", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("plugin %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("plugin %s: %w", path, err)
	}
	if runtime.GOOS != "linux" {
		return nil
	}
	lib, err := elf.NewFile(f) // reads the section table, which linkers put last
	if err != nil {
		return fmt.Errorf("plugin %s is damaged (truncated, or no shared library): %w", path, err)
	}
	for _, p := range lib.Progs {
		if p.Off+p.Filesz > uint64(info.Size()) {
			return fmt.Errorf("plugin %s is damaged: %d bytes, but its headers need %d", path, info.Size(), p.Off+p.Filesz)
		}
	}
	return nil
}

func isAbs(path string) bool { return filepath.IsAbs(path) }
