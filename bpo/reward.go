package bpo

import (
	"context"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

// RewardPair is a preference as a reward model reads it: the ids of both texts, whole, with their ends.
type RewardPair struct {
	ID               string
	Chosen, Rejected []int32 // prompt and completion
	Prompt           int     // tokens of the prompt, at the start of both
}

// Row gives the pair's texts as a row of two completions. They share what they begin with, the prompt at most.
func (p RewardPair) Row() models.Row { return SharedRow(p.Prompt, p.Chosen, p.Rejected) }

// SharedRow makes a row of texts that begin alike, so that their beginning, most tokens at the most, is computed once.
// Every text keeps a token of its own.
func SharedRow(most int, texts ...[]int32) models.Row {
	n := min(most, len(texts[0])-1)
	for _, t := range texts[1:] {
		n = min(n, len(t)-1)
		for i := range n {
			if t[i] != texts[0][i] {
				n = i
				break
			}
		}
	}
	row := models.Row{Prompt: texts[0][:n]}
	for _, t := range texts {
		row.Completions = append(row.Completions, t[n:])
	}
	return row
}

// RewardLoss is how a reward model learns from pairs.
type RewardLoss struct {
	// LabelSmoothing is the assumed share of flipped labels, in [0, 0.5).
	LabelSmoothing float64 `mapstructure:"label_smoothing" yaml:"label_smoothing"`
	// Center adds Center·(r_w + r_l)², which keeps rewards around zero (Eisenstein et al. 2023, arXiv 2312.09244 §5.1; TRL's
	// center_rewards_coefficient).
	Center float64 `mapstructure:"center" yaml:"center"`
}

// Validate reports the first impossible setting as "key: message".
func (c RewardLoss) Validate() error {
	switch {
	case c.LabelSmoothing < 0 || c.LabelSmoothing >= 0.5:
		return fmt.Errorf("label_smoothing: %g, must be in [0, 0.5)", c.LabelSmoothing)
	case c.Center < 0:
		return fmt.Errorf("center: %g is negative", c.Center)
	}
	return nil
}

// TrainReward fits a reward model by maximum likelihood under Bradley–Terry: −ln σ(r_w − r_l) (Ouyang et al. 2022, eq. 1).
// The model's configuration is a reward model's; an adapter that starts it has the head.
func TrainReward(ctx context.Context, f Fit, loss RewardLoss, pairs []RewardPair) (models.Policy, error) {
	rows := make([]example, len(pairs))
	for i, p := range pairs {
		if len(p.Chosen) < 2 || len(p.Rejected) < 2 || p.Prompt < 1 {
			return f.Start, fmt.Errorf("reward: pair %s has a text of fewer than two tokens, or no prompt", p.ID)
		}
		row := p.Row()
		if err := f.Model.Config.CheckLength(len(row.Prompt) + max(len(row.Completions[0]), len(row.Completions[1]))); err != nil {
			return f.Start, fmt.Errorf("reward: pair %s: %w", p.ID, err)
		}
		rows[i] = example{id: p.ID, row: models.RewardRow(row)}
	}
	return f.run(ctx, "reward", rewardObjective(loss), rows, func(batch []example) {
		for i := range batch {
			batch[i].weight = 1 / float64(len(batch))
		}
	})
}

// rewardObjective takes rewards [batch, 2] in place of log-probs.
func rewardObjective(c RewardLoss) objective {
	return objective{
		Key:     fmt.Sprintf("reward %+v", c),
		Metrics: []string{"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"},
		Fn: func(rewards, _, _ *Node, _ []*Node) (*Node, []*Node) {
			at := func(k int) *Node { return Squeeze(SliceAxis(rewards, 1, AxisElem(k)), 1) } // [batch]
			chosen, rejected := at(0), at(1)
			margin := Sub(chosen, rejected)
			loss := bradleyTerry(margin, c.LabelSmoothing)
			if c.Center > 0 {
				loss = Add(loss, MulScalar(Square(Add(chosen, rejected)), c.Center))
			}
			return loss, []*Node{chosen, rejected, margin, ConvertDType(GreaterThan(margin, ZerosLike(margin)), dtypes.Float32)}
		},
	}
}
