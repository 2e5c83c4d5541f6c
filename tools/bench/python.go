package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

//go:embed peer.py
var peerScript string

// findPython picks the peer's interpreter: the flag's, $GOBPO_PYTHON, python3. missing says why there is none.
func findPython(ctx context.Context, flag string) (python, missing string) {
	python = flag
	for _, p := range []string{os.Getenv("GOBPO_PYTHON"), "python3"} {
		if python == "" {
			python = p
		}
	}
	const script = "import importlib.util as u; print(*[m for m in ('torch', 'transformers', 'peft') if not u.find_spec(m)])"
	out, err := exec.CommandContext(ctx, python, "-c", script).Output()
	if err != nil {
		return "", fmt.Sprintf("%s does not run (%v); name an interpreter with --python", python, err)
	}
	if lacks := strings.Fields(string(out)); len(lacks) > 0 {
		return "", fmt.Sprintf("%s lacks %s: %s -m pip install torch transformers peft gguf accelerate", python, strings.Join(lacks, ", "), python)
	}
	return python, ""
}
