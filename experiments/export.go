package experiments

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/gomlx/compute/dtypes"

	"gobpo/models"
)

// ExportOptions say what is written.
type ExportOptions struct {
	Adapter    bool         // the adapter alone, as PEFT reads it, and not the whole model
	DType      dtypes.DType // of a whole model's weights; InvalidDType: as the base has them
	ShardBytes int64        // of one weight file; 0: models.ShardBytes
	Force      bool         // replace the directory if it is there
}

// Export writes a Hugging Face directory that transformers loads, or a PEFT directory that peft loads, with a model card.
// The directory appears under its name when it is complete.
func (a *Artifact) Export(dir string, o ExportOptions) error {
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); err == nil && !o.Force {
		return fmt.Errorf("%s exists; --force replaces it", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("export: %w", err)
	}
	if o.Adapter && a.Adapter == nil {
		why := "has no adapter"
		if a.run != nil {
			why += ": all its weights were trained"
		}
		return fmt.Errorf("--adapter: %s %s; export the whole model", a.Path, why)
	}
	tmp := dir + ".tmp" // left over where an export was killed
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := a.write(tmp, o); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if o.Force {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (a *Artifact) write(dir string, o ExportOptions) error {
	card, err := a.card(o.Adapter)
	if err != nil {
		return err
	}
	if o.Adapter {
		err = a.Adapter.Save(dir, a.baseName())
	} else {
		dtype, shard := o.DType, o.ShardBytes
		if dtype == dtypes.InvalidDType {
			dtype = a.Base.DType
		}
		if shard == 0 {
			shard = models.ShardBytes
		}
		err = a.Base.SaveFrom(a.Weights, dir, dtype, shard)
	}
	if err != nil {
		return err
	}
	if a.run != nil { // which the card tells to train
		raw, err := a.run.YAML()
		if err != nil {
			return err
		}
		if err := WriteFile(filepath.Join(dir, "config.yaml"), raw); err != nil {
			return err
		}
	}
	return WriteFile(filepath.Join(dir, "README.md"), card)
}

// baseName is what a card and an adapter call the base: an absolute path, so that peft finds it from anywhere.
func (a *Artifact) baseName() string {
	if path, err := filepath.Abs(a.Base.Source); err == nil {
		return path
	}
	return a.Base.Source
}

//go:embed card.md
var cardText string

var cardTemplate = template.Must(template.New("card").Parse(cardText))

// cardPage is what card.md shows.
type cardPage struct {
	Title, BaseName, Evaluator, Config string
	Method                             string // of a run
	Made                               string // of anything else: "merged by …"
	Adapter                            bool
	Tags, Facts                        []string
	Results                            []cardResult
}

type cardResult struct{ Name, Initial, Final string }

// card is the model card of the artifact; a run's says what it was made of and what it was measured to be.
func (a *Artifact) card(adapter bool) ([]byte, error) {
	p := cardPage{Title: filepath.Base(a.Path), Made: "converted by gobpo", Adapter: adapter, BaseName: a.baseName()}
	if a.merged != nil {
		p.Made = "merged by gobpo: " + a.Path + " of `" + strings.Join(a.merged, "`, `") + "`"
	}
	if a.run != nil {
		if err := p.addRun(a); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	if err := cardTemplate.Execute(&out, p); err != nil {
		return nil, fmt.Errorf("model card: %w", err)
	}
	return out.Bytes(), nil
}

func (p *cardPage) addRun(a *Artifact) error {
	c := *a.run
	m, err := ReadManifest(a.Path)
	if err != nil {
		return err
	}
	p.Title, p.Method, p.Evaluator = m.Study+" "+m.Hash, c.Method(), c.Eval.Annotator.Name
	p.Tags = []string{c.Loss.Name, strings.ToLower(c.Train)}
	for _, k := range slices.Sorted(maps.Keys(m.Data)) {
		p.Facts = append(p.Facts, fmt.Sprintf("%s: SHA-256 %s", k, m.Data[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(m.Versions)) {
		p.Facts = append(p.Facts, fmt.Sprintf("%s %s", k, m.Versions[k]))
	}
	if m.Backend != "" {
		p.Facts = append(p.Facts, "backend "+m.Backend)
	}
	raw, err := c.YAML()
	if err != nil {
		return err
	}
	p.Config = string(raw)
	r, err := ReadResult(a.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Final)) {
		number := func(m map[string]float64) string {
			if v, ok := m[name]; ok {
				return fmt.Sprintf("%.4g", v)
			}
			return "–"
		}
		p.Results = append(p.Results, cardResult{name, number(r.Initial), number(r.Final)})
	}
	return nil
}
