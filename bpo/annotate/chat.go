package annotate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"gobpo/internal/atomicfile"
)

// chatConfig is an OpenAI-compatible endpoint and how to use it.
type chatConfig struct {
	Endpoint, Model, KeyEnv string
	Cache                   string // directory; empty: none
	MaxTokens, Retries      int
	Concurrency             int     // requests at a time
	Temperature, Rate       float64 // requests a second; 0: no limit
	Timeout                 time.Duration
	PriceIn, PriceOut       float64 // of a million tokens
}

// chatClient asks one question at a time. It is plain HTTP and not a vendor's library because every fault must be seen: a
// library's own retries and defaults would hide some. Safe for concurrent use.
type chatClient struct {
	chatConfig
	http   *http.Client
	places chan struct{} // of requests under way
	limit  *rate.Limiter

	mu    sync.Mutex
	count map[string]float64
}

// limiters and places are shared by all clients of the process that give an endpoint the same limit: the trials of a sweep, and
// annotator and evaluator of one, are one client to a server.
var limiters, places sync.Map

type limitKey struct {
	endpoint string
	limit    float64
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func newChatClient(c chatConfig) (*chatClient, error) {
	u, err := url.Parse(c.Endpoint)
	switch { // what is refused is not shown: it may hold a key, which would go into configurations, names and rows
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("endpoint: not a URL such as http://host/v1")
	case u.User != nil || strings.ContainsAny(c.Endpoint, "?#"):
		return nil, errors.New("endpoint: it holds a user, a query or a fragment; a key belongs into the environment variable that api_key_env names")
	case !envName.MatchString(c.KeyEnv):
		return nil, errors.New("api_key_env: not the name of an environment variable, such as OPENAI_API_KEY")
	}
	limit := rate.Inf
	if c.Rate > 0 {
		limit = rate.Limit(c.Rate)
	}
	endpoint := strings.TrimSuffix(c.Endpoint, "/")
	limiter, _ := limiters.LoadOrStore(limitKey{endpoint, c.Rate}, rate.NewLimiter(limit, 1))
	place, _ := places.LoadOrStore(limitKey{endpoint, float64(c.Concurrency)}, make(chan struct{}, c.Concurrency))
	return &chatClient{
		chatConfig: c, http: &http.Client{Timeout: c.Timeout}, places: place.(chan struct{}), limit: limiter.(*rate.Limiter), count: map[string]float64{},
	}, nil
}

// chatRequest is what is sent, and what an answer is kept under.
type chatRequest struct {
	Model       string        `json:"model"`
	Messages    []chatMessage `json:"messages"`
	Temperature float64       `json:"temperature"`
	MaxTokens   int           `json:"max_tokens"`
	Seed        uint64        `json:"seed,omitempty"`
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// chatAnswer is the part of a response that is read, and kept.
type chatAnswer struct {
	Choices []struct {
		Message chatMessage `json:"message"`
	} `json:"choices"`
	Usage struct {
		In  int `json:"prompt_tokens"`
		Out int `json:"completion_tokens"`
	} `json:"usage"`
}

// complete gives the model's answer to a message of the user, from the cache if it has been given before.
func (c *chatClient) complete(ctx context.Context, message string, seed uint64) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	body, err := json.Marshal(chatRequest{c.Model, []chatMessage{{"user", message}}, c.Temperature, c.MaxTokens, seed})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(c.Endpoint+"\n"), body...))
	key := hex.EncodeToString(sum[:])
	path := filepath.Join(c.Cache, key[:2], key+".json")
	if c.Cache != "" {
		raw, err := os.ReadFile(path)
		if err == nil {
			if a, err := c.parseAnswer(raw); err == nil { // a file that is broken is asked for again
				c.add("judge/cached", 1)
				return a.Choices[0].Message.Content, nil
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cache: %w", err)
		}
	}
	tries, wait := 0, newWaits()
	raw, err := backoff.Retry(ctx, func() ([]byte, error) {
		if tries++; tries > 1 {
			c.add("judge/retries", 1)
		}
		select { // the place first: requests that have waited for their second must not pile up at it
		case c.places <- struct{}{}:
			defer func() { <-c.places }()
		case <-ctx.Done():
			return nil, backoff.Permanent(ctx.Err())
		}
		if err := c.limit.Wait(ctx); err != nil {
			return nil, backoff.Permanent(err)
		}
		c.add("judge/requests", 1)
		raw, err := c.post(ctx, body)
		var told busy
		if errors.As(err, &told) {
			wait.atLeast = told.wait
		}
		return raw, err
	}, backoff.WithMaxTries(uint(c.Retries)+1), backoff.WithMaxElapsedTime(0), backoff.WithBackOff(wait))
	if err != nil {
		if tries > 1 {
			err = fmt.Errorf("after %d tries: %w", tries, err)
		}
		return "", c.redact(err)
	}
	a, err := c.parseAnswer(raw)
	if err != nil {
		return "", err
	}
	c.add("judge/prompt_tokens", float64(a.Usage.In))
	c.add("judge/completion_tokens", float64(a.Usage.Out))
	c.add("judge/cost", (c.PriceIn*float64(a.Usage.In)+c.PriceOut*float64(a.Usage.Out))/1e6)
	if c.Cache != "" {
		if raw, err = json.Marshal(a); err == nil { // without what servers add, such as request ids
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		if err == nil {
			err = atomicfile.WriteBytes(path, raw)
		}
		if err != nil {
			return "", fmt.Errorf("cache: %w", err)
		}
	}
	return a.Choices[0].Message.Content, nil
}

// waits grow fourfold from half a second to a minute, each drawn from half to one and a half times that. Six of them, nearly
// three minutes, outlast a server's restart.
type waits struct {
	*backoff.ExponentialBackOff
	atLeast time.Duration // the next, as the server told: one that says 0 is down no shorter than one that says nothing
}

func newWaits() *waits {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.Multiplier, b.MaxInterval = 500*time.Millisecond, 4, time.Minute
	return &waits{ExponentialBackOff: b}
}

func (w *waits) NextBackOff() time.Duration {
	next := max(w.ExponentialBackOff.NextBackOff(), w.atLeast)
	w.atLeast = 0
	return next
}

// busy is the answer of a server that says how long it wants to be left alone. It is not the library's own error for that,
// which takes the place of a wait that may be longer.
type busy struct {
	error
	wait time.Duration
}

// post makes one try. An error that another try cannot mend is marked so.
func (c *chatClient) post(ctx context.Context, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.Endpoint, "/")+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return nil, backoff.Permanent(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key := os.Getenv(c.KeyEnv); key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err // a timeout, a refused or broken connection
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		_, err := c.parseAnswer(raw)
		return raw, err
	}
	err = fmt.Errorf("%s: %s", res.Status, c.excerpt(raw))
	switch code := res.StatusCode; {
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code == http.StatusConflict || code >= 500:
		if wait, ok := retryAfter(res.Header); ok {
			if wait > longestWait {
				return nil, backoff.Permanent(fmt.Errorf("%w; it wants to be left alone for %v", err, wait.Round(time.Second)))
			}
			return nil, busy{fmt.Errorf("%w (retry after %v)", err, wait), wait}
		}
		return nil, err
	}
	return nil, backoff.Permanent(err)
}

// longestWait is the most a run waits for a server that says how long: a quota of the day is better an error than a silent night.
// What has been answered is in the cache when the run goes on.
const longestWait = 10 * time.Minute

// retryAfter is how long a server wants to be left alone, said in seconds or as a date.
func retryAfter(h http.Header) (wait time.Duration, ok bool) {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(max(0, seconds)) * time.Second, true
	}
	at, err := http.ParseTime(text)
	return max(0, time.Until(at)), err == nil
}

func (c *chatClient) parseAnswer(raw []byte) (a chatAnswer, err error) {
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("the answer is no JSON: %w", err)
	}
	if len(a.Choices) == 0 {
		return a, fmt.Errorf("the answer has no choices: %s", c.excerpt(raw))
	}
	return a, nil
}

// excerpt is the beginning of what a server said, on one line. The key goes first: half of one would not be found.
func (c *chatClient) excerpt(raw []byte) string {
	return fmt.Sprintf("%.200s", strings.Join(strings.Fields(c.withoutKey(string(raw))), " "))
}

// ending is the end of an answer, where its verdict should be, on one line.
func (c *chatClient) ending(answer string) string {
	r := []rune(strings.Join(strings.Fields(c.withoutKey(answer)), " "))
	return string(r[max(0, len(r)-80):])
}

// redact takes the key out of an error, should a server repeat it.
func (c *chatClient) redact(err error) error {
	if text := c.withoutKey(err.Error()); text != err.Error() {
		return errors.New(text)
	}
	return err
}

func (c *chatClient) withoutKey(text string) string {
	if key := os.Getenv(c.KeyEnv); key != "" {
		return strings.ReplaceAll(text, key, "[key]")
	}
	return text
}

func (c *chatClient) add(name string, n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[name] += n
}

func (c *chatClient) countUnparsed() { c.add("judge/unparsed", 1) }

func (c *chatClient) usage() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]float64{}
	for k, v := range c.count {
		out[k] = v
	}
	return out
}
