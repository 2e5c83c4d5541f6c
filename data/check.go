package data

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// CheckOptions tunes Check.
type CheckOptions struct {
	Tokens       func(string) int // length of a text in tokens; nil = not measured
	AllowLeakage bool             // leakage is then a warning
	Layout       string           // of files that are not ours; "" = auto
}

// CheckReport is what Check found. Errors make a data set unfit for an
// experiment; Warnings are for the reader to judge.
type CheckReport struct {
	Files    []FileReport `json:"files"`
	Leaks    []Leak       `json:"leaks,omitempty"` // pairs of files that share prompts
	Errors   []string     `json:"errors,omitempty"`
	Warnings []string     `json:"warnings,omitempty"`
}

// FileReport describes one file.
type FileReport struct {
	Path    string `json:"path"`
	Schema  string `json:"schema"` // of the file, or of what an import would make of it
	Layout  string `json:"layout"`
	Rows    int    `json:"rows"`
	Prompts int    `json:"prompts"` // distinct
	// Duplicates are the rows equal in all texts to an earlier one, SamePrompt
	// those that share only their prompt with one.
	Duplicates int                  `json:"duplicates"`
	SamePrompt int                  `json:"same_prompt"`
	Flaws      map[string]int       `json:"flaws,omitempty"`   // rows by what is wrong with them
	Lengths    map[string]Quantiles `json:"lengths,omitempty"` // by "prompt chars", "chosen words", …
}

// Leak is the overlap of two files, in rows of each.
type Leak struct {
	A, B     string
	AinB     Overlap `json:"a_in_b"`
	BinA     Overlap `json:"b_in_a"`
	SameKind bool    `json:"-"` // exact rows can be compared
}

// Overlap counts the rows of one data set that occur in another.
type Overlap struct {
	Rows    int    `json:"rows"`    // equal in all texts
	Prompts int    `json:"prompts"` // equal in the prompt, Rows included
	Of      int    `json:"of"`      // rows looked at
	Example string `json:"example,omitempty"`
}

// Leakage counts the rows of a, the evaluation set, whose prompt (and
// reference) also occur in b, the training set.
func Leakage(a, b []Prompt) Overlap {
	exact, prompts := map[[16]byte]bool{}, map[[16]byte]bool{}
	for _, p := range b {
		exact[digest(p.Prompt, p.Reference)] = true
		prompts[digest(p.Prompt)] = true
	}
	o := Overlap{Of: len(a)}
	for _, p := range a {
		if exact[digest(p.Prompt, p.Reference)] {
			o.Rows++
		}
		if prompts[digest(p.Prompt)] {
			if o.Prompts == 0 {
				o.Example = p.Prompt
			}
			o.Prompts++
		}
	}
	return o
}

// scan is what Check remembers of a file: 2 × 16 bytes a distinct row.
type scan struct {
	FileReport
	exact, prompts map[[16]byte]int32 // rows by hash
	lengths        map[string]*lengths
	kind           string
	err            error
}

// Check reads the files, of any layout, and reports on each and on what they
// share. A file that cannot be read is an error of the report.
func Check(o CheckOptions, paths ...string) CheckReport {
	var rep CheckReport
	var scans []*scan
	for _, p := range paths {
		s := scanFile(p, o)
		scans = append(scans, s)
		rep.Files = append(rep.Files, s.FileReport)
		rep.judge(s)
	}
	for i, a := range scans {
		for _, b := range scans[i+1:] {
			l := Leak{A: a.Path, B: b.Path, AinB: overlap(a, b), BinA: overlap(b, a), SameKind: a.kind == b.kind}
			if l.AinB.Prompts == 0 {
				continue
			}
			rep.Leaks = append(rep.Leaks, l)
			if o.AllowLeakage {
				rep.Warnings = append(rep.Warnings, l.String())
			} else {
				rep.Errors = append(rep.Errors, l.String())
			}
		}
	}
	return rep
}

func overlap(a, b *scan) Overlap {
	o := Overlap{Of: a.Rows}
	for h, n := range a.exact {
		if b.exact[h] > 0 {
			o.Rows += int(n)
		}
	}
	for h, n := range a.prompts {
		if b.prompts[h] > 0 {
			o.Prompts += int(n)
		}
	}
	return o
}

func scanFile(path string, o CheckOptions) *scan {
	s := &scan{exact: map[[16]byte]int32{}, prompts: map[[16]byte]int32{}, lengths: map[string]*lengths{}}
	s.Path, s.Flaws = path, map[string]int{}
	layout := o.Layout
	if layout == "" {
		layout = "auto"
	}
	for r, err := range convertAll(path, layout) {
		if err != nil {
			s.err = err
			break
		}
		s.Rows++
		s.Layout = r.layout
		if r.skip != "" {
			s.Flaws[r.skip]++
		}
		s.add(r.row, o.Tokens)
	}
	s.Prompts = len(s.prompts)
	s.SamePrompt = len(s.exact) - s.Prompts
	s.Lengths = map[string]Quantiles{}
	for name, l := range s.lengths {
		l.quantiles(name, s.Lengths)
	}
	return s
}

// add measures a row; one without a record (say, no shared prompt) has nothing
// to measure.
func (s *scan) add(r row, tokens func(string) int) {
	var texts map[string]string
	switch {
	case r.prompt != nil:
		s.kind, s.Schema = "prompt", Schema[Prompt]()
		texts = map[string]string{"prompt": r.prompt.Prompt}
		if strings.TrimSpace(r.prompt.Reference) == "" {
			s.Flaws["the reference (label) is empty"]++
		} else {
			texts["reference"] = r.prompt.Reference
		}
	case r.pair != nil:
		s.kind, s.Schema = "pair", Schema[Preference]()
		texts = map[string]string{"prompt": r.pair.Prompt, "chosen": r.pair.Chosen, "rejected": r.pair.Rejected}
	default:
		return
	}
	exact := r.key("exact")
	if s.exact[exact]++; s.exact[exact] > 1 {
		s.Duplicates++
	}
	s.prompts[r.key("prompt")]++
	for name, text := range texts {
		l := s.lengths[name]
		if l == nil {
			l = &lengths{}
			s.lengths[name] = l
		}
		l.chars = append(l.chars, int32(utf8.RuneCountInString(text)))
		l.words = append(l.words, int32(len(strings.Fields(text))))
		if tokens != nil {
			l.tokens = append(l.tokens, int32(tokens(text)))
		}
	}
}

// String is the leak in one line.
func (l Leak) String() string {
	a, b := filepath.Base(l.A), filepath.Base(l.B)
	if filepath.Dir(l.A) != filepath.Dir(l.B) {
		a, b = l.A, l.B
	}
	exact := func(o Overlap) string {
		if !l.SameKind {
			return ""
		}
		return fmt.Sprintf(", %d of them exactly", o.Rows)
	}
	return fmt.Sprintf("leakage: %d of %d rows of %s have a prompt of %s%s; %d of %d rows of %s have one of %s%s",
		l.AinB.Prompts, l.AinB.Of, a, b, exact(l.AinB), l.BinA.Prompts, l.BinA.Of, b, a, exact(l.BinA))
}
