package annotate

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/gonum/stat/distuv"
)

func init() {
	Register(Kind{
		Name: "judge",
		Doc:  "A language model behind an OpenAI-compatible endpoint compares completions, in both orders; it gives preferences and no scores.",
		Params: []Param{
			{Name: "endpoint", Default: "", Doc: "base URL, up to and with /v1 (required)"},
			{Name: "model", Default: "", Doc: "the judge's name there (required)"},
			{Name: "template", Default: "helpfulness", Doc: "tldr, helpfulness, harmlessness, or a file with {{.Prompt}}, {{.A}} and {{.B}} that asks for a line \"Preferred: A\", \"B\" or \"tie\"", File: IsTemplateFile},
			{Name: "api_key_env", Default: "OPENAI_API_KEY", Doc: "environment variable that holds the key"},
			{Name: "max_tokens", Default: 256.0, Doc: "of an answer"},
			{Name: "sampling_temperature", Default: 0.0, Doc: "of the judge; above 0 its answers depend on the seed"},
			{Name: "concurrency", Default: 8.0, Doc: "requests at a time, of all judges of the process that give the endpoint this number"},
			{Name: "rate", Default: 0.0, Doc: "requests a second at most, shared likewise; 0: no limit"},
			{Name: "retries", Default: 6.0, Doc: "of a request that fails in a way that may pass: timeouts, 408, 409, 429, 5xx, broken answers"},
			{Name: "timeout", Default: 60.0, Doc: "seconds of one try"},
			{Name: "cache", Default: "", Doc: "directory of answers by content, shared by runs and processes; empty: in the user's cache; none: not kept"},
			{Name: "max_unparsed", Default: 0.1, Doc: "share of answers without a verdict, which count as ties; more of them than it explains, over all asked so far, fail the annotation"},
			{Name: "price_in", Default: 0.0, Doc: "of a million prompt tokens, for judge/cost"},
			{Name: "price_out", Default: 0.0, Doc: "of a million answer tokens"},
		},
		Build: newJudge,
	})
}

//go:embed templates/*.tmpl
var templates embed.FS

// judge asks a chat model which of two completions is better. Pairs of more than two completions meet each other once; a
// completion's rank counts those with more victories, a tie being half a victory.
type judge struct {
	name        string
	question    Question
	client      *chatClient
	maxUnparsed float64
	concurrency int
	drawn       bool // answers are sampled

	mu              sync.Mutex
	asked, unparsed int    // since the judge was made
	unread          string // the end of one without a verdict
}

func newJudge(a Args) (Annotator, error) {
	for _, required := range []string{"endpoint", "model"} {
		if a.String(required) == "" {
			return nil, fmt.Errorf("%s: required", required)
		}
	}
	for _, positive := range []string{"concurrency", "timeout", "max_tokens"} {
		if a.Float(positive) < 1 {
			return nil, fmt.Errorf("%s: %v is not at least 1", positive, a.Float(positive))
		}
	}
	for _, share := range []string{"rate", "retries", "sampling_temperature", "max_unparsed", "price_in", "price_out"} {
		if a.Float(share) < 0 {
			return nil, fmt.Errorf("%s: %v is negative", share, a.Float(share))
		}
	}
	j := &judge{name: a.Name, maxUnparsed: a.Float("max_unparsed"), concurrency: int(min(a.Float("concurrency"), 1<<20)), drawn: a.Float("sampling_temperature") > 0}
	var err error
	if j.question, err = JudgeTemplate(a.String("template")); err != nil {
		return nil, err
	}
	cache := a.String("cache")
	switch cache {
	case "none":
		cache = ""
	case "":
		if cache, err = os.UserCacheDir(); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		cache = filepath.Join(cache, "gobpo", "judge")
	}
	j.client, err = newChatClient(chatConfig{
		Endpoint: a.String("endpoint"), Model: a.String("model"), KeyEnv: a.String("api_key_env"), Cache: cache,
		Concurrency: j.concurrency, MaxTokens: int(a.Float("max_tokens")), Temperature: a.Float("sampling_temperature"), Rate: a.Float("rate"), Retries: int(a.Float("retries")),
		Timeout: time.Duration(a.Float("timeout") * float64(time.Second)), PriceIn: a.Float("price_in"), PriceOut: a.Float("price_out"),
	})
	return j, err
}

func (j *judge) Name() string { return j.name }

// Usage counts what the judge was asked since it was made: requests (tries), retries, cached answers, unparsed ones, tokens
// and their cost.
func (j *judge) Usage() map[string]float64 { return j.client.usage() }

// Question is what a judge is asked about two completions of a prompt.
type Question func(prompt, a, b string) (string, error)

// IsTemplateFile tells a file from the templates that come with the package.
func IsTemplateFile(name string) bool {
	_, err := templates.Open("templates/" + name + ".tmpl")
	return err != nil
}

// JudgeTemplate gives the question of a template: tldr, helpfulness, harmlessness, or a file. Its errors begin with
// "template: ".
func JudgeTemplate(name string) (Question, error) {
	text, err := templates.ReadFile("templates/" + name + ".tmpl")
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("template: %q is not one of tldr, helpfulness, harmlessness, nor a file that can be read: %w", name, err)
	}
	t, err := template.New(name).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	ask := func(prompt, a, b string) (string, error) {
		var out strings.Builder
		err := t.Execute(&out, struct{ Prompt, A, B string }{prompt, a, b})
		return out.String(), err
	}
	if _, err := ask("", "", ""); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	fields := map[string]string{"Prompt": "prompt8a6f", "A": "first5c3e", "B": "second9d1b"} // texts that no template has
	asked, err := ask(fields["Prompt"], fields["A"], fields["B"])
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	for _, field := range []string{"Prompt", "A", "B"} {
		if !strings.Contains(asked, fields[field]) {
			return nil, fmt.Errorf("template: %q does not ask about {{.%s}}", name, field)
		}
	}
	return ask, nil
}

func (j *judge) Annotate(ctx context.Context, reqs []Request, seed uint64) ([]Judgment, error) {
	if !j.drawn {
		seed = 0 // the same question has one answer
	}
	wins := make([][]float64, len(reqs)) // of each completion
	var mu sync.Mutex                    // of wins
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(j.concurrency)
	for i, req := range reqs {
		k := len(req.Completions)
		wins[i] = make([]float64, k)
		for a := range k {
			for b := a + 1; b < k; b++ {
				group.Go(func() error {
					first, err := j.compare(inner, req, a, b, seed)
					if err != nil {
						return fmt.Errorf("annotate with %s: request %d, completions %d and %d: %w", j.name, i, a, b, err)
					}
					mu.Lock()
					defer mu.Unlock()
					wins[i][a] += first
					wins[i][b] += 1 - first
					return nil
				})
			}
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // also with nothing to ask
		return nil, fmt.Errorf("annotate with %s: %w", j.name, err)
	}
	if err := j.checkUnparsed(); err != nil {
		return nil, fmt.Errorf("annotate with %s: %w", j.name, err)
	}
	out := make([]Judgment, len(reqs))
	for i := range out {
		out[i] = Judgment{Ranks: ranksOf(wins[i])}
	}
	return out, nil
}

// read is the verdict of an answer, counted.
func (j *judge) read(answer string) float64 {
	v, ok := verdict(answer)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.asked++; !ok {
		j.unparsed++
		j.unread = j.client.ending(answer)
		j.client.countUnparsed()
	}
	return v
}

// checkUnparsed fails where a share of max_unparsed would leave as many answers without a verdict less than once in a thousand
// times. All of them count: one call alone, perhaps of a step's few prompts, tells nothing of the share.
func (j *judge) checkUnparsed() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, k := float64(j.asked), float64(j.unparsed)
	if k > j.maxUnparsed*n && (distuv.Binomial{N: n, P: j.maxUnparsed}).Survival(k-1) < 0.001 {
		return fmt.Errorf("%d of %d answers so far have no line \"Preferred: A\", \"B\" or \"tie\", more than max_unparsed = %g explains; one ends %q", j.unparsed, j.asked, j.maxUnparsed, j.unread)
	}
	return nil
}

// compare asks in both orders. The verdict for a is 1, 0, or ½ where the orders disagree, a tie was called, or an answer
// had no verdict.
func (j *judge) compare(ctx context.Context, req Request, a, b int, seed uint64) (first float64, err error) {
	x, y := req.Completions[a], req.Completions[b]
	if x == y {
		return 0.5, nil
	}
	sum := 0.0
	for _, swapped := range []bool{false, true} {
		one, other := x, y
		if swapped {
			one, other = y, x
		}
		question, err := j.question(req.Prompt, one, other)
		if err != nil {
			return 0, err
		}
		answer, err := j.client.complete(ctx, question, seed)
		if err != nil {
			return 0, err
		}
		v := j.read(answer)
		if swapped {
			v = 1 - v
		}
		sum += v
	}
	switch {
	case sum > 1: // won both, or won one and tied the other
		return 1, nil
	case sum < 1:
		return 0, nil
	}
	return 0.5, nil
}

var (
	preferred = regexp.MustCompile(`(?i)preferred:[\W_]*(a[ \t]+tie|tie|a|b)(?:\b|_)`)
	// alone is what may follow A or B on their line: marks, or an explanation, here up to its first word.
	alone = regexp.MustCompile("(?i)^(?:[\\W_]*$|[\\s*_`\"'\\])}]*(?:\\s(?:because|since)\\b|[(,.;:–—-][\\W_]*(\\w+)))")
)

// verdict reads the last "Preferred: …" of an answer: 1 for A, 0 for B, ½ for a tie or for none. "A or B" and "A/B" are none,
// and so is what might be one of them, such as "A, B is wordy": that costs a verdict, a wrong one would go unnoticed.
func verdict(answer string) (v float64, ok bool) {
	all := preferred.FindAllStringSubmatchIndex(answer, -1)
	if len(all) == 0 {
		return 0.5, false
	}
	last := all[len(all)-1]
	said := strings.ToLower(answer[last[2]:last[3]])
	if strings.HasSuffix(said, "tie") {
		return 0.5, true
	}
	rest, _, _ := strings.Cut(answer[last[3]:], "\n")
	found := alone.FindStringSubmatch(rest)
	if found == nil {
		return 0.5, false
	}
	switch strings.ToLower(found[1]) {
	case "a", "b", "tie", "or", "and", "vs", "versus":
		return 0.5, false
	}
	if said == "a" {
		return 1, true
	}
	return 0, true
}

// Usage is what an annotator that counts its work has counted, such as "judge/requests" and "judge/cost"; nil for others.
func Usage(a Annotator) map[string]float64 {
	switch a := a.(type) {
	case interface{ Usage() map[string]float64 }:
		return a.Usage()
	case *relabel:
		return Usage(a.Annotator)
	case *sum:
		all := map[string]float64{}
		for _, term := range a.of {
			for name, n := range Usage(term) {
				all[name] += n
			}
		}
		return all
	}
	return nil
}

// Counted is a.Annotate, and what it added to Usage; nil if nothing. Nobody else may use the annotator meanwhile.
func Counted(ctx context.Context, a Annotator, reqs []Request, seed uint64) ([]Judgment, map[string]float64, error) {
	before := Usage(a)
	judgments, err := a.Annotate(ctx, reqs, seed)
	var used map[string]float64
	for name, n := range Usage(a) {
		if n -= before[name]; n != math.Trunc(n) {
			n = math.Round(n*1e12) / 1e12 // a cost's difference does not depend on what was spent before
		}
		if n != 0 {
			if used == nil {
				used = map[string]float64{}
			}
			used[name] = n
		}
	}
	return judgments, used, err
}
