"""Prints cases for experiments/stats: length-controlled win rates by scikit-learn's logistic regression.

    pip install scikit-learn; python tools/goldens/length_control.py > experiments/stats/testdata/length_control.json
"""

import json

import numpy as np
from sklearn.linear_model import LogisticRegression

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
print(json.dumps(cases, separators=(",", ":")))
