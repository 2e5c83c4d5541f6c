// Command randomckpt makes a Hugging Face directory with the shapes of a known model and random weights, to test what
// size does: loading, memory, speed. The texts it gives are noise.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	c := checkpoint{like: "gemma-2b", dtype: "bfloat16", shardMB: 2000}
	cmd := &cobra.Command{
		Use:   "randomckpt --like gemma-2b -o directory",
		Short: "Make a checkpoint of random weights in the shape of a known model",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			bytes, err := c.write()
			if err == nil {
				fmt.Printf("%s: %d MB of weights\n", c.dir, bytes>>20)
			}
			return err
		},
		SilenceUsage: true,
	}
	f := cmd.Flags()
	f.StringVar(&c.like, "like", c.like, "the model whose shapes to take: "+names())
	f.StringVarP(&c.dir, "out", "o", "", "directory to make")
	f.StringVar(&c.dtype, "dtype", c.dtype, "of the weights: bfloat16, float16 or float32")
	f.Int64Var(&c.shardMB, "shard-mb", c.shardMB, "a shard ends before it exceeds this")
	f.Uint64Var(&c.seed, "seed", 0, "the same seed gives the same bytes")
	_ = cmd.MarkFlagRequired("out")
	if cmd.Execute() != nil {
		os.Exit(1)
	}
}
