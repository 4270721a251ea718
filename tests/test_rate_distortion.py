"""Rate-distortion curves: of a linear-Gaussian decoder, known in closed form; of runs, as drawn."""

import functools

import jax
import numpy as np
import pytest
from evidence_models import linear, simulate

from vaejax.evidence import annealing, rate_distortion
from vaejax.evidence.annealing import Budget
from vaejax.models import linear_gaussian


def _exact(params, x, b):
    """Rate and distortion of N(m, P^-1), P = I + b W'W / s^2, m = b P^-1 W'(x - bias) / s^2."""
    own = linear_gaussian.of(params)
    weights, noise = np.asarray(own.weights, float), float(np.exp(own.log_scale))
    residual = np.asarray(x, float) - np.asarray(own.bias, float)
    covariance = np.linalg.inv(np.eye(weights.shape[1]) + b * weights.T @ weights / noise**2)
    mean = b * covariance @ weights.T @ residual / noise**2
    spread = np.trace(weights @ covariance @ weights.T)
    squared = np.sum((residual - weights @ mean) ** 2) + spread
    distortion = 0.5 * squared / noise**2 + 0.5 * len(residual) * np.log(2 * np.pi * noise**2)
    log_det = np.linalg.slogdet(covariance)[1]
    rate = 0.5 * (np.trace(covariance) + mean @ mean - len(mean) - log_det)
    return rate, distortion


def _curves(num_temperatures, *, num_seeds, num_chains=8):
    """The curves [seeds, N, T] of four x, their temperatures and the exact ones."""
    model, params = linear(num_latents=2, size=6)
    x = simulate(params, jax.random.key(2), model=model, count=4)
    budget = Budget(
        start="prior",
        num_temperatures=num_temperatures,
        num_chains=num_chains,
        pilot_temperatures=10,
        pilot_examples=4,
    )
    schedule = jax.jit(functools.partial(annealing.pilot, model=model, budget=budget))(
        params, jax.random.key(0), x
    )
    one = functools.partial(rate_distortion.estimate, model=model, budget=budget)
    keys = jax.random.split(jax.random.key(1), (num_seeds, len(x)))
    over = jax.vmap(jax.vmap(lambda key, x: one(params, key, x, schedule)), (0, None))
    found = jax.jit(over)(keys, x)
    b = np.asarray(schedule.temperatures[1:], float)
    exact = np.array([[_exact(params, row, t) for t in b] for row in x])
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), found), b, exact


@pytest.mark.slow
def test_the_curve_of_a_linear_gaussian_decoder_is_the_exact_one(x64):
    found, b, exact = _curves(100, num_seeds=40)
    sides = {"rate": found.rate, "distortion": found.distortion}
    sides["minus log Z"] = found.rate + b * found.distortion
    known = {"rate": exact[..., 0], "distortion": exact[..., 1]}
    known["minus log Z"] = known["rate"] + b * known["distortion"]
    for name, most in (("rate", 0.1), ("distortion", 0.1), ("minus log Z", 0.02)):
        means = sides[name].mean(axis=1)  # over examples, [seeds, T]
        error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
        assert error.max() < most
        assert np.abs(means.mean(axis=0) - known[name].mean(axis=0)).max() < 4 * error.max() + 0.01


@pytest.mark.slow
def test_few_temperatures_leave_the_points_above_the_curve(x64):
    """R + b D is -log of an unbiased estimate of Z_b: too large in expectation, here visibly."""
    found, b, exact = _curves(3, num_seeds=200, num_chains=2)
    ours = (found.rate + b * found.distortion).mean(axis=1)
    truth = (exact[..., 0] + b * exact[..., 1]).mean(axis=0)
    error = ours.std(axis=0, ddof=1) / np.sqrt(len(ours))
    assert (ours.mean(axis=0) > truth - 3 * error).all()
    assert ours.mean(axis=0)[-1] > truth[-1] + 4 * error[-1]
