package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"gobpo/experiments"
)

// exportFlags are those of the verbs that write a model.
type exportFlags struct {
	out, dtype, shard string
	adapter, force    bool
}

func (e *exportFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&e.out, "out", "o", "", "directory to write")
	f.BoolVar(&e.adapter, "adapter", false, "write the adapter alone, as peft reads it")
	f.StringVar(&e.dtype, "dtype", "", "float32, bfloat16 or float16 (default: as the base has its weights)")
	f.StringVar(&e.shard, "shard-size", "5GB", "largest weight file")
	f.BoolVar(&e.force, "force", false, "replace the directory if it is there")
	_ = cmd.MarkFlagRequired("out")
}

var exportDTypes = map[string]dtypes.DType{"": dtypes.InvalidDType, "float32": dtypes.Float32, "bfloat16": dtypes.BFloat16, "float16": dtypes.Float16}

// write exports what the flags say and says where.
func (e *exportFlags) write(cmd *cobra.Command, a *experiments.Artifact) error {
	dtype, ok := exportDTypes[e.dtype]
	if !ok {
		return fmt.Errorf("--dtype: %q is not float32, bfloat16 or float16", e.dtype)
	}
	shard, err := humanize.ParseBytes(e.shard)
	if err != nil || shard == 0 {
		return fmt.Errorf("--shard-size: %q is not a size such as 5GB", e.shard)
	}
	if err := a.Export(e.out, experiments.ExportOptions{Adapter: e.adapter, DType: dtype, ShardBytes: int64(shard), Force: e.force}); err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), e.out)
	return err
}

func newExportCmd() *cobra.Command {
	var e exportFlags
	var base string
	cmd := &cobra.Command{
		Use:   "export runs/<study>/<run> -o directory",
		Short: "Write a run's policy as a Hugging Face directory or a PEFT adapter, with a model card",
		Long: `Write a trained policy for transformers (the adapter merged into its base) or, with --adapter, for peft. The model card
holds the method, the resolved configuration, hashes of the data and the results. A PEFT adapter, a Hugging Face
directory or a GGUF file can be given in place of a run: it is merged or converted.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := newSession(cmd).OpenArtifact(cmd.Context(), args[0], base)
			if err != nil {
				return err
			}
			defer a.Close()
			return e.write(cmd, a)
		},
	}
	e.add(cmd)
	cmd.Flags().StringVar(&base, "base", "", "the model underneath a PEFT adapter (default: the one it names)")
	return cmd
}

func newMergeCmd() *cobra.Command {
	var e exportFlags
	var base string
	o := experiments.MergeOptions{}
	var ops []string
	for _, op := range experiments.MergeOps {
		ops = append(ops, fmt.Sprintf("  %-12s %s", op.Name, op.Doc))
	}
	cmd := &cobra.Command{
		Use:   "merge --op op -o directory model...",
		Short: "Merge runs, models or adapters into one",
		Long: `Merge models and write the result as bpo export does. A model is a run directory (its final policy), a Hugging Face
directory, a GGUF file, or a PEFT adapter over --base or the base that it names. Weights are read and written one
tensor at a time.

` + strings.Join(ops, "\n"),
		Example: "  bpo merge --op extrapolate --alpha 0.3 -o expo sft/ runs/study/abc\n  bpo merge --op mean_delta --adapter -o ensemble lora-0 lora-1 lora-2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			op, err := experiments.MergeOpOf(o.Op)
			if err != nil {
				return err
			}
			for _, flag := range []string{"weights", "alpha", "density", "scale"} {
				if slices.Contains(op.Reads, flag) {
					continue
				}
				if err := only(cmd, "--op "+experiments.OpsThatRead(flag), flag); err != nil {
					return err
				}
			}
			s := newSession(cmd)
			open := func(path, base string) (*experiments.Artifact, error) {
				return s.OpenArtifact(cmd.Context(), path, base)
			}
			inputs := make([]*experiments.Artifact, len(args))
			for i, path := range args {
				var err error
				if inputs[i], err = open(path, base); err != nil {
					return err
				}
				defer inputs[i].Close()
			}
			var under *experiments.Artifact
			if base != "" {
				var err error
				if under, err = open(base, ""); err != nil {
					return err
				}
				defer under.Close()
			}
			merged, err := experiments.Merge(inputs, under, o)
			if err != nil {
				return err
			}
			return e.write(cmd, merged)
		},
	}
	e.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Op, "op", "average", "how (see above)")
	f.Float64SliceVar(&o.Weights, "weights", nil, "weights of the models (default: equal); of average and mean_delta they sum to 1")
	f.Float64Var(&o.Alpha, "alpha", 0.5, "α of ema, in [0, 1], and of extrapolate")
	f.Float64Var(&o.Density, "density", 0.2, "share of each tensor's delta that ties keeps")
	f.Float64Var(&o.Scale, "scale", 1, "factor of ties' merged delta")
	f.StringVar(&base, "base", "", "the model underneath adapters, and the one that ties takes deltas from")
	return cmd
}
