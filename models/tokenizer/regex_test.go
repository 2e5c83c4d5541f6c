package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

func TestRegexRefuses(t *testing.T) {
	for expression, want := range map[string]string{
		`(?i)a`:       "a group that starts (?i)",
		`(?<name>a)`:  "a group that starts (?<n",
		`[a&&b]`:      "&& in a class",
		`[[:alpha:]]`: "[: in a class",
		`[a[^b]]`:     "[^ in a class",
		`[a-[b]]`:     "-[ in a class",
		`[]a]`:        "an empty class",
		`[a`:          "a class is not closed",
		`(a`:          "a group is not closed",
		`a)`:          "a group is not opened",
		`a]`:          "a bare ]",
		`*a`:          "repetition of nothing",
		`(?:a+)*`:     "a repetition of repetitions",
		`((a|b*)c)+`:  "a repetition of repetitions",
		`a+*`:         "a repetition of repetitions",
		`a{2}+`:       "repetition {2}+",
		`a{2,3}?`:     "repetition {2,3}?",
		`a{,3}`:       "repetition {,3}",
		`a{5000}`:     "repetition {5000}",
		`a{3,2}`:      "repetition {3,2}",
		`\w`:          `\w`,
		`\b`:          `\b`,
		`\h`:          `\h`,
		`(a)\1`:       `\1`,
		`\p{Mn}`:      `\p{Mn}`,
		`\p{Greek}`:   `\p{Greek}`,
		`\p{^L}`:      `\p{^L}`,
		`\pL`:         `\pL`,
		`[\P{L}]`:     `\P`,
		`(?i:[ab])`:   "a class within (?i:…)",
		`(?i:\d)`:     `\ within (?i:…)`,
		`(?i:é)`:      `'é' within (?i:…)`,
		`(?i:class)`:  `"ss" within (?i:…)`,
		`a\`:          `it ends in \`,
		"\xff":        "what is not UTF-8",
	} {
		_, err := compileRegex(expression)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", expression, err, want)
		}
	}
}

// TestRegexSplits: the answers are Oniguruma's (by Hugging Face tokenizers 0.23.3, "isolated").
func TestRegexSplits(t *testing.T) {
	for _, c := range []struct{ expression, text, want string }{
		{`\d+`, "a12b3", "a|12|b|3"},
		{`a++a|b`, "aaab", "aaa|b"},
		{`\s?+x`, " x x", " x| x"},
		{`(?i:'s|k)`, "a'Sb'ſK\u212a", "a|'S|b|'ſ|K|\u212a"},
		{`[a[bc]-]+`, "xab-cx", "x|ab-c|x"},
		{`\p{Lu}`, "aBc\U00010D50d", "a|B|c|\U00010D50|d"},
		{`\P{L}+`, "a1 \U00010D50b", "a|1 |\U00010D50b"},
		{`^b|a$`, "ba\nba", "b|a|\n|b|a"},
		{`^`, "a\nb\n", "a\n|b\n"},
		{`(?<=a)b(?!c)`, "abcab", "abca|b"},
		{`[^\s\p{L}]`, "a1\U0002ebf0 b", "a|1|\U0002ebf0 b"},
		{`\p{Han}+`, "a漢字b", "a|漢字|b"},
		{`.`, "a\nb", "a|\n|b"},
		{`x*`, "axxb", "a|xx|b"},
	} {
		p, err := compileRegex(c.expression)
		if err != nil {
			t.Errorf("%s: %v", c.expression, err)
			continue
		}
		var got []string
		for _, s := range behavior("Isolated").spans(p.matches(c.text, nil), nil) {
			got = append(got, c.text[s.from:s.to])
		}
		if want := strings.Split(c.want, "|"); !slices.Equal(got, want) {
			t.Errorf("%s splits %q into %q, want %q", c.expression, c.text, got, want)
		}
	}
}

// TestRegexIsTheScanner: through the engine, the published expressions split as their scanners do.
func TestRegexIsTheScanner(t *testing.T) {
	c := committedClasses(t)
	for name, expression := range regexes {
		p, err := compileRegex(expression)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Texts {
			keep := behavior("Isolated")
			if got, want := keep.spans(p.matches(s, nil), nil), keep.spans(scanners[name].matches(s, nil), nil); !slices.Equal(got, want) {
				t.Errorf("%s: %q splits into %v, by the scanner %v", name, s, got, want)
			}
		}
	}
}
