package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gobpo/experiments"
)

func newWatchCmd() *cobra.Command {
	once, every := false, 2*time.Second
	cmd := &cobra.Command{
		Use:   "watch runs/<study>",
		Short: "Show how far the runs of a sweep are, live",
		Long: `Show state, step, loss, margin, win rate and speed of a study's runs, those at work first, again every few seconds. It only
reads files, so it works beside the sweep, from another machine on a shared directory too. In a pipe, or with --once, it
shows them all, once. "age" is the time since a run last wrote metrics: a running one that is old was killed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			file, isFile := out.(*os.File)
			live := !once && isFile && term.IsTerminal(int(file.Fd()))
			for {
				all, err := experiments.Status(args[0])
				if err != nil {
					return err
				}
				most := 0
				width := 0
				if live {
					if w, height, err := term.GetSize(int(file.Fd())); err == nil {
						most, width = max(1, height-5), w
					}
				}
				var page bytes.Buffer
				if err := experiments.PrintStatus(&page, all, most, time.Now()); err != nil {
					return err
				}
				if !live {
					_, err := out.Write(page.Bytes())
					return err
				}
				fmt.Fprint(out, "\x1b[H\x1b[2J", fit(page.String(), width)) // home, clear
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "show once and end")
	cmd.Flags().DurationVar(&every, "every", every, "time between two looks")
	return cmd
}

// fit cuts lines at the terminal's width, so that none takes two.
func fit(page string, width int) string {
	if width <= 0 {
		return page
	}
	lines := strings.Split(page, "\n")
	for i, line := range lines {
		if letters := []rune(line); len(letters) > width {
			lines[i] = string(letters[:width])
		}
	}
	return strings.Join(lines, "\n")
}
