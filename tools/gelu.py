"""The coefficients of GELU in crates/kernels/src/math.rs, exact and coarse: python tools/gelu.py (needs numpy).

x * Phi(x) is x * (1/2 + x * p(t)) with t = 2 (x / END)^2 - 1, so p approximates (Phi(x) - 1/2) / x, which is even. Weighted least
squares over Chebyshev's nodes, the weights going where the error is largest (Lawson's iteration), end close to the
polynomial whose largest error of x * Phi(x), relative to the larger of 1 and |x|, is smallest.
"""

import math

import numpy as np
from numpy.polynomial import chebyshev


def coefficients(end, degree):
    t = np.cos((np.arange(4000) + 0.5) * np.pi / 4000)
    x = np.maximum(np.sqrt((t + 1) / 2) * end, 1e-9)
    target = 0.5 * np.vectorize(math.erf)(x / math.sqrt(2)) / x
    scale = x * x / np.maximum(1, x)
    powers = chebyshev.chebvander(t, degree)
    weights, smallest, best = np.ones(len(t)), math.inf, None
    for _ in range(400):
        factors = scale * np.sqrt(weights)
        found, *_ = np.linalg.lstsq(powers * factors[:, None], target * factors, rcond=None)
        errors = np.abs((powers @ found - target) * scale)
        if errors.max() < smallest:
            smallest, best = errors.max(), found
        weights *= errors / errors.max() + 1e-12
        weights /= weights.sum()
    return smallest, chebyshev.cheb2poly(best).astype(np.float32)


for end, degree in [(5.5, 14), (4.5, 8)]:
    smallest, found = coefficients(end, degree)
    print(f"up to {end}, degree {degree}: largest error before rounding {smallest:.1e}")
    print("even powers, the highest first:", [float(value) for value in found[0::2][::-1]])
    print("odd powers, the highest first:", [float(value) for value in found[1::2][::-1]])
