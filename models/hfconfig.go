package models

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// harmless are keys of config.json that change nothing of what is computed here, whatever the architecture.
var harmless = []string{"architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
	"unk_token_id", "sep_token_id", "decoder_start_token_id", "initializer_range", "pretraining_tp", "_name_or_path", "_commit_hash",
	"_attn_implementation_autoset", "attn_implementation", "auto_map", "transformers.js_config", "is_llama_config", "cache_implementation",
	"output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "gradient_checkpointing", "max_sequence_length",
	"tokenizer_class", "task_specific_params", "id2label", "label2id", "num_labels", "problem_type", "unsloth_version"}

// dropout says whether a key is one of the dropouts, which only training with transformers would use.
func dropout(key string) bool {
	return strings.HasSuffix(key, "_dropout") || strings.HasSuffix(key, "_pdrop")
}

// field is where a key of config.json goes, under any family's spelling.
func (c *Config) field(key string) any {
	switch key {
	case "vocab_size":
		return &c.VocabSize
	case "hidden_size", "n_embd":
		return &c.HiddenSize
	case "intermediate_size", "n_inner":
		return &c.IntermediateSize
	case "num_hidden_layers", "n_layer":
		return &c.NumLayers
	case "num_attention_heads", "n_head":
		return &c.NumHeads
	case "num_key_value_heads":
		return &c.NumKVHeads
	case "head_dim":
		return &c.HeadDim
	case "max_position_embeddings", "n_positions":
		return &c.MaxPositions
	case "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon":
		return &c.RMSNormEps
	case "tie_word_embeddings":
		return &c.TieEmbeddings
	case "hidden_act", "hidden_activation", "activation_function":
		return &c.Activation
	case "attention_bias":
		return &c.AttentionBias
	case "mlp_bias":
		return &c.MLPBias
	case "use_parallel_residual":
		return &c.ParallelResidual
	case "query_pre_attn_scalar":
		return &c.QueryPreAttnScalar
	case "attn_logit_softcapping":
		return &c.AttentionCap
	case "final_logit_softcapping":
		return &c.LogitCap
	}
	panic("models: no field for config.json's " + key)
}

// nullable are keys whose null means none, not the default.
var nullable = []string{"attn_logit_softcapping", "final_logit_softcapping", "num_key_value_heads"}

// parseHFConfig reads a config.json, filling in what transformers would. A key that is neither understood nor known to
// be harmless is refused by name, unless it is null or false.
func parseHFConfig(raw []byte) (Config, error) {
	r := &hfReader{err: new(error)}
	if err := json.Unmarshal(raw, &r.keys); err != nil {
		return Config{}, err
	}
	var kind string
	r.read("model_type", &kind)
	reward := r.readReward()
	f, ok := families[kind]
	if !ok {
		return Config{}, fmt.Errorf("model_type: %q is not supported (one of %s)", kind, strings.Join(Architectures(), ", "))
	}
	c := f.defaults
	c.Architecture, c.Reward = kind, reward
	if c.Activation == "" {
		c.Activation = "silu"
	}
	for _, key := range f.keys {
		if r.present(key) && !r.read(key, c.field(key)) && slices.Contains(nullable, key) {
			reflect.ValueOf(c.field(key)).Elem().SetZero()
		}
	}
	if c.Activation == "" {
		r.fail("the activation is an empty string")
	}
	c.derive()
	if f.special != nil {
		f.special(r, &c)
	}
	if f.positions == "" {
		r.readRope(f.rope, &c)
	}
	r.readWindows(f.windows, &c)
	for key, want := range f.fixed {
		if got := r.text(key); got != "" && got != want {
			r.fail("%s: %s is not supported (only %s)", key, got, want)
		}
		r.drop(key)
	}
	for key := range r.keys {
		if slices.Contains(harmless, key) || slices.Contains(f.ignored, key) || dropout(key) {
			r.drop(key)
		}
	}
	r.done()
	if *r.err != nil {
		return Config{}, *r.err
	}
	return c, c.Validate()
}

// readReward says whether the file is of a sequence classifier, of which those with one label are reward models.
func (r *hfReader) readReward() bool {
	var classes []string
	r.read("architectures", &classes)
	if !slices.ContainsFunc(classes, func(c string) bool { return strings.HasSuffix(c, rewardSuffix) }) {
		return false
	}
	labels, names := 2, map[string]string{} // transformers' default
	if r.read("id2label", &names) {
		labels = len(names)
	}
	r.read("num_labels", &labels)
	if labels != 1 {
		r.fail("id2label: a classifier of %d labels is no reward model, which has one", labels)
	}
	return true
}

// rewardSuffix ends the names of transformers' sequence classifiers.
const rewardSuffix = "ForSequenceClassification"

// rewardClass is transformers' class for the family's reward models.
func (f family) rewardClass() string {
	return strings.TrimSuffix(strings.TrimSuffix(f.class, "ForCausalLM"), "LMHeadModel") + rewardSuffix
}

// derive fills in what follows from other fields.
func (c *Config) derive() {
	if c.NumKVHeads == 0 {
		c.NumKVHeads = c.NumHeads
	}
	if c.HeadDim == 0 && c.NumHeads > 0 {
		c.HeadDim = c.HiddenSize / c.NumHeads
	}
}

// hfJSON writes the configuration as a config.json that transformers and parseHFConfig read.
func (c Config) hfJSON(dtype string) ([]byte, error) {
	f := c.family()
	out := map[string]any{"architectures": []string{f.class}, "model_type": c.Architecture, "torch_dtype": dtype,
		"bos_token_id": nil, "eos_token_id": nil, "pad_token_id": nil} // not the ids that transformers would fill in
	if c.Reward {
		out["architectures"] = []string{f.rewardClass()}
		out["id2label"], out["label2id"] = map[string]string{"0": "LABEL_0"}, map[string]int{"LABEL_0": 0} // num_labels 1
	}
	c.derive()
	for _, key := range f.keys {
		v := reflect.ValueOf(c.field(key)).Elem()
		out[key] = v.Interface()
		switch {
		case v.IsZero() && v.CanFloat():
			out[key] = nil // no cap
		case v.CanFloat() && key != "query_pre_attn_scalar": // transformers tells integers from floats
			text := strconv.FormatFloat(v.Float(), 'g', -1, 64)
			if !strings.ContainsAny(text, ".e") {
				text += ".0"
			}
			out[key] = json.RawMessage(text)
		case v.IsZero() && v.Kind() == reflect.String:
			out[key] = "silu"
		}
	}
	for key, value := range f.fixed {
		out[key] = json.RawMessage(value)
	}
	if f.positions == "" {
		c.writeRope(f.rope, out)
	}
	c.writeWindows(f.windows, out)
	return json.MarshalIndent(out, "", "  ")
}

// configJSON is the config.json to save: the one that was read, if it still says what Config does, else a new one.
func (m *Model) configJSON(dtype string) ([]byte, error) {
	if c, err := parseHFConfig(m.configFile); err != nil || !reflect.DeepEqual(c, m.Config) {
		return m.Config.hfJSON(dtype)
	}
	var keys map[string]any
	d := json.NewDecoder(bytes.NewReader(m.configFile))
	d.UseNumber() // numbers stay as they were written
	if err := d.Decode(&keys); err != nil {
		return nil, err
	}
	key := "torch_dtype"
	if _, ok := keys["dtype"]; ok {
		key = "dtype"
	}
	keys[key] = dtype
	return json.MarshalIndent(keys, "", "  ")
}

// hfReader takes keys out of a JSON object, and complains about what is left. The first error of a file counts.
type hfReader struct {
	keys map[string]json.RawMessage
	path string // of the object, for errors
	err  *error
}

func (r *hfReader) fail(format string, args ...any) {
	if *r.err == nil {
		*r.err = fmt.Errorf(r.path+format, args...)
	}
}

// text is a value as the file has it; empty if it is absent.
func (r *hfReader) text(key string) string { return string(bytes.TrimSpace(r.keys[key])) }

func (r *hfReader) present(key string) bool { _, ok := r.keys[key]; return ok }

// has says whether there is a value that is not null.
func (r *hfReader) has(key string) bool { return r.present(key) && r.text(key) != "null" }

func (r *hfReader) drop(key string) { delete(r.keys, key) }

// read takes a value into a variable and says whether there was one; null counts as none.
func (r *hfReader) read(key string, to any) bool {
	defer r.drop(key)
	if !r.has(key) {
		return false
	}
	if err := json.Unmarshal(r.keys[key], to); err != nil {
		r.fail("%s: %.60s is not %s", key, r.text(key), article(reflect.TypeOf(to).Elem()))
		return false
	}
	return true
}

func article(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int:
		return "an integer"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	}
	return "true or false"
}

// agree takes another spelling of a key that was read.
func (r *hfReader) agree(key, with string) {
	other := with
	if r.read(key, &other); other != with {
		r.fail("%s: %q is not the %q given elsewhere", key, other, with)
	}
}

// sub takes a nested object, empty if there is none.
func (r *hfReader) sub(key string) *hfReader {
	inner := &hfReader{keys: map[string]json.RawMessage{}, path: r.path + key + ": ", err: r.err}
	if r.has(key) {
		if err := json.Unmarshal(r.keys[key], &inner.keys); err != nil {
			r.fail("%s: %.60s is not an object", key, r.text(key))
		}
	}
	r.drop(key)
	return inner
}

// done refuses what was not taken.
func (r *hfReader) done() {
	for _, key := range slices.Sorted(maps.Keys(r.keys)) {
		if v := r.text(key); v != "null" && v != "false" {
			r.fail("%s: %.60s is not supported", key, v)
		}
	}
}
