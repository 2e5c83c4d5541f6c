package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gobpo/data"
)

func newDataCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "data",
		Short: "Import, look at and check prompts and preferences (docs/data.md)",
	}
	cmd.AddCommand(newDataImportCmd(), newDataShowCmd(), newDataCheckCmd())
	return cmd
}

func newDataImportCmd() *cobra.Command {
	var (
		o      data.ImportOptions
		out    string
		splits string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "import FILE... --out FILE.parquet",
		Short: "Turn JSONL, JSONL.gz or Parquet of the usual layouts into our Parquet",
		Long: `Reads the files in order and writes one Parquet file of prompts or preferences, or one for each split.
Every row is written or counted with the reason it was left out; a malformed one ends the import with its
file and line, and nothing is written.`,
		Example: `  bpo data import train.jsonl --out prompts.parquet --dedup exact
  bpo data import harmless-base.jsonl.gz --out pairs.parquet --split train=0.9,dev=0.05,test=0.05`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("--out: the Parquet file to write is missing")
			}
			if splits != "" {
				var err error
				if o.Splits, err = data.ParseSplits(splits); err != nil {
					return fmt.Errorf("--split: %w", err)
				}
			}
			start, last := time.Now(), time.Now()
			o.OnRow = func(r data.ImportReport) {
				if time.Since(last) < 2*time.Second {
					return
				}
				last = time.Now()
				fmt.Fprintf(cmd.ErrOrStderr(), "%d rows read, %.0f a second\n", r.Rows, float64(r.Rows)/time.Since(start).Seconds())
			}
			rep, err := data.Import(cmd.Context(), args, out, o)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(rep)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), rep)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "out", "o", "", "the Parquet file to write; with --split, its name gets -<split> added")
	f.StringVar(&o.Layout, "layout", "auto", "layout of the rows: "+strings.Join(data.Layouts, ", "))
	f.StringVar(&o.As, "as", "auto", "what to write: auto, prompts (of a preference, its prompt with the chosen text as reference) or preferences")
	f.StringVar(&o.Dedup, "dedup", "none", "leave out later rows: exact (all texts equal), prompt (prompt equal) or none")
	f.StringVar(&splits, "split", "", "split by a hash of the prompt, e.g. train=0.9,dev=0.05,test=0.05")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the split")
	f.BoolVar(&o.Force, "force", false, "replace existing files")
	f.BoolVar(&asJSON, "json", false, "print the counts as JSON")
	return cmd
}

func newDataCheckCmd() *cobra.Command {
	var (
		o      data.CheckOptions
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Report rows, duplicates, leakage between the files, lengths and flaws",
		Long: `Files that share a prompt leak: that is an error, as are files that cannot be read or are empty, and the
exit status is non-zero. Everything else is a warning.`,
		Example: "  bpo data check train.parquet dev.parquet test.parquet",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rep := data.Check(o, args...)
			var err error
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(rep)
			} else {
				err = rep.Print(cmd.OutOrStdout())
			}
			if err == nil && len(rep.Errors) > 0 {
				err = fmt.Errorf("data check: the report above has %d errors", len(rep.Errors))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.AllowLeakage, "allow-leakage", false, "prompts shared between the files are a warning, not an error")
	f.StringVar(&o.Layout, "layout", "auto", "layout of files that are not ours: "+strings.Join(data.Layouts, ", "))
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}
