package bpo

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/mat"

	"gobpo/data"
	"gobpo/models"
)

// DensityKeys are keys whose largest are a draw without replacement with chances of one over each point's density, by inverse
// propensity sampling (Sachdeva et al. 2024, arXiv 2402.09668 §3.2). points: [n][hidden].
func DensityKeys(points [][]float32, rng *rand.Rand) []float64 {
	keys := densities(points)
	for i, d := range keys { // Efraimidis and Spirakis 2006: ln(u)/weight, weight 1/density
		keys[i] = math.Log(1-rng.Float64()) * d
	}
	return keys
}

// densities are Gaussian kernel estimates at the points themselves, up to a factor; the bandwidth is the median distance.
// Of more than densityPoints points, that many at random stand for all: the cost is linear in the number of prompts.
func densities(points [][]float32) []float64 {
	n := len(points)
	if n == 0 {
		return nil
	}
	x := mat.NewDense(n, len(points[0]), nil)
	norms := make([]float64, n)
	for i, p := range points {
		for j, v := range p {
			x.Set(i, j, float64(v))
			norms[i] += float64(v) * float64(v)
		}
	}
	square := func(i, j int, dot float64) float64 { return max(0, norms[i]+norms[j]-2*dot) }
	var some []float64
	for i := range min(n, 200) {
		for j := range i {
			a, b := i*n/min(n, 200), j*n/min(n, 200)
			some = append(some, square(a, b, mat.Dot(x.RowView(a), x.RowView(b))))
		}
	}
	width := 1.0
	if len(some) > 0 {
		slices.Sort(some)
		width = max(some[len(some)/2], 1e-12)
	}
	others := data.Order(n, 0, 0)[:min(n, densityPoints)]
	slices.Sort(others)
	references := mat.NewDense(len(others), len(points[0]), nil)
	for k, j := range others {
		references.SetRow(k, x.RawRowView(j))
	}
	out := make([]float64, n)
	for at := 0; at < n; at += 256 { // [256, references] at a time
		end := min(at+256, n)
		var dots mat.Dense
		dots.Mul(x.Slice(at, end, 0, len(points[0])), references.T())
		for i := at; i < end; i++ {
			sum, terms := 0.0, 0
			for k, j := range others {
				if i != j {
					sum += math.Exp(-square(i, j, dots.At(i-at, k)) / (2 * width))
					terms++
				}
			}
			out[i] = (1 + float64(n-1)*sum/float64(max(terms, 1))) / float64(n) // the point itself, and the mean over others for all
		}
	}
	return out
}

// densityPoints is how many points a density is estimated against, at most.
const densityPoints = 4096

// AskPrompt and AskPair are the questions of Ask-LLM (Sachdeva et al. 2024, arXiv 2402.09668 §3.1) about a prompt, and about a
// prompt and two completions.
const (
	AskPrompt = "###\n%s\n###\n\nDoes the text between the ### signs hold an informative request that is good to learn from? Answer yes or no.\nAnswer:"
	AskPair   = "###\n%s\n\nOne answer:\n%s\n\nAnother answer:\n%s\n###\n\nIs the text between the ### signs, a request with two answers, good to learn from which answer is better? Answer yes or no.\nAnswer:"
)

// AskLLM gives the base model's log odds of answering " yes" rather than " no" to a question about each list of texts: AskPrompt
// about a prompt, AskPair about a prompt and two completions. encode gives the ids of a prompt.
func AskLLM(ctx context.Context, s *models.Scorer, m *models.Model, encode func(string) ([]int32, error), question string, texts [][]string, batch int) ([]float64, error) {
	answers := [][]int32{m.Tokenizer.EncodePlain(" yes"), m.Tokenizer.EncodePlain(" no")}
	limit := m.Config.MaxPositions - max(len(answers[0]), len(answers[1]))
	rows := make([]models.Row, len(texts))
	for i, t := range texts {
		ids, err := askIDs(encode, question, t, limit)
		if err != nil {
			return nil, err
		}
		rows[i] = models.Row{Prompt: ids, Completions: answers}
	}
	logps, err := s.LogProbs(ctx, models.Policy{Base: m.Base}, rows, batch)
	if err != nil {
		return nil, err
	}
	odds := make([]float64, len(rows))
	for i, l := range logps {
		odds[i] = sum(l[0]) - sum(l[1])
	}
	return odds, nil
}

// askIDs encodes a question about texts. Where that is too long, the texts are cut, not the question: the first, a prompt, loses
// its start, the others their ends, each by the same share.
func askIDs(encode func(string) ([]int32, error), question string, texts []string, limit int) ([]int32, error) {
	runes, parts := make([][]rune, len(texts)), make([]any, len(texts))
	for i, t := range texts {
		runes[i] = []rune(t)
	}
	for {
		left := 0
		for i, r := range runes {
			left += len(r)
			parts[i] = string(r)
		}
		ids, err := encode(fmt.Sprintf(question, parts...))
		if err != nil || len(ids) <= limit {
			return ids, err
		}
		if left == 0 {
			return nil, fmt.Errorf("ask_llm: the question alone takes %d tokens, and the model's context has room for %d", len(ids), limit)
		}
		share := float64(len(ids)-limit) / float64(len(ids))
		for i, r := range runes {
			cut := int(math.Ceil(share * float64(len(r))))
			if i == 0 {
				runes[i] = r[cut:]
			} else {
				runes[i] = r[:len(r)-cut]
			}
		}
	}
}
