"""Fits the polynomials of crates/shears-kernels/src/math.rs and prints them with their errors.

Usage: python tools/fit_kernels.py   (needs numpy)

Each fit is iteratively reweighted least squares at Chebyshev points, within a few per cent of the
minimax polynomial; the errors are measured in float32 arithmetic.
"""

import math

import numpy as np


def fit(basis, target, weight, rounds=200):
    """Coefficients with a small maximum of the weighted error (Lawson's iteration)."""
    emphasis = np.ones(len(target))
    best, best_error = None, math.inf
    for _ in range(rounds):
        scale = np.sqrt(emphasis) * weight
        coefficients = np.linalg.lstsq(basis * scale[:, None], target * scale, rcond=None)[0]
        error = np.abs((basis @ coefficients - target) * weight)
        if error.max() < best_error:
            best, best_error = coefficients, error.max()
        emphasis *= error + 1e-30
        emphasis /= emphasis.sum()
    return best, best_error


def chebyshev(low, high, count=2000):
    nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return (low + high) / 2 + (high - low) / 2 * nodes


def show(name, coefficients, error):
    print(f"{name}: largest relative error before rounding {error:.2e}")
    for coefficient in coefficients:
        print(f"    {np.float32(coefficient)!r}")


def exponential():
    """(exp(r) - 1 - r) / r^2 on half a period of 2^n, relative to expm1(r)."""
    r = chebyshev(-math.log(2) / 2 * 1.01, math.log(2) / 2 * 1.01)
    target = (np.expm1(r) - r) / r**2
    basis = np.stack([r**power for power in range(5)], axis=1)
    weight = r**2 / np.abs(np.expm1(r))
    coefficients, error = fit(basis, target, weight)
    show("expm1(r) = r + r^2 (c0 + c1 r + ..)", coefficients, error)


def normal_tail():
    """Phi(-a) exp(a^2 / 2) as a polynomial of t = 1 / (1 + p a), for a from 0 to 9."""
    shift = 0.3
    t = chebyshev(1 / (1 + shift * 9), 1)
    a = (1 / t - 1) / shift
    # scaled complementary error function, by its continued fraction where erfc underflows
    target = np.array([scaled_tail(x) for x in a])
    basis = np.stack([t**power for power in range(1, 9)], axis=1)
    coefficients, error = fit(basis, target, 1 / target)
    show(f"Phi(-a) exp(a^2/2) = t (c1 + c2 t + ..), t = 1 / (1 + {shift} a)", coefficients, error)


def scaled_tail(a):
    """Phi(-a) exp(a^2 / 2)."""
    if a < 8:
        return 0.5 * math.erfc(a / math.sqrt(2)) * math.exp(a * a / 2)
    fraction = 0.0
    for k in range(60, 0, -1):
        fraction = k / (a + fraction)
    return 1 / (math.sqrt(2 * math.pi) * (a + fraction))


if __name__ == "__main__":
    exponential()
    normal_tail()
