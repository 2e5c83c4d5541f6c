package bpo

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	. "github.com/gomlx/gomlx/core/graph"
)

// Logps are what a loss sees of a batch of pairs: sequence log-probs in nats, [batch] float32 each.
type Logps struct {
	Chosen, Rejected       *Node // under the policy π_θ
	RefChosen, RefRejected *Node // under the reference (in BPO: the behavior LLM π_β)
	ChosenLen, RejectedLen *Node // scored tokens, ≥ 1
	Weight                 *Node // share of the step's loss, 0 for a row of padding; nil: every row is real
	Beta                   *Node // the proximity coefficient β, of each pair; Apply fills in LossConfig.Beta where it is nil
	// Σ_t ln Σ_v π_θ(v|x, y_<t)² of both completions, how likely two draws agree at each token; LossConfig.Weighting needs them.
	ChosenAgreement, RejectedAgreement *Node
	Prob                               *Node // that chosen is the better one, for LossConfig.SoftLabels; nil: it is certain
}

// Swapped has chosen and rejected changed about.
func (l Logps) Swapped() Logps {
	l.Chosen, l.Rejected, l.RefChosen, l.RefRejected = l.Rejected, l.Chosen, l.RefRejected, l.RefChosen
	l.ChosenLen, l.RejectedLen = l.RejectedLen, l.ChosenLen
	l.ChosenAgreement, l.RejectedAgreement = l.RejectedAgreement, l.ChosenAgreement
	return l
}

// Ratios are r = log π_θ(y|x) − log π_ref(y|x) of the chosen and the rejected completion, [batch] each; h is their difference.
func (l Logps) Ratios() (chosen, rejected *Node) {
	return Sub(l.Chosen, l.RefChosen), Sub(l.Rejected, l.RefRejected)
}

// real is whether a row is a pair and not padding, [batch] bool.
func (l Logps) real() *Node {
	if l.Weight == nil {
		return Equal(l.Chosen, l.Chosen)
	}
	return GreaterThan(l.Weight, ScalarZero(l.Weight.Graph(), l.Weight.DType()))
}

// Margin is h = [log π_θ(y_w|x) − log π_θ(y_l|x)] − [log π_ref(y_w|x) − log π_ref(y_l|x)], [batch].
func (l Logps) Margin() *Node {
	return Sub(Sub(l.Chosen, l.Rejected), Sub(l.RefChosen, l.RefRejected))
}

// PerToken divides each sequence log-prob by its own length.
func (l Logps) PerToken() Logps {
	l.Chosen, l.RefChosen = Div(l.Chosen, l.ChosenLen), Div(l.RefChosen, l.ChosenLen)
	l.Rejected, l.RefRejected = Div(l.Rejected, l.RejectedLen), Div(l.RefRejected, l.RejectedLen)
	return l
}

// Loss is a direct-alignment-from-preferences loss. Registering one makes it known to configs, sweeps, help and docs.
type Loss struct {
	Name   string
	Doc    string // the formula and its source, one line
	Length string // how token log-probs are pooled by default: "sum" or "mean"
	Params []Param
	// ReferenceFree losses ignore RefChosen and RefRejected; no reference log-probs are computed for them.
	ReferenceFree bool
	// Smooths says that the loss has a meaning for LossConfig.LabelSmoothing; others refuse it.
	Smooths bool
	// Coupled losses of a pair depend on the step's other pairs, so that a step is one gradient call.
	Coupled bool
	// Fn maps log-probs, already pooled, to per-pair losses [batch].
	Fn func(l Logps, c LossConfig) *Node
	// Identity is the loss where policy == reference (h = 0), the first value a run must show. Nil if ReferenceFree.
	Identity func(c LossConfig) float64
	// Odd is L(h) − L(−h), what swapping chosen and rejected changes, where it has a closed form; else nil.
	Odd func(h float64, c LossConfig) float64
}

// Param is a further named parameter of a loss, set under loss.params.
type Param struct {
	Name    string
	Default float64
	Doc     string
	// Between are its bounds, themselves excluded; of a loss's. Equal ones bound nothing.
	Between [2]float64
}

// Range is "in (0, 1)", or "" where nothing bounds the parameter.
func (p Param) Range() string {
	if p.Between[0] == p.Between[1] {
		return ""
	}
	return fmt.Sprintf("in (%g, %g)", p.Between[0], p.Between[1])
}

var losses = map[string]Loss{}

// RegisterLoss adds a loss; call it from init. A second loss of the same name is a programming error and panics.
func RegisterLoss(l Loss) {
	if _, dup := losses[l.Name]; dup {
		panic(fmt.Sprintf("bpo: loss %q is registered twice", l.Name))
	}
	if l.Length != "sum" && l.Length != "mean" {
		panic(fmt.Sprintf("bpo: loss %q: Length must be sum or mean, got %q", l.Name, l.Length))
	}
	losses[l.Name] = l
}

// Losses lists the registered losses by name.
func Losses() []Loss { return byName(losses) }

// byName lists a registry in the order of its names.
func byName[T any](registry map[string]T) []T {
	all := make([]T, 0, len(registry))
	for _, name := range slices.Sorted(maps.Keys(registry)) {
		all = append(all, registry[name])
	}
	return all
}

// Param is the value of a named parameter: the configured one, else the loss's default.
// It panics if the loss has no such parameter.
func (c LossConfig) Param(name string) float64 {
	if v, ok := c.Params[name]; ok {
		return v
	}
	for _, p := range losses[c.Name].Params {
		if p.Name == name {
			return p.Default
		}
	}
	panic(fmt.Sprintf("bpo: loss %q has no parameter %q", c.Name, name))
}

// Apply computes the per-pair losses [batch] float32 of the configured loss on unpooled (summed) log-probs.
// The config must be valid.
func (c LossConfig) Apply(l Logps) *Node {
	loss, err := c.resolve()
	if err != nil {
		panic(err)
	}
	if l.Beta == nil {
		l.Beta = MulScalar(OnesLike(l.Chosen), c.Beta)
	}
	pooled, means := l, l.PerToken()
	if c.pooling(loss) == "mean" {
		pooled = means
	}
	out := loss.Fn(pooled, c)
	if c.SoftLabels > 0 && l.Prob != nil {
		out = Add(Mul(out, l.Prob), Mul(loss.Fn(pooled.Swapped(), c), OneMinus(l.Prob)))
	}
	if c.Weighting == "wpo" {
		aligned := Add(Div(Sub(l.Chosen, l.ChosenAgreement), l.ChosenLen), Div(Sub(l.Rejected, l.RejectedAgreement), l.RejectedLen))
		out = Mul(out, StopGradient(Exp(aligned)))
	}
	if c.NLL != 0 {
		out = Sub(out, MulScalar(means.Chosen, c.NLL))
	}
	return out
}

// ReferenceFree says whether the configured loss ignores the reference.
func (c LossConfig) ReferenceFree() bool { return losses[c.Name].ReferenceFree }

// String says exactly which loss runs, e.g. "ipo (beta=0.1, length=mean)".
func (c LossConfig) String() string {
	loss, err := c.resolve()
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s (beta=%g, length=%s", c.Name, c.Beta, c.pooling(loss))
	if c.LabelSmoothing != 0 {
		s += fmt.Sprintf(", label_smoothing=%g", c.LabelSmoothing)
	}
	if c.Schedule.Name != "" {
		s += fmt.Sprintf(", schedule=%+v", c.Schedule)
	}
	if c.SoftLabels != 0 {
		s += fmt.Sprintf(", soft_labels=%g", c.SoftLabels)
	}
	if c.Weighting != "" {
		s += ", weighting=" + c.Weighting
	}
	if c.NLL != 0 {
		s += fmt.Sprintf(", nll=%g", c.NLL)
	}
	for _, p := range loss.Params {
		s += fmt.Sprintf(", %s=%g", p.Name, c.Param(p.Name))
	}
	return s + ")"
}

func (c LossConfig) pooling(l Loss) string {
	if c.Length == "" || c.Length == "default" {
		return l.Length
	}
	return c.Length
}

// resolve finds the loss and checks its parameters; errors are "key: message".
func (c LossConfig) resolve() (Loss, error) {
	loss, ok := losses[c.Name]
	if !ok {
		return loss, fmt.Errorf("loss.name: no loss %q%s", c.Name, nearest(c.Name, names(Losses(), func(l Loss) string { return l.Name })))
	}
	if !(c.Beta > 0) || math.IsInf(c.Beta, 0) {
		return loss, fmt.Errorf("loss.beta: the proximity coefficient must be positive, got %g", c.Beta)
	}
	if c.LabelSmoothing < 0 || c.LabelSmoothing >= 0.5 {
		return loss, fmt.Errorf("loss.label_smoothing: must be in [0, 0.5), got %g", c.LabelSmoothing)
	}
	if c.LabelSmoothing > 0 && !loss.Smooths {
		return loss, fmt.Errorf("loss.label_smoothing: the loss %q has none; %s have it", c.Name, strings.Join(names(slices.DeleteFunc(Losses(), func(l Loss) bool { return !l.Smooths }), func(l Loss) string { return l.Name }), ", "))
	}
	if !(c.SoftLabels >= 0) || math.IsInf(c.SoftLabels, 0) {
		return loss, fmt.Errorf("loss.soft_labels: a temperature of scores, must not be negative, got %g", c.SoftLabels)
	}
	if c.SoftLabels > 0 && (loss.Coupled || c.LabelSmoothing > 0) {
		return loss, fmt.Errorf("loss.soft_labels: not with label_smoothing, nor with the loss %q if it compares the pairs of a step with each other", c.Name)
	}
	if err := c.Schedule.validate(); err != nil {
		return loss, err
	}
	switch c.Length {
	case "", "default", "sum", "mean":
	default:
		return loss, fmt.Errorf("loss.length: %q is not one of default, sum, mean", c.Length)
	}
	if c.Weighting != "" && c.Weighting != "wpo" {
		return loss, fmt.Errorf("loss.weighting: %q is not wpo, or empty", c.Weighting)
	}
	if !(c.NLL >= 0) || math.IsInf(c.NLL, 0) {
		return loss, fmt.Errorf("loss.nll: must not be negative, got %g", c.NLL)
	}
	for name, v := range c.Params {
		at := slices.IndexFunc(loss.Params, func(p Param) bool { return p.Name == name })
		if at < 0 {
			return loss, fmt.Errorf("loss.params.%s: loss %q has no such parameter%s", name, c.Name, nearest(name, names(loss.Params, func(p Param) string { return p.Name })))
		}
		low, high := loss.Params[at].Between[0], loss.Params[at].Between[1]
		if math.IsNaN(v) || math.IsInf(v, 0) || low != high && !(v > low && v < high) {
			return loss, fmt.Errorf("loss.params.%s: must be %s, got %g", name, cmp.Or(loss.Params[at].Range(), "finite"), v)
		}
	}
	return loss, nil
}

func names[T any](all []T, name func(T) string) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = name(v)
	}
	return out
}

// nearest is a hint for a misspelt name: the closest valid one and the whole list.
func nearest(got string, valid []string) string {
	if len(valid) == 0 {
		return ""
	}
	far := func(name string) int { // letters apart; of equals, one with the same first letter
		d := 2 * levenshtein.ComputeDistance(got, name)
		if got == "" || !strings.HasPrefix(name, got[:1]) {
			d++
		}
		return d
	}
	best := slices.MinFunc(valid, func(a, b string) int { return far(a) - far(b) })
	return fmt.Sprintf("; nearest is %q of %s", best, strings.Join(valid, ", "))
}

// softplus is ln(1 + eˣ), finite for every finite x: −ln σ(x) = softplus(−x).
// It is written over |x|, whose derivative at 0 is 0, so that the derivative at 0 is exactly ½: a run starts there.
func softplus(x *Node) *Node {
	abs := Abs(x)
	return Add(MulScalar(Add(x, abs), 0.5), Log1P(Exp(Neg(abs))))
}
