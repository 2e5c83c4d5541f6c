package annotate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/go-viper/mapstructure/v2"
	"go.yaml.in/yaml/v3"

	"gobpo/bpo/annotate"
)

func TestConfigErrorsAreOneLineWithTheKey(t *testing.T) {
	params := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	for _, c := range []struct {
		config annotate.Config
		want   string
	}{
		{annotate.Config{}, "name: no annotator named; one of gold, judge, length, rouge_l, sentiment, sum"},
		{annotate.Config{Name: "rouge"}, `name: no annotator "rouge"; did you mean "rouge_l"?`},
		{annotate.Config{Name: "rogue_l"}, `name: no annotator "rogue_l"; did you mean "rouge_l"?`},
		{annotate.Config{Name: "sentimant"}, `name: no annotator "sentimant"; did you mean "sentiment"?`},
		{annotate.Config{Name: "gold"}, "name: gold is the reward of a procedural task, and task.name names none"},
		{annotate.Config{Name: "length", Params: params("maxx", 3)}, `maxx: length has no such parameter; did you mean "max"?`},
		{annotate.Config{Name: "rouge_l", Params: params("noize", 0.1)}, `noize: rouge_l has no such parameter; did you mean "noise"?`},
		{annotate.Config{Name: "length", Params: params("max", "3")}, "max: 3 (string) is not a finite number"},
		{annotate.Config{Name: "length", Params: params("max", 3, "unit", 4)}, "unit: 4 (int) is not a string"},
		{annotate.Config{Name: "length", Params: params("max", 3, "unit", "lines")}, `unit: "lines" is neither words nor chars`},
		{annotate.Config{Name: "length"}, "max: length needs a longest length above 0"},
		{annotate.Config{Name: "length", Params: params("min", 5, "max", 3)}, "max: 3 is below min 5"},
		{annotate.Config{Name: "length", Params: params("min", -1, "max", 3)}, "min: -1 is negative"},
		{annotate.Config{Name: "length", Params: params("max", 3, "decay", 0)}, "decay: 0 is not above 0"},
		{annotate.Config{Name: "rouge_l", Noise: 0.6}, "noise: 0.6 is not a probability in [0, 0.5]"},
		{annotate.Config{Name: "rouge_l", Noise: -0.1}, "noise: -0.1 is not a probability in [0, 0.5]"},
		{annotate.Config{Name: "rouge_l", Temperature: -1}, "temperature: -1 is negative or not finite"},
		{annotate.Config{Name: "rouge_l", Weight: new(2.0)}, "weight: only the terms of a sum have weights"},
		{annotate.Config{Name: "sum"}, "of: sum needs at least one term"},
		{annotate.Config{Name: "rouge_l", Of: []annotate.Config{{Name: "length"}}}, "of: only sum has terms, not rouge_l"},
		{annotate.Config{Name: "sum", Of: []annotate.Config{{Name: "rouge_l"}, {Name: "lenght"}}},
			`of[1].name: no annotator "lenght"; did you mean "length"?`},
		{annotate.Config{Name: "sum", Of: []annotate.Config{{Name: "sum", Of: []annotate.Config{{Name: "length"}}}}},
			"of[0].of[0].max: length needs a longest length above 0"},
		{annotate.Config{Name: "sum", Of: []annotate.Config{{Name: "rouge_l", Noise: 0.1}}},
			"of[0].noise: labels are made from the whole sum; set noise and temperature beside it"},
		{annotate.Config{Name: "rouge_l", Weight: new(0.0)}, "weight: only the terms of a sum have weights"},
	} {
		_, err := annotate.New(c.config)
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v:\n got %v\nwant %s", c.config, err, c.want)
		}
	}
}

const tree = `
name: sum
noise: 0.1
of:
  - {name: rouge_l, weight: 1}
  - {name: length, weight: 0.2, max: 30, unit: chars}
  - {name: sentiment, weight: 0}
  - {name: sentiment}
`

const treeName = "sum(1*rouge_l, 0.2*length(max=30, unit=chars), 0*sentiment, 1*sentiment)+noise=0.1"

// The tree decodes from the YAML that users write, through mapstructure (viper) as through yaml, and back.
func TestConfigDecodes(t *testing.T) {
	var direct annotate.Config
	if err := yaml.Unmarshal([]byte(tree), &direct); err != nil {
		t.Fatal(err)
	}
	written, err := yaml.Marshal(direct)
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := yaml.Unmarshal(written, &raw); err != nil {
		t.Fatal(err)
	}
	var decoded annotate.Config
	strict, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{ErrorUnused: true, Result: &decoded})
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Decode(raw); err != nil {
		t.Fatal(err)
	}
	for _, c := range []annotate.Config{direct, decoded} {
		a, err := annotate.New(c)
		if err != nil {
			t.Fatal(err)
		}
		if a.Name() != treeName {
			t.Errorf("name %q, want %q", a.Name(), treeName)
		}
	}
}

func TestNumbersOfEveryDecoder(t *testing.T) {
	for _, max := range []any{3, int64(3), uint64(3), float32(3), 3.0} {
		a, err := annotate.New(annotate.Config{Name: "length", Params: map[string]any{"max": max}})
		if err != nil || a.Name() != "length(max=3)" {
			t.Errorf("%T: %v, %v", max, a, err)
		}
	}
}

func TestKindsAreDocumented(t *testing.T) {
	seen := ""
	for _, k := range annotate.Kinds() {
		if k.Name <= seen || k.Doc == "" || !strings.HasSuffix(k.Doc, ".") {
			t.Errorf("kind %q: out of order, or no sentence of documentation (%q)", k.Name, k.Doc)
		}
		seen = k.Name
		for _, p := range k.Params {
			if p.Doc == "" || p.Default == nil {
				t.Errorf("parameter %s.%s lacks a doc or a default", k.Name, p.Name)
			}
		}
	}
}

// mentions is the whole of a new annotator; a program would call annotate.Register(mentions) from init.
var mentions = annotate.Kind{
	Name:   "mentions",
	Doc:    "1 if the completion contains a word, else 0.",
	Params: []annotate.Param{{Name: "word", Default: "please", Doc: "the word to look for"}},
	Build: func(a annotate.Args) (annotate.Annotator, error) {
		word := a.String("word")
		return annotate.FromScore(a.Name, func(_ annotate.Request, completion string) (float64, error) {
			if strings.Contains(completion, word) {
				return 1, nil
			}
			return 0, nil
		}), nil
	},
}

func ExampleNew() {
	a, err := annotate.New(annotate.Config{Name: "mentions", Params: map[string]any{"word": "tea"}}, mentions)
	if err != nil {
		panic(err)
	}
	js, err := a.Annotate(context.Background(), []annotate.Request{{Completions: []string{"coffee", "tea"}}}, 0)
	if err != nil {
		panic(err)
	}
	chosen, rejected, tie := js[0].Pair()
	fmt.Println(a.Name(), chosen, rejected, tie)
	// Output: mentions(word=tea) 1 0 false
}

func TestRegisterRefusesNonsense(t *testing.T) {
	build := func(annotate.Args) (annotate.Annotator, error) { return judge{}, nil }
	for name, k := range map[string]annotate.Kind{
		"duplicate":      {Name: "rouge_l", Build: build},
		"no name":        {Build: build},
		"no build":       {Name: "x"},
		"common key":     {Name: "x", Build: build, Params: []annotate.Param{{Name: "noise", Default: 1.0}}},
		"unusable type":  {Name: "x", Build: build, Params: []annotate.Param{{Name: "n", Default: 1}}},
		"no default set": {Name: "x", Build: build, Params: []annotate.Param{{Name: "n"}}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("Register did not panic")
				}
			}()
			annotate.Register(k)
		})
	}
}
