"""Writes what experiments/stats is held to into its testdata: length-controlled win rates by scikit-learn's logistic
regression (length_control.json), and its Cohen's kappa (kappa.json).

    pip install scikit-learn; python tools/goldens/length_control.py [--check]    # --check writes nothing and fails if a file differs
"""

import json
import pathlib
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

OUT = pathlib.Path(__file__).parents[2] / "experiments/stats/testdata"


def differs(a, b):
    """More than another version of the solver would."""
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(differs(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) != len(b) or any(map(differs, a, b))
    return abs(a - b) > 1e-6 * max(1, abs(a))


def keep(name, data):
    if "--check" in sys.argv:
        if differs(data, json.loads((OUT / name).read_text())):
            sys.exit(f"{OUT / name} is not what this script writes; run it")
    else:
        (OUT / name).write_text(json.dumps(data, separators=(",", ":")) + "\n")


rng = np.random.default_rng(2)
cases = []
for n, theta, phi in ((40, 0.0, 0.0), (200, 0.4, 1.5), (400, -0.8, 2.5), (400, 1.0, -1.0)):
    words, other = rng.integers(3, 60, n), rng.integers(3, 60, n)
    delta = (words - other).astype(float)
    z = np.tanh(delta / delta.std())
    u = rng.uniform(size=n)
    p = 1 / (1 + np.exp(-(theta + phi * z)))
    outcomes = np.where(u < p - 0.05, 1.0, np.where(u < p + 0.05, 0.5, 0.0))
    # A tie is half a win and half a loss: both rows, with weights of one half.
    x = np.concatenate([z, z])[:, None]
    y, weight = np.concatenate([np.ones(n), np.zeros(n)]), np.concatenate([outcomes, 1 - outcomes])
    fit = LogisticRegression(C=100, tol=1e-12, max_iter=10000).fit(x, y, sample_weight=weight)
    cases.append(dict(words=words.tolist(), other=other.tolist(), outcomes=outcomes.tolist(), phi=float(fit.coef_[0, 0]),
                      rate=float(fit.predict_proba([[0.0]])[0, 1])))
keep("length_control.json", cases)

tables = []
for most in (4, 10, 40, 200, 9):
    table = rng.integers(0, most, (3, 3))
    if most == 9:  # judges who mostly contradict each other
        table[np.diag_indices(3)] = 1
    first, second = (np.repeat(index.ravel(), table.ravel()) for index in np.indices((3, 3)))
    tables.append(dict(table=table.tolist(), kappa=float(cohen_kappa_score(first, second))))
keep("kappa.json", tables)
