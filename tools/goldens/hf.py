"""Reference outputs of transformers for architectures and settings that no small checkpoint has.

    python tools/goldens/hf.py write models/goldentest/testdata/hf      # makes the files that the tests of models read
    python tools/goldens/hf.py score ROWS.json DIR...        # JSON: next-token log-probs of the rows under each checkpoint or PEFT adapter
    python tools/goldens/hf.py reward ROWS.json DIR...       # JSON: rewards of the rows under each sequence classifier of one label;
                                                             # one that is no adapter is also written to DIR-hf, as transformers does

A file holds a config.json, the shapes of the model's tensors and what transformers computes with them in float32 and
eager attention: next-token log-probs of a right-padded batch, greedy continuations, the logits after the first row.
The weights are not stored: both sides make them from the tensors' names (see numbers).
"""
import json
import math
import os
import sys
import zlib

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

BASE = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, tie_word_embeddings=False)
LLAMA = dict(BASE, num_key_value_heads=2, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0)
CASES = {
    "llama-linear": dict(LLAMA, model_type="llama", attention_bias=True, mlp_bias=True, rope_scaling=dict(type="linear", factor=4.0)),
    "llama-dynamic": dict(LLAMA, model_type="llama", head_dim=8, rope_scaling=dict(rope_type="dynamic", factor=2.0)),
    "llama-llama3": dict(LLAMA, model_type="llama", head_dim=16, rope_theta=500.0, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    "llama-yarn": dict(LLAMA, model_type="llama", head_dim=16, rope_theta=500.0, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=2.0, beta_slow=0.25)),
    "qwen2-yarn": dict(LLAMA, model_type="qwen2", head_dim=16, rope_scaling=None, rope_parameters=dict(
        rope_type="yarn", rope_theta=300.0, factor=None, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.5,
        beta_fast=3.0, beta_slow=0.5, truncate=False)),
    "mistral-window": dict(LLAMA, model_type="mistral", sliding_window=5),
    "qwen2-window": dict(LLAMA, model_type="qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3-window": dict(LLAMA, model_type="qwen3", head_dim=6, use_sliding_window=True, sliding_window=7, attention_bias=True,
                         layer_types=["sliding_attention", "full_attention"]),
    "gemma-legacy": dict(LLAMA, model_type="gemma", num_key_value_heads=1, head_dim=8, hidden_act="gelu", tie_word_embeddings=True),
    "gemma2-window": dict({k: v for k, v in LLAMA.items() if k != "hidden_act"}, model_type="gemma2", num_hidden_layers=3, head_dim=8,
                          hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, query_pre_attn_scalar=20,
                          attn_logit_softcapping=2.0, final_logit_softcapping=3.0, sliding_window=5),
    "gpt2-inner": dict(model_type="gpt2", vocab_size=32, n_embd=16, n_head=4, n_layer=2, n_inner=20, n_positions=64,
                       activation_function="gelu", layer_norm_epsilon=1e-4, tie_word_embeddings=True),
    "gpt_neox-sequential": dict(BASE, model_type="gpt_neox", hidden_act="gelu_fast", rotary_pct=0.5, rotary_emb_base=1000,
                                layer_norm_eps=1e-5, use_parallel_residual=False),
    "gpt_neox-nobias": dict(BASE, model_type="gpt_neox", hidden_act="relu", attention_bias=False, tie_word_embeddings=True,
                            layer_norm_eps=1e-5, rope_parameters=dict(rope_type="linear", factor=2.0, partial_rotary_factor=0.5, rope_theta=100.0)),
    "phi3-window": dict(LLAMA, model_type="phi3", head_dim=8, partial_rotary_factor=0.5, sliding_window=6, pad_token_id=0,
                        original_max_position_embeddings=64),
    "phi3-longrope": dict(LLAMA, model_type="phi3", pad_token_id=0, max_position_embeddings=256, original_max_position_embeddings=64,
                          rope_scaling=dict(type="longrope", short_factor=[1.1, 1.7], long_factor=[2.0, 8.0])),
}


def numbers(name, shape):
    """Weights from a tensor's name: a hash of the place, uniform; norms' weights and biases near what they start as."""
    x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 2246822519), (13, 3266489917), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    u = (x / 2.0**32 - 0.5).reshape(shape)
    return u if len(shape) == 1 else u * 4 / math.sqrt(shape[-1])


def fill(model):
    tensors = {}
    for name, p in model.named_parameters():
        if model.config.model_type == "gpt_neox":
            name = name.replace("lm_head.", "embed_out.")  # its name in files
        u = numbers(name, tuple(p.shape))
        if u.ndim == 1 and name.endswith("weight") and "gemma" not in model.config.model_type:
            u = 1 + u
        p.data = torch.tensor(u.astype(np.float32))
        tensors[name] = list(p.shape)
    return tensors


@torch.no_grad()
def logps(model, rows):
    width = max(map(len, rows))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    out = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    return [[round(out[i, t, r[t + 1]].item(), 6) for t in range(len(r) - 1)] for i, r in enumerate(rows)]


@torch.no_grad()
def last(model, row):
    return model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]


def greedy(model, row, n):
    row = list(row)
    for _ in range(n):
        row.append(last(model, row).argmax().item())
    return row[-n:]


def write(folder):
    rng = np.random.default_rng(7)
    rows = [rng.integers(0, 32, n).tolist() for n in (37, 20, 7)]
    for case, config in CASES.items():
        kind = config["model_type"]
        # a copy: transformers changes the dictionaries it is given
        made = CONFIG_MAPPING[kind](**json.loads(json.dumps({k: v for k, v in config.items() if k != "model_type"})))
        model = AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()
        tensors = fill(model)
        model.tie_weights()
        out = dict(source="transformers, float32, eager", config=config, tensors=tensors, rows=rows, next_token_logps=logps(model, rows),
                   greedy=[greedy(model, r, 8) for r in rows], last_logits_row0=[round(v, 6) for v in last(model, rows[0]).tolist()])
        with open(os.path.join(folder, case + ".json"), "w") as f:
            lines = (f'"{k}": {json.dumps(v, separators=(",", ":"))}' for k, v in out.items())
            f.write("{" + ",\n".join(lines) + "}\n")


def score(file, folders):
    with open(file) as f:
        rows = json.load(f)
    out = []
    for folder in folders:
        kind = AutoModelForCausalLM
        if os.path.exists(os.path.join(folder, "adapter_config.json")):
            from peft import AutoPeftModelForCausalLM as kind
        model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        out.append(logps(model, rows))
    json.dump(out, sys.stdout)


def reward(file, folders):
    from transformers import AutoModelForSequenceClassification

    with open(file) as f:
        rows = json.load(f)
    out = []
    for folder in folders:
        args = dict(attn_implementation="eager", dtype=torch.float32)
        if os.path.exists(os.path.join(folder, "adapter_config.json")):
            from peft import AutoPeftModelForSequenceClassification

            model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1, **args)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(folder, **args)
            model.save_pretrained(folder + "-hf")
        assert model.config.num_labels == 1, (folder, model.config.num_labels)
        with torch.no_grad():
            out.append([model.eval()(torch.tensor([r])).logits[0, 0].item() for r in rows])
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "write":
        write(sys.argv[2])
    elif len(sys.argv) > 3 and sys.argv[1] == "score":
        score(sys.argv[2], sys.argv[3:])
    elif len(sys.argv) > 3 and sys.argv[1] == "reward":
        reward(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(__doc__)
