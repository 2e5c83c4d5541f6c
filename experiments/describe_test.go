package experiments

import "testing"

// What a run of 8 steps of 16 pairs, n = 2, 24 tokens, asks for, and what its options take away.
func TestCost(t *testing.T) {
	for _, c := range []struct {
		yaml                                 string
		prompts, completions, tokens, judged int
	}{
		{"", 128, 256, 256 * 24, 256},
		{"sample: {n: 4}", 128, 512, 512 * 24, 512},
		{"sample: {n: 4, pick: random}", 128, 512, 512 * 24, 256},
		{"mix: {pairs: x.parquet, share: 0.25}", 96, 192, 192 * 24, 192},
		{"data: self_play\nself_play: {segment: 6}\nreference: sft", 128, 128, 128 * 6, 0},
		{"data: offline:x.parquet\nbehavior: sft\nreference: sft", 0, 0, 0, 0},
	} {
		text := "study: s\ntask: {name: picnic}\nsteps: 8\nbatch_size: 16\nmax_completion_tokens: 24\n"
		trials, msg := load(t, text+c.yaml, nil, nil)
		if msg != "" {
			t.Fatalf("%s: %s", c.yaml, msg)
		}
		k := trials[0].Config.Cost()
		if k.Prompts != c.prompts || k.Completions != c.completions || k.SampledTokens != c.tokens || k.Annotations != c.judged {
			t.Errorf("%q: %s", c.yaml, k)
		}
	}
}

// What a trial would need is told before the study that it takes its pairs from is there.
func TestMemoryWithoutGivenPairs(t *testing.T) {
	for _, set := range []string{"data=offline:study:later", "mix={pairs: study:later, share: 0.5}"} {
		trials, msg := load(t, taskYAML, []string{set}, nil)
		if msg != "" {
			t.Fatal(msg)
		}
		if c, err := trials[0].Config.modelConfig(nil); err != nil || c.VocabSize == 0 {
			t.Errorf("%s: %v", set, err)
		}
	}
}
