"""Writes optimizers.json: the weights that torch's and transformers' optimizers give over a few steps, and
Lion's by its formula. Run: python optimizers.py > optimizers.json (torch, transformers)."""
import json
import torch
from transformers.optimization import Adafactor

STEPS = 5
SHAPES = [[3, 4], [2, 2, 3], [5]]  # a matrix, a stack of matrices, a norm

def series(seed, scale):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g) * scale for s in SHAPES]

def run(make):
    weights = [torch.nn.Parameter(w.clone()) for w in series(1, 1.0)]
    opt = make([{"params": weights[:2]}, {"params": weights[2:], "weight_decay": 0.0}])
    rows = []
    for step in range(STEPS):
        for w, g in zip(weights, series(100 + step, 10.0 ** (step % 3 - 1))):
            w.grad = g.clone()
        opt.step()
        rows.append([w.detach().flatten().tolist() for w in weights])
    return rows

class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv 2302.06675."""
    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = b1 * m + (1 - b1) * p.grad
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * c.sign())
                m.mul_(b2).add_((1 - b2) * p.grad)

def adafactor(**k):
    base = dict(lr=0.05, relative_step=False, scale_parameter=False, warmup_init=False)
    return lambda groups: Adafactor(groups, **{**base, **k})

CASES = [
    ("adamw", 0.05, 0.0, {}, lambda g: torch.optim.AdamW(g, lr=0.05, weight_decay=0.0)),
    ("adamw", 0.05, 0.1, {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6},
     lambda g: torch.optim.AdamW(g, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    ("rmsprop", 0.05, 0.0, {}, lambda g: torch.optim.RMSprop(g, lr=0.05)),
    ("rmsprop", 0.05, 0.1, {"alpha": 0.9, "momentum": 0.5, "centered": 1, "eps": 1e-4},
     lambda g: torch.optim.RMSprop(g, lr=0.05, alpha=0.9, momentum=0.5, centered=True, eps=1e-4, weight_decay=0.1)),
    ("lion", 0.05, 0.0, {}, lambda g: Lion(g, lr=0.05)),
    ("lion", 0.05, 0.1, {"beta1": 0.95, "beta2": 0.98}, lambda g: Lion(g, lr=0.05, betas=(0.95, 0.98), weight_decay=0.1)),
    ("adafactor", 0.05, 0.0, {}, adafactor()),
    ("adafactor", 0.05, 0.1, {"beta1": 0.9, "decay_rate": -0.5, "clip_threshold": 0.5}, adafactor(weight_decay=0.1, beta1=0.9, decay_rate=-0.5, clip_threshold=0.5)),
    ("adafactor", 0.05, 0.1, {"scale_parameter": 1, "eps1": 1e-20, "eps2": 0.1}, adafactor(weight_decay=0.1, scale_parameter=True, eps=(1e-20, 0.1))),
]

out = {
    "shapes": SHAPES,
    "weights": [w.flatten().tolist() for w in series(1, 1.0)],
    "grads": [[g.flatten().tolist() for g in series(100 + s, 10.0 ** (s % 3 - 1))] for s in range(STEPS)],
    "cases": [{"name": n, "lr": lr, "weight_decay": wd, "params": p, "steps": run(make)} for n, lr, wd, p, make in CASES],
}
def trim(x):
    if isinstance(x, float): return float(f"{x:.8g}")
    if isinstance(x, list): return [trim(v) for v in x]
    if isinstance(x, dict): return {k: trim(v) for k, v in x.items()}
    return x
print(json.dumps(trim(out), separators=(",", ":")))
