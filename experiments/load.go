package experiments

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"gobpo/models"
)

// tree is a configuration before it is typed: nested sections of the keys somebody set.
type tree = map[string]any

// File is a loaded experiment file with its overrides: a tree of set keys, from which trials are made.
type File struct {
	Path   string
	tree   tree
	schema *schema
}

// Load reads an experiment file and lays over it first the environment (BPO_LOSS_BETA=0.2 sets loss.beta),
// then sets ("loss.beta=0.2", the value in YAML). An override of a swept key pins it: the key leaves the sweep.
// Any mistake is one line that names the file (or variable, or flag), the key and the nearest valid key.
func Load(path string, sets, environ []string) (*File, error) {
	return loadFile(configSchema, path, sets, environ)
}

func loadFile(s *schema, path string, sets, environ []string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the experiment: %w", err)
	}
	t, err := s.parse(filepath.ToSlash(path), raw)
	if err != nil {
		return nil, err
	}
	f := &File{path, t, s}
	for _, kv := range environ {
		if err := f.setEnv(kv); err != nil {
			return nil, err
		}
	}
	for _, kv := range sets {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("--set %s: want key=value", kv)
		}
		if err := f.set("--set "+kv, strings.TrimSpace(key), value); err != nil {
			return nil, err
		}
	}
	return f, nil
}

var configSchema = listedSchema(reflect.TypeFor[Config](), "`bpo show`")

// parse checks one YAML document against the schema.
func (s *schema) parse(name string, raw []byte) (tree, error) {
	plain, doc, err := decodeYAML(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if doc.Kind == 0 {
		return nil, fmt.Errorf("%s: the file is empty", name)
	}
	root := doc.Content[0]
	t, ok := plain.(tree)
	if !ok {
		return nil, fmt.Errorf("%s: want keys at the top level, got %s", name, describe(root))
	}
	if err := s.checkMapping(s, "", root); err != nil {
		var at *locatedError
		if errors.As(err, &at) && at.line > 0 {
			return nil, fmt.Errorf("%s:%d: %w", name, at.line, err)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// decodeYAML gives a document's values, and its nodes for their lines and types. Decoding comes first: it refuses
// duplicate keys, aliases that contain themselves and alias bombs, which a walk over the nodes would follow.
func decodeYAML(raw []byte) (plain any, doc yaml.Node, err error) {
	if err = yaml.Unmarshal(raw, &plain); err == nil {
		err = yaml.Unmarshal(raw, &doc)
	}
	if err != nil {
		s := strings.TrimPrefix(err.Error(), "yaml: ")
		s = strings.TrimPrefix(s, "unmarshal errors:\n  ")
		err = errors.New(strings.Join(strings.Fields(s), " "))
	}
	return plain, doc, err
}

const envPrefix = "BPO_"

// setEnv applies one "NAME=value" of the environment if its name starts with BPO_.
func (f *File) setEnv(kv string) error {
	name, value, _ := strings.Cut(kv, "=")
	if !strings.HasPrefix(name, envPrefix) {
		return nil
	}
	byName := map[string]string{}
	for _, p := range f.schema.paths(true) {
		byName[envName(p)] = p
	}
	key, ok := byName[name]
	if !ok {
		guess := strings.ToLower(strings.TrimPrefix(name, envPrefix))
		if near := f.schema.nearest(guess); near != "" {
			return fmt.Errorf("environment: %s names no key; did you mean %s?", name, envName(near))
		}
		return fmt.Errorf("environment: %s names no key; the variables are %s followed by a key in capitals, as BPO_LOSS_BETA", name, envPrefix)
	}
	return f.set("environment: "+name, key, value)
}

func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// set parses value as YAML, checks it and stores it at key.
func (f *File) set(who, key, value string) error {
	plain, doc, err := decodeYAML([]byte(value))
	if err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	if doc.Kind != 0 {
		node = doc.Content[0]
	}
	if plain == nil { // "study=" means the empty text where text is wanted
		if s, ok := f.schema.find(key); ok && s.typ != nil && s.typ.Kind() == reflect.String {
			plain, node = "", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str"}
		}
	}
	if swept, ok := strings.CutPrefix(key, "sweep.grid."); ok {
		err = checkSwept(f.schema, "sweep.grid", &yaml.Node{Kind: yaml.ScalarNode, Value: swept}, node)
	} else if s, ok := f.schema.find(key); !ok {
		err = f.schema.unknown(key)
	} else if err = s.check(f.schema, key, node); err == nil {
		if err = f.hidden(key); err == nil {
			f.unsweep(key)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	f.schema.put(f.tree, splitKey(key), plain)
	return nil
}

// unsweep takes a pinned key, and the keys below it, out of the sweep.
func (f *File) unsweep(key string) {
	hit := func(k string) bool { return k == key || strings.HasPrefix(k, key+".") }
	sweep, _ := f.tree["sweep"].(tree)
	if grid, ok := sweep["grid"].(tree); ok {
		maps.DeleteFunc(grid, func(k string, _ any) bool { return hit(k) })
	}
	paired, _ := sweep["paired"].([]any)
	for _, setting := range paired {
		if m, ok := setting.(tree); ok {
			maps.DeleteFunc(m, func(k string, _ any) bool { return hit(k) })
		}
	}
}

// hidden is an error where the sweep varies a section that would be laid over the key in it.
func (f *File) hidden(key string) error {
	sweep, _ := f.tree["sweep"].(tree)
	grid, _ := sweep["grid"].(tree)
	paired, _ := sweep["paired"].([]any)
	for i, c := range key {
		if c != '.' {
			continue
		}
		section := key[:i]
		first, _, _ := strings.Cut(key[i+1:], ".")
		values, _ := grid[section].([]any)
		where := "sweep.grid." + section
		for _, setting := range paired {
			if m, ok := setting.(tree); ok && m[section] != nil {
				values, where = append(slices.Clone(values), m[section]), "sweep.paired"
			}
		}
		at, _ := f.schema.find(section)
		for _, v := range values {
			m, ok := v.(tree)
			if _, laid := m[first]; ok && (at.free || laid) {
				return fmt.Errorf("%s: the sweep gives %s whole, which this would not change; set %s or %s", key, section, where, section)
			}
		}
	}
	return nil
}

// splitKey splits at dots; the keys of the sweep's grid are dotted themselves.
func splitKey(key string) []string {
	if swept, ok := strings.CutPrefix(key, "sweep.grid."); ok {
		return []string{"sweep", "grid", swept}
	}
	return strings.Split(key, ".")
}

// put stores v at a path. A section is laid over the section there; a free map (annotator, loss.params)
// replaces it, because options of one annotator mean nothing to another.
func (s *schema) put(t tree, path []string, v any) {
	for _, p := range path[:len(path)-1] {
		next, ok := t[p].(tree)
		if !ok {
			next = tree{}
			t[p] = next
		}
		t = next
	}
	last := path[len(path)-1]
	at, _ := s.find(strings.Join(path, "."))
	m, isMap := v.(tree)
	old, had := t[last].(tree)
	if !isMap || !had || len(m) == 0 || at == nil || at.free { // {} empties a section
		t[last] = clone(v)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		old[k] = clone(m[k])
	}
}

func clone(v any) any {
	switch v := v.(type) {
	case tree:
		out := make(tree, len(v))
		for k, x := range v {
			out[k] = clone(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = clone(x)
		}
		return out
	}
	return v
}

// typed lays a tree over the defaults, decodes and resolves it. It does not validate.
func typed(t tree) (Config, error) {
	c := DefaultConfig()
	if err := decode(t, &c, &c.LoRA); err != nil {
		return Config{}, err
	}
	if _, given := t["reference"]; !given && c.offline() {
		c.Reference = "sft" // nobody that is trained here sampled given pairs, so that a behavior is no reference for them
	}
	if _, given := t["refresh"]; !given && c.RefreshEvery > 0 {
		c.Refresh = 0 // the default F gives way to an explicit K
	}
	c.resolve()
	return c, nil
}

// decode lays a tree over a configuration, of which lora is a part.
func decode(t tree, into any, l *models.LoRA) error {
	// Grid keys are dotted, so the delimiter of viper's own paths must be something else.
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"))
	if err := v.MergeConfigMap(clone(t).(tree)); err != nil {
		return err
	}
	err := v.Unmarshal(into, func(d *mapstructure.DecoderConfig) {
		d.ErrorUnused = true
		d.WeaklyTypedInput = false
		d.DecodeHook = wholeNumbers
	})
	if err != nil {
		return errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	if lora, ok := t["lora"].(tree); ok { // viper made the keys of free maps lower case; those of patterns are text
		for key, into := range map[string]any{"rank_pattern": &l.RankPattern, "alpha_pattern": &l.AlphaPattern} {
			if given, ok := lora[key].(tree); ok {
				reflect.ValueOf(into).Elem().SetZero()
				if err := mapstructure.Decode(given, into); err != nil {
					return fmt.Errorf("lora.%s: %s", key, strings.Join(strings.Fields(err.Error()), " "))
				}
			}
		}
	}
	return nil
}

// wholeNumbers lets 1e3 stand for the integer it is; the schema check has refused fractions.
func wholeNumbers(from, to reflect.Type, v any) (any, error) {
	if f, ok := v.(float64); ok {
		switch to.Kind() {
		case reflect.Int, reflect.Int64, reflect.Int32, reflect.Uint, reflect.Uint64, reflect.Uint32:
			return int64(f), nil
		}
	}
	return v, nil
}
