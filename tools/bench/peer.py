"""The Python peer of tools/bench: torch + transformers + peft doing what gobpo does, on all CPU cores.

Speaks the bench's protocol: argv[1] is the case as JSON; lines "@{...}" on stdout are replies, the first one when
ready (loaded and run once), then one for each line on stdin.
"""

import contextlib
import json
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM


def reply(**values):
    print("@" + json.dumps(values), flush=True)


def timed(seconds, name):
    @contextlib.contextmanager
    def measure():
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    return measure()


def load(case):
    """The GGUF's weights, or random ones of its shape where these versions cannot read it: the speed is the same."""
    try:
        folder, file = os.path.split(case["model"])
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        return model, "weights of the GGUF"
    except Exception as e:
        c = case["config"]
        config = LlamaConfig(
            vocab_size=c["VocabSize"], hidden_size=c["HiddenSize"], intermediate_size=c["IntermediateSize"],
            num_hidden_layers=c["NumLayers"], num_attention_heads=c["NumHeads"], num_key_value_heads=c["NumKVHeads"],
            max_position_embeddings=c["MaxPositions"], tie_word_embeddings=c["TieEmbeddings"],
        )
        return LlamaForCausalLM(config).float(), f"random weights ({type(e).__name__}: {e})"[:160]


def tokens(case, rows, width, salt):
    """The same ids as bench's tokens in Go."""
    span = case["config"]["VocabSize"] - 100
    flat = [100 + (((salt << 20) + i) * 2654435761 % 2**32) % span for i in range(rows * width)]
    return torch.tensor(flat).view(rows, width)


def train(case, model):
    """One step of TRL's DPOTrainer: adapter-off reference, policy, backward, clip, AdamW; chosen and rejected concatenated."""
    n, p, r, beta = case["pairs"], case["prompt"], case["completion"], 0.1
    prompts = tokens(case, n, p, 0)
    ids = torch.cat([torch.cat([prompts, tokens(case, n, r, s)], 1) for s in (1, 2)])  # [2n, p+r]
    mask = torch.ones_like(ids)
    params = [w for w in model.parameters() if w.requires_grad]
    adamw = torch.optim.AdamW(params, lr=5e-5, weight_decay=0)
    model.train()

    def logps():
        out = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=r + 1)
        logits = out.logits[:, :-1]  # the states that predict the completion
        chosen = logits.gather(-1, ids[:, p:, None]).squeeze(-1)
        return (chosen - logits.logsumexp(-1)).sum(-1)  # [2n]

    def step(seconds):
        with timed(seconds, "reference"), torch.no_grad(), model.disable_adapter():
            ref = logps()
        with timed(seconds, "learn"):
            ratio = logps() - ref
            loss = -F.logsigmoid(beta * (ratio[:n] - ratio[n:])).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            adamw.step()
            adamw.zero_grad()
        return {"check": ref[:n].mean().item()}

    return step


def sample(case, model):
    """64 tokens after 64: no end of text, temperature 1, no cut of the distribution, cache."""
    ids = tokens(case, case["batch"], case["prompt"], 0)
    new = case["completion"]
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, use_cache=True, pad_token_id=0,
        eos_token_id=model.config.eos_token_id, min_new_tokens=new, max_new_tokens=new,
    )
    model.eval()

    def step(seconds):
        if case.get("folded"):
            with timed(seconds, "fold"):
                model.merge_adapter()
        with timed(seconds, "sample"), torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        if case.get("folded"):
            model.unmerge_adapter()
        assert out.shape[1] == case["prompt"] + new, out.shape
        return {}

    return step


def matmul(case):
    xs = [torch.arange(n * n).remainder(7).float().sub(3).view(n, n) for n in case["sizes"]]

    def step(seconds):
        for n, x in zip(case["sizes"], xs):
            best = float("inf")
            for _ in range(8):
                start = time.perf_counter()
                x @ x
                best = min(best, time.perf_counter() - start)
            seconds[str(n)] = best
        return {}

    return step


def main():
    case = json.loads(sys.argv[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.manual_seed(0)
    note, start = "", time.perf_counter()
    if case["kind"] == "matmul":
        step = matmul(case)
    else:
        model, note = load(case)
        lora = peft.LoraConfig(r=case["rank"], lora_alpha=case["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, lora)
        step = {"train": train, "sample": sample}[case["kind"]](case, model)
    loaded = time.perf_counter() - start
    start = time.perf_counter()
    values = step({})
    reply(
        load=loaded, warmup=time.perf_counter() - start, note=note, **values,
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}",
    )
    for _ in sys.stdin:
        seconds = {}
        step(seconds)
        reply(seconds=seconds)


main()
