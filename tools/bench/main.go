// Command bench measures this framework against a Python peer (torch, transformers, peft) doing the same work: in one
// run, on one machine, interleaved, so that the ratios hold even where the rates depend on the machine. docs/bench.md
// says what is counted.
//
//	go run ./tools/bench [--quick] [--only regexp] [--python python3] [--json file]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"

	"github.com/gomlx/compute/dtypes"

	"gobpo/internal/cmem"
	"gobpo/models"
	"gobpo/models/fetch"
)

type options struct {
	quick, noPeer         bool
	rounds                int
	only, python, backend string
	json, model           string
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == workerArg {
		cmem.Start()
		if err := work(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "few rounds of the main cases only")
	flag.IntVar(&o.rounds, "rounds", 0, "measured runs of each case on each side (0: 7, quick 3)")
	flag.StringVar(&o.only, "only", "", "run only the cases whose name matches this regular expression")
	flag.StringVar(&o.python, "python", "", "interpreter of the peer (default $GOBPO_PYTHON, else python3)")
	flag.BoolVar(&o.noPeer, "no-peer", false, "measure this framework alone")
	flag.StringVar(&o.backend, "backend", "xla:cpu", "backend of this framework; the peer always runs on the CPU")
	flag.StringVar(&o.model, "model", "", "GGUF of a Llama-family model (default SmolLM2-135M)")
	flag.StringVar(&o.json, "json", "", "write everything measured to this file too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, o options, out, log io.Writer) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	if o.rounds == 0 {
		o.rounds = 7
		if o.quick {
			o.rounds = 3
		}
	}
	path, ok := o.model, true
	if path == "" {
		path, ok = fetch.SmolLM2Path()
	}
	if !ok {
		return fmt.Errorf("SmolLM2 is not here: run `go run ./tools/bpo fetch smollm2`, or name its GGUF in $GOBPO_SMOLLM2")
	}
	config, err := modelConfig(path)
	if err != nil {
		return err
	}
	var plan []task
	for _, t := range tasks(o.quick) {
		if only.MatchString(t.Name) {
			t.Model, t.Config, t.Backend = path, config, o.backend
			plan = append(plan, t)
		}
	}
	if len(plan) == 0 {
		return fmt.Errorf("--only %s matches no case", o.only)
	}
	rep := &report{CPUs: runtime.NumCPU(), Rounds: o.rounds, Model: path, XLAFlags: os.Getenv("XLA_FLAGS"), Load: loadAverage(), Config: config}
	var python string
	if !o.noPeer {
		python, rep.PeerMissing = findPython(ctx, o.python)
	}
	scratch, err := os.MkdirTemp("", "gobpo-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	rep.ReadGBs = readBandwidth()
	var failed error
	for i, t := range plan {
		fmt.Fprintf(log, "[%d/%d] %s\n", i+1, len(plan), t.Name)
		r, err := measure(ctx, t, o.rounds, python, scratch, log)
		if err != nil { // what was measured before is still worth its minutes
			failed = fmt.Errorf("%s: %w", t.Name, err)
			break
		}
		rep.Results = append(rep.Results, r)
	}
	rep.print(out)
	if o.json != "" {
		failed = errors.Join(failed, rep.write(o.json))
	}
	return failed
}

// modelConfig is the shape of the model in a GGUF file.
func modelConfig(path string) (models.Config, error) {
	m, err := models.Load(path, dtypes.Float32)
	if err != nil {
		return models.Config{}, err
	}
	defer m.Base.Finalize()
	return m.Config, nil
}

// measure runs one case: both sides are started one after the other, warmed up, and then take turns, alternating who is
// first, while the other one waits on its standard input.
func measure(ctx context.Context, t task, rounds int, python, scratch string, log io.Writer) (result, error) {
	r := result{Task: t}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	text := t.json()
	sides := []*side{{name: "gobpo", args: []string{self, workerArg, text}}}
	if python != "" {
		sides = append(sides, &side{name: "peer", args: []string{python, "-c", peerScript, text}})
	}
	for _, s := range sides {
		fmt.Fprintf(log, "  start %-6s", s.name)
		p, err := start(ctx, scratch, s.args)
		if err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		defer p.kill()
		s.proc = p
		if s.Ready, err = p.read(); err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		s.StartCPU = p.cpuSeconds()
		fmt.Fprintf(log, " loaded in %.1f s, first run %.1f s, peak %.0f MB\n", s.Ready.Load, s.Ready.Warmup, p.peakMB())
	}
	for round := range rounds {
		for i := range sides {
			s := sides[(i+round)%len(sides)]
			if t.Kind == "train" {
				// Steps of a training run follow each other. After a pause the first one is slower on a virtual machine that
				// gives freed memory back to its host, by as much as the temporaries are large.
				if _, err := s.proc.ask(); err != nil {
					return r, fmt.Errorf("%s: %w", s.name, err)
				}
			}
			before := s.proc.cpuSeconds()
			answer, err := s.proc.ask()
			if err != nil {
				return r, fmt.Errorf("%s: %w", s.name, err)
			}
			s.Runs = append(s.Runs, answer.Seconds)
			s.CPU = append(s.CPU, s.proc.cpuSeconds()-before)
			fmt.Fprintf(log, "  round %d %-6s %s\n", round+1, s.name, seconds(answer.Seconds))
		}
	}
	for _, s := range sides {
		s.PeakMB = s.proc.peakMB()
		if err := s.proc.close(); err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	r.Ours = &sides[0].measured
	if len(sides) > 1 {
		r.Peer = &sides[1].measured
	}
	return r, nil
}
