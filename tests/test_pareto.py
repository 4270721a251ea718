"""Pareto k-hat against other implementations and against tails of known shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.evidence import pareto


def _log_weights(kind, size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "light": rng.normal(scale=0.3, size=size),
        "normal": rng.normal(scale=1.5, size=size) - 100.0,
        "heavy": 0.9 * rng.exponential(size=size),
        "student": rng.standard_t(3, size=size),
    }[kind]


@pytest.mark.parametrize("kind", ["light", "normal", "heavy", "student"])
@pytest.mark.parametrize("size", [100, pytest.param(1000, marks=pytest.mark.slow), 5000])
def test_k_hat_and_smoothed_weights_agree_with_arviz(kind, size):
    arviz = pytest.importorskip("arviz_stats.base").array_stats
    log_weights = _log_weights(kind, size).astype(np.float32)
    smoothed, k_hat = arviz.psislw(-log_weights.astype(np.float64))
    assert abs(float(pareto.k_hat(jnp.asarray(log_weights))) - float(k_hat)) < 1e-3
    ours = np.asarray(pareto.smooth(jnp.asarray(log_weights)))
    np.testing.assert_allclose(ours, smoothed, atol=1e-3)


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9])
def test_k_hat_recovers_the_shape_of_a_pareto_tail(shape):
    draws = np.random.default_rng(1).exponential(size=(20, 50_000))
    k_hats = jax.vmap(pareto.k_hat)(jnp.asarray(shape * draws, jnp.float32))
    error = np.std(k_hats) / np.sqrt(20)
    prior_pull = 10 / (pareto.tail_size(50_000) + 10) * abs(0.5 - shape)
    assert abs(np.mean(k_hats) - shape) < 4 * error + 2 * prior_pull


def test_k_hat_ignores_shift_and_order():
    log_weights = jnp.asarray(_log_weights("normal", 1000), jnp.float32) + 100.0
    expected = pareto.k_hat(log_weights)
    np.testing.assert_allclose(pareto.k_hat(log_weights[::-1]), expected, rtol=1e-6)
    np.testing.assert_allclose(pareto.k_hat(log_weights - 8.0), expected, rtol=1e-4)


def test_threshold_and_tail_grow_with_the_sample():
    assert pareto.threshold(10) == 0.0
    assert pareto.threshold(100) == pytest.approx(0.5)
    assert pareto.threshold(5000) == 0.7
    assert [pareto.tail_size(s) for s in (24, 25, 225, 10_000)] == [4, 5, 45, 300]


def test_k_hat_of_too_few_or_equal_weights():
    assert np.isnan(pareto.k_hat(jnp.arange(24.0)))
    assert pareto.k_hat(jnp.zeros(1000)) == -np.inf
