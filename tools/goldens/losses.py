"""Writes bpo/losstest/testdata/formulas.json: every loss of the registry on random pairs, from its published formula, in plain
double precision. Standard library only. With --trl it evaluates TRL's own code on the same pairs and prints how far the
two are apart (needs torch, and trl installed or unpacked on PYTHONPATH; it is not imported as a package).

    python3 tools/goldens/losses.py [--check]      # --check writes nothing and fails if the file is not what would be written
    PYTHONPATH=... $GOBPO_PYTHON tools/goldens/losses.py --trl
"""

import json
import math
import pathlib
import random
import sys

OUT = pathlib.Path(__file__).parents[2] / "bpo/losstest/testdata/formulas.json"
FIELDS = ["chosen", "rejected", "ref_chosen", "ref_rejected", "chosen_len", "rejected_len", "chosen_agreement", "rejected_agreement"]


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x):
    return min(x, 0) - math.log1p(math.exp(-abs(x)))


def pairs(n=17):  # the batch of losstest
    rng = random.Random(2406)
    rows = []
    for _ in range(n):
        lens = [rng.randint(1, 30), rng.randint(1, 30)]
        logps = [-k * rng.uniform(0.2, 2) for k in lens]
        rows.append([*logps, *(x + rng.gauss(0, 2) for x in logps), *lens])
    for row in rows:
        row += [-k * rng.uniform(0.2, 2) for k in row[4:6]]
    return rows


class Pair:
    def __init__(self, row, mean):
        self.w, self.l, ref_w, ref_l, n, m, agree_w, agree_l = row
        self.mean_w = self.w / n
        self.wpo = math.exp((self.w - agree_w) / n + (self.l - agree_l) / m)
        if mean:
            self.w, ref_w, self.l, ref_l = self.w / n, ref_w / n, self.l / m, ref_l / m
        self.ref = ref_w - ref_l
        self.rw, self.rl = self.w - ref_w, self.l - ref_l
        self.h = self.rw - self.rl


# Each takes the pairs, the pairs as they were (for what takes no gradient), and the config; it gives the pairs' losses.
def each(f):
    return lambda ps, _, c: [f(p, c) for p in ps]


def f_dpo(g):
    return each(lambda p, c: -log_sigmoid(c["beta"] * (g(p.rw, c) - g(p.rl, c))))


def log_odds(x):
    return x - math.log(-math.expm1(x))


def exo(p, c):
    e, qw, ql = c["epsilon"], sigmoid(c["beta"] * p.h), sigmoid(-c["beta"] * p.h)
    return qw * math.log(qw / (1 - e)) + ql * math.log(ql / e)


def discopop(p, c):
    m, bh = sigmoid(c["beta"] * p.h / c["tau"]), c["beta"] * p.h
    return -(1 - m) * log_sigmoid(bh) + m * math.exp(-bh)


def aot(ps, _, c):
    b, e = c["beta"], c["label_smoothing"]
    refs = sorted(p.ref for p in ps)
    order = sorted(range(len(ps)), key=lambda i: ps[i].w - ps[i].l)
    out = [0.0] * len(ps)
    for rank, i in enumerate(order):
        d = b * (ps[i].w - ps[i].l - refs[rank])
        out[i] = -(1 - e) * log_sigmoid(d) - e * log_sigmoid(-d)
    return out


def kto(ps, fixed, c):
    z_w, z_l = (max(0, sum(x) / len(ps)) for x in ([p.rw for p in fixed], [p.rl for p in fixed]))
    return [(1 - sigmoid(c["beta"] * (p.rw - z_l)) + 1 - sigmoid(c["beta"] * (z_w - p.rl))) / 2 for p in ps]


LOSSES = {  # name: (formula, default length, parameters)
    "dpo": (each(lambda p, c: -(1 - c["label_smoothing"]) * log_sigmoid(c["beta"] * p.h) - c["label_smoothing"] * log_sigmoid(-c["beta"] * p.h)), "sum", {}),
    "robust": (each(lambda p, c: (-(1 - c["label_smoothing"]) * log_sigmoid(c["beta"] * p.h) + c["label_smoothing"] * log_sigmoid(-c["beta"] * p.h)) / (1 - 2 * c["label_smoothing"])), "sum", {}),
    "ipo": (each(lambda p, c: (p.h - 1 / (2 * c["beta"])) ** 2), "mean", {}),
    "slic": (each(lambda p, c: max(0, 1 - c["beta"] * p.h)), "sum", {}),
    "simpo": (each(lambda p, c: -log_sigmoid(c["beta"] * (p.w - p.l) - c["gamma"])), "mean", {"gamma": 1}),
    "orpo": (each(lambda p, c: -p.w - c["beta"] * log_sigmoid(log_odds(p.w) - log_odds(p.l))), "mean", {}),
    "exo": (each(exo), "sum", {"epsilon": 1e-3}),
    "nca": (each(lambda p, c: -log_sigmoid(c["beta"] * p.rw) - (log_sigmoid(-c["beta"] * p.rw) + log_sigmoid(-c["beta"] * p.rl)) / 2), "sum", {}),
    "sppo": (each(lambda p, c: (p.rw - 1 / (2 * c["beta"])) ** 2 + (p.rl + 1 / (2 * c["beta"])) ** 2), "sum", {}),
    "apo_zero": (each(lambda p, c: 1 - sigmoid(c["beta"] * p.rw) + sigmoid(c["beta"] * p.rl)), "sum", {}),
    "apo_down": (each(lambda p, c: sigmoid(c["beta"] * p.rw) + 1 - sigmoid(c["beta"] * p.h)), "sum", {}),
    "discopop": (each(discopop), "sum", {"tau": 0.05}),
    "dpo_forward_kl": (f_dpo(lambda r, c: 1 - math.exp(-r)), "sum", {}),
    "dpo_js": (f_dpo(lambda r, c: math.log(2 * sigmoid(r))), "sum", {}),
    "dpo_alpha": (f_dpo(lambda r, c: (math.exp((c["alpha"] - 1) * r) - 1) / (c["alpha"] - 1)), "sum", {"alpha": 0.5}),
    "aot": (aot, "sum", {}),
    "kto": (kto, "sum", {}),
}


def cases():
    for name in LOSSES:
        yield {"name": name, "beta": 0.1}
        yield {"name": name, "beta": 0.7}
    for name in ("dpo", "robust", "aot"):
        yield {"name": name, "beta": 0.3, "label_smoothing": 0.2}
    yield {"name": "dpo", "beta": 0.5, "length": "mean"}
    yield {"name": "ipo", "beta": 0.5, "length": "sum"}
    yield {"name": "exo", "beta": 0.3, "params": {"epsilon": 0.1}}
    yield {"name": "dpo_alpha", "beta": 0.3, "params": {"alpha": 0.8}}
    yield {"name": "simpo", "beta": 2, "params": {"gamma": 0.3}}
    yield {"name": "discopop", "beta": 0.3, "params": {"tau": 0.5}}
    yield {"name": "dpo", "beta": 0.1, "weighting": "wpo"}
    yield {"name": "ipo", "beta": 0.1, "weighting": "wpo", "nll": 0.5}
    yield {"name": "dpo", "beta": 0.1, "nll": 1}


def losses(case, rows, before):
    formula, length, defaults = LOSSES[case["name"]]
    c = {"label_smoothing": 0, **defaults, **case, **case.get("params", {})}
    mean = c.get("length", length) == "mean"
    now, fixed = [Pair(r, mean) for r in rows], [Pair(r, mean) for r in before]
    out = formula(now, fixed, c)
    if c.get("weighting"):
        out = [v * p.wpo for v, p in zip(out, fixed)]
    return [v - c.get("nll", 0) * p.mean_w for v, p in zip(out, now)]


def gradient(case, rows, column, step=1e-5):
    """Of the sum of the losses by one column, by central differences."""
    grads = []
    for i in range(len(rows)):
        sums = []
        for sign in (1, -1):
            moved = [list(r) for r in rows]
            moved[i][column] += sign * step
            sums.append(sum(losses(case, moved, rows)))
        grads.append((sums[0] - sums[1]) / (2 * step))
    return grads


def method(file, name):
    """A method of TRL's without what importing its module would need."""
    import ast
    import textwrap

    import torch
    import torch.nn.functional as F

    source = file.read_text()
    found = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name)
    space = dict(torch=torch, F=F, log1mexp=lambda x: torch.log(-torch.expm1(x)))
    exec("from __future__ import annotations\n" + textwrap.dedent(ast.get_source_segment(source, found, padded=True)), space)
    return space[name]


def differs(a, b):
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(differs(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) != len(b) or any(map(differs, a, b))
    return abs(a - b) > 1e-7 * max(1, abs(a)) if isinstance(a, float) else a != b


def trl(rows):
    """TRL's losses, by the lines of DPOTrainer._compute_loss and KTOTrainer._compute_loss that compute them."""
    import importlib.util
    import textwrap
    import types

    import torch
    import torch.nn.functional as F

    root = pathlib.Path(importlib.util.find_spec("trl").origin).parent
    source = (root / "trainer/dpo_trainer.py").read_text()
    body = source[source.index("        # Get the log ratios for the chosen and rejected responses"):]
    body = textwrap.dedent(body[:body.index("            loss += per_sequence_loss.mean()")] + "            loss = per_sequence_loss\n")
    code = compile(body, "dpo_trainer.py", "exec")
    names = {"dpo": "sigmoid", "ipo": "ipo", "slic": "hinge", "exo": "exo_pair", "nca": "nca_pair", "robust": "robust", "sppo": "sppo_hard", "aot": "aot",
             "apo_zero": "apo_zero", "apo_down": "apo_down", "discopop": "discopop", "dpo_forward_kl": "sigmoid", "dpo_js": "sigmoid", "dpo_alpha": "sigmoid"}
    columns = [torch.tensor([r[k] for r in rows], dtype=torch.float64) for k in range(8)]
    width = 32
    lens = torch.cat(columns[4:6])[:, None]
    mask = (torch.arange(width) < lens).double()
    by_token = lambda k: torch.cat(columns[k:k + 2])[:, None] / lens * mask  # sums spread evenly over their tokens
    worst = {}
    for case in cases():
        name, params = case["name"], {**LOSSES[case["name"]][2], **case.get("params", {})}
        if name not in names or any(k in case for k in ("length", "nll")) or name == "dpo" and "label_smoothing" in case:
            continue  # TRL's sigmoid has lost its label smoothing
        kind = {"dpo_forward_kl": "forward_kl", "dpo_js": "js_divergence", "dpo_alpha": "alpha_divergence"}.get(name, "reverse_kl")
        trainer = types.SimpleNamespace(
            f_divergence_type=kind, f_alpha_divergence_coef=params.get("alpha", 1), beta=case["beta"], loss_types=[names[name]], loss_weights=[1.0],
            label_smoothing=params.get("epsilon", case.get("label_smoothing", 0)), use_weighting="weighting" in case, args=types.SimpleNamespace(discopop_tau=params.get("tau")))
        space = dict(self=trainer, torch=torch, F=F, math=math, device="cpu", completion_mask=mask, shift_completion_mask=mask,
                     per_token_logps=by_token(0), outputs=types.SimpleNamespace(log_sum_sq_probs=by_token(6)), seq_len=width,
                     **dict(zip(("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"), columns)))
        if name == "dpo_alpha":  # which knows no double
            space.update({k: v.float() for k, v in space.items() if k.endswith("_logps")})
        exec(code, space)
        theirs, ours = space["loss"].tolist(), losses(case, rows, rows)
        if name == "aot":  # theirs are in the order of the quantiles
            theirs, ours = sorted(theirs), sorted(ours)
        gap = max(abs(a - b) / max(1, abs(a)) for a, b in zip(theirs, ours))
        if "weighting" in case:
            name, names["dpo, wpo"] = "dpo, wpo", "sigmoid"
        worst[name] = max(worst.get(name, 0), gap)
    source = (root / "trainer/kto_trainer.py").read_text()
    body = source[source.index("        if self.calculate_KL:\n            kl = (KL_logps"):]
    code = compile(textwrap.dedent(body[:body.index("        losses = torch.cat(")]), "kto_trainer.py", "exec")
    for case in cases():  # the trainer of unpaired texts, twice: the other texts of the pairs are those that estimate the KL
        if case["name"] != "kto":
            continue
        halves = []
        for k, out in ((1, "chosen_losses"), (0, "rejected_losses")):
            trainer = types.SimpleNamespace(calculate_KL=True, loss_type="kto", beta=case["beta"], accelerator=types.SimpleNamespace(gather_for_metrics=lambda x: x))
            space = dict(self=trainer, torch=torch, F=F, KL_logps=columns[k], ref_KL_logps=columns[k + 2],
                         **dict(zip(("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"), columns)))
            exec(code, space)
            halves.append(space[out])
        names["kto"] = "kto"
        gap = max(abs(a - b) for a, b in zip(((halves[0] + halves[1]) / 2).tolist(), losses(case, rows, rows)))
        worst["kto"] = max(worst.get("kto", 0), gap)
    for case in cases():  # what TRL has in trainers of its own
        if case["name"] not in ("simpo", "orpo") and not (case["name"] == "dpo" and "label_smoothing" in case):
            continue
        name, gamma = case["name"], {**LOSSES[case["name"]][2], **case.get("params", {})}.get("gamma")
        trainer = types.SimpleNamespace(alpha=0.0, beta=case["beta"], label_smoothing=case.get("label_smoothing", 0), simpo_gamma=gamma,
                                        loss_type="simpo" if name == "simpo" else "sigmoid", accelerator=types.SimpleNamespace(device="cpu"))
        mean_w, mean_l = columns[0] / columns[4], columns[1] / columns[5]
        if name == "orpo":  # in single precision, of the mean log-probs; the trainer adds the NLL of the chosen text
            theirs = -mean_w - method(root / "experimental/orpo/orpo_trainer.py", "odds_ratio_loss")(trainer, mean_w, mean_l)[0]
        elif name == "simpo":
            theirs = method(root / "experimental/cpo/cpo_trainer.py", "cpo_loss")(trainer, mean_w, mean_l)[0]
        else:  # cDPO: CPO's loss, which has kept its label smoothing, of log-ratios
            theirs = method(root / "experimental/cpo/cpo_trainer.py", "cpo_loss")(trainer, columns[0] - columns[2], columns[1] - columns[3])[0]
            name = "cdpo"
        names[name] = {"orpo": "odds_ratio_loss", "simpo": "cpo_loss", "cdpo": "cpo_loss"}[name]
        gap = max(abs(a - b) / max(1, abs(a)) for a, b in zip(theirs.tolist(), losses(case, rows, rows)))
        worst[name] = max(worst.get(name, 0), gap)
    version = next((p.name for p in root.parent.glob("trl-*.dist-info")), "trl")
    print(f"{version}: largest relative difference on {len(rows)} pairs")
    for name, gap in worst.items():
        print(f"  {name:16} {names[name]:12} {gap:.1e}")


def main():
    rows = pairs()
    if "--trl" in sys.argv:
        return trl(rows)
    table = []
    for case in cases():
        table.append({**case, "losses": losses(case, rows, rows), "grad_chosen": gradient(case, rows, 0), "grad_rejected": gradient(case, rows, 1)})
    data = {"pairs": {f: [r[k] for r in rows] for k, f in enumerate(FIELDS)}, "cases": table}
    if "--check" in sys.argv:
        sys.exit(f"{OUT} is not what this script writes; run it" if differs(json.loads(json.dumps(data)), json.loads(OUT.read_text())) else 0)
    OUT.parent.mkdir(exist_ok=True)
    text = json.dumps(data, indent=None, separators=(",", ":")).replace('{"name"', '\n{"name"')
    OUT.write_text(text + "\n")


main()
