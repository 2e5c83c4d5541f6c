package bpo

import (
	"context"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"gobpo/models"
)

// RewardPair is a preference as a reward model reads it: two texts, prompt and completion, the chosen one first.
type RewardPair struct {
	ID  string
	Row models.Row
}

// SharedRow makes a row of texts that begin alike, with at most shared tokens, so that their beginning is computed once.
// Every text keeps a token of its own. Texts of more than limit tokens lose their beginning, all as much, but for its last
// token; what is then still too long loses its end.
func SharedRow(limit, shared int, texts ...[]int32) models.Row {
	n, longest := shared, 0
	for _, t := range texts {
		n, longest = min(n, len(t)-1), max(longest, len(t))
		for i := range n {
			if t[i] != texts[0][i] {
				n = i
				break
			}
		}
	}
	cut := max(0, min(longest-limit, n-1))
	row := models.Row{Prompt: texts[0][cut:n]}
	for _, t := range texts {
		row.Completions = append(row.Completions, t[n:min(len(t), limit+cut)])
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
		if len(p.Row.Completions) != 2 {
			return f.Start, fmt.Errorf("reward: pair %s has %d texts", p.ID, len(p.Row.Completions))
		}
		rows[i] = example{id: p.ID, row: models.RewardRow(p.Row)}
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
