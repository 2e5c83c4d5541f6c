package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"gobpo/experiments"
)

// experimentFlags are the flags of every verb that reads an experiment file.
type experimentFlags struct{ sets []string }

func (e *experimentFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&e.sets, "set", nil, "override a key, as --set loss.beta=0.2 (the value in YAML; repeatable)")
}

// load reads the file named by the arguments with the environment, --set and --backend laid over it.
func (e *experimentFlags) load(cmd *cobra.Command, path string) (*experiments.File, error) {
	sets := e.sets
	if backend, _ := cmd.Flags().GetString("backend"); backend != "" {
		sets = append(sets, "backend="+strconv.Quote(backend))
	}
	return experiments.Load(path, sets, os.Environ())
}

// trials reads the file and expands its sweep.
func (e *experimentFlags) trials(cmd *cobra.Command, path string) ([]experiments.Trial, error) {
	f, err := e.load(cmd, path)
	if err != nil {
		return nil, err
	}
	return f.Trials()
}

// only refuses flags that what is done has no use for: an ignored one would pass for something that it didn't do.
func only(cmd *cobra.Command, what string, flags ...string) error {
	for _, flag := range flags {
		if cmd.Flags().Changed(flag) {
			return fmt.Errorf("--%s: only with %s", flag, what)
		}
	}
	return nil
}

// offline says whether nothing may be downloaded.
func offline(cmd *cobra.Command) bool {
	v, _ := cmd.Flags().GetBool("offline")
	return v
}
