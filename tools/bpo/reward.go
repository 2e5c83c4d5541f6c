package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gobpo/data"
	"gobpo/experiments"
)

func newRewardCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reward",
		Short: "Train and measure reward models, which the annotator reward judges with",
	}
	cmd.AddCommand(newRewardTrainCmd(), newRewardEvalCmd())
	return cmd
}

func newRewardTrainCmd() *cobra.Command {
	var sets []string
	var out string
	cmd := &cobra.Command{
		Use:   "train reward.yaml -o directory",
		Short: "Fit a reward model to preferences (Bradley-Terry), and measure it on held-out pairs",
		Long: `Fit a reward model, or with members: n an ensemble, to the pairs of a file: adapters on any base (train: lora), or all
weights (train: full), and a scalar head. The directory is one that transformers (AutoModelForSequenceClassification) or
peft reads, with reward.yaml, metrics.jsonl and results.json beside it; an ensemble has one for each member. Killed at any
moment, the same command goes on, losing five minutes at most.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if backend, _ := cmd.Flags().GetString("backend"); backend != "" {
				sets = append(sets, "backend="+strconv.Quote(backend))
			}
			c, err := experiments.LoadReward(args[0], sets)
			if err != nil {
				return err
			}
			ui := newProgress(cmd.ErrOrStderr())
			defer ui.Close()
			r, err := newSession(cmd).TrainReward(cmd.Context(), c, out, ui.Trial("reward"))
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), out)
			printReward(cmd.OutOrStdout(), r)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&sets, "set", nil, "override a key, as --set optimizer.lr=1e-4 (the value in YAML; repeatable)")
	cmd.Flags().StringVarP(&out, "out", "o", "", "directory for the reward model")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func newRewardEvalCmd() *cobra.Command {
	var o experiments.RewardOptions
	var n int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "eval reward-model pairs.parquet",
		Short: "Accuracy and calibration of a reward model on pairs",
		Long: `Judge pairs (Parquet, or what bpo data import reads) with a reward model: what bpo reward train made, a Hugging Face
sequence classifier with one label, or a PEFT adapter of one. nll is the mean of -ln of the probability given to the
chosen text (ln 2 = 0.693 is knowing nothing), ece the expected calibration error, longer the accuracy of preferring the
longer text.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Validate(); err != nil {
				return fmt.Errorf("--%s", strings.ReplaceAll(err.Error(), "_", "-"))
			}
			if n < 0 {
				return fmt.Errorf("--n: %d is negative", n)
			}
			pairs, err := data.LoadPreferences(args[1])
			if err != nil {
				return err
			}
			if n > 0 && n < len(pairs) {
				pairs = pairs[:n]
			}
			o.Backend, _ = cmd.Flags().GetString("backend")
			m, err := newSession(cmd).OpenReward(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			ui := newProgress(cmd.ErrOrStderr())
			defer ui.Close()
			trial := ui.Trial("reward")
			r, err := m.Measure(cmd.Context(), pairs, func(done, total int) { trial.Doing("measure", done, total) })
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			printReward(cmd.OutOrStdout(), r)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DType, "dtype", "", "float32 or bfloat16 (default: as it was trained, else float32)")
	f.StringVar(&o.Chat, "chat", "", "auto: the model's chat template, or none (default: as it was trained, else auto)")
	f.IntVar(&o.MaxTokens, "max-tokens", 0, "of prompt and completion (at least 2; default: as it was trained, else the model's context)")
	f.IntVar(&o.Batch, "batch", 8, "pairs judged at a time")
	f.IntVarP(&n, "n", "n", 0, "pairs; 0 is all")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printReward(w io.Writer, r experiments.RewardResult) {
	m := r.Metrics
	fmt.Fprintf(w, "accuracy %.3f [%.3f, %.3f] on %.0f pairs; preferring the longer text %.3f\n", m["rewards/accuracies"], m["rewards/accuracies_low"], m["rewards/accuracies_high"], m["n"], m["longer"])
	for i, a := range r.Members {
		fmt.Fprintf(w, "  member %d %.3f\n", i, a)
	}
	fmt.Fprintf(w, "nll %.4f, ece %.4f, mean margin %.3f\n", m["nll"], m["ece"], m["rewards/margins"])
	fmt.Fprintf(w, "%-12s %6s %11s %9s\n", "confidence", "pairs", "predicted", "correct")
	for _, b := range r.Bins {
		fmt.Fprintf(w, "%.2f-%.2f    %6d %11.3f %9.3f\n", b.Low, b.High, b.N, b.Confidence, b.Accuracy)
	}
}
