"""Densities against numpyro, and float32 at its extremes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vaejax import numerics


def test_bernoulli_matches_numpyro():
    logits = jnp.linspace(-12.0, 12.0, 41)
    x = (jnp.arange(41) % 3 == 0).astype(jnp.float32)
    expected = dist.Bernoulli(logits=logits).log_prob(x).sum()
    np.testing.assert_allclose(numerics.bernoulli_log_prob(logits, x), expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, -90.0, 0.0, 90.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_bernoulli_is_exact_and_smooth_at_extreme_logits(logit, x):
    value, slope = jax.value_and_grad(
        lambda logit: numerics.bernoulli_log_prob(logit[None], jnp.array([x]))
    )(jnp.float32(logit))
    exact = x * logit - np.logaddexp(0.0, np.float64(logit))
    sigmoid = np.exp(-np.logaddexp(0.0, -np.float64(logit)))
    np.testing.assert_allclose(value, exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, x - sigmoid, rtol=1e-6, atol=1e-6)


def test_logmeanexp_by_hand_and_at_extremes():
    np.testing.assert_allclose(
        numerics.logmeanexp(jnp.log(jnp.array([1.0, 2.0, 6.0]))), np.log(3.0), rtol=1e-6
    )
    far = jnp.full(5000, -1e4)
    np.testing.assert_allclose(numerics.logmeanexp(far), -1e4, rtol=1e-6)
    gradient = jax.grad(numerics.logmeanexp)(jnp.array([-1e4, -2e4, 0.0]))
    chex.assert_tree_all_finite(gradient)


def test_logmeanexp_of_many_values_keeps_float32_digits():
    values = np.random.default_rng(0).normal(-90.0, 3.0, 50_000)
    exact = np.log(np.mean(np.exp(values - values.max()))) + values.max()
    np.testing.assert_allclose(numerics.logmeanexp(jnp.float32(values)), exact, atol=3e-5)


def test_solve_lower_is_lapacks_in_value_and_gradient(x64):
    """What stands above the diagonal is not read, and has no gradient."""
    rng = np.random.default_rng(0)
    factor, values = rng.normal(size=(5, 4, 4)) + 3 * np.eye(4), rng.normal(size=(5, 4))
    lapack = lambda f, v: jax.scipy.linalg.solve_triangular(f, v, lower=True)

    def total(solve, factor, values):
        return jnp.sum(jnp.sin(jax.vmap(solve)(factor, values)))

    grad = jax.value_and_grad(total, argnums=(1, 2))
    for ours, theirs in zip(
        jax.tree.leaves(grad(numerics.solve_lower, factor, values)),
        jax.tree.leaves(grad(lapack, factor, values)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
