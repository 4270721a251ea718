"""Contracts that hold for every bound of the registry, and values worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import bounds, diagnostics

LOG_WEIGHTS = np.random.default_rng(1).normal(-90.0, 4.0, 64).astype(np.float32)
every_bound = pytest.mark.parametrize("name", bounds.BOUNDS)


@every_bound
def test_shifting_the_log_weights_shifts_the_bound(name):
    bound = bounds.BOUNDS[name]
    np.testing.assert_allclose(bound(LOG_WEIGHTS + 7.0), bound(LOG_WEIGHTS) + 7.0, atol=2e-5)


@every_bound
def test_order_of_samples_does_not_matter(name):
    bound = bounds.BOUNDS[name]
    np.testing.assert_allclose(bound(LOG_WEIGHTS[::-1].copy()), bound(LOG_WEIGHTS), atol=2e-5)


@every_bound
@pytest.mark.parametrize("num_samples", [1, 2, 7])
def test_equal_log_weights_are_the_bound(name, num_samples):
    np.testing.assert_allclose(bounds.BOUNDS[name](jnp.full(num_samples, -93.5)), -93.5, rtol=1e-6)


@every_bound
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_value_and_gradient_are_finite_in_float32(name, scale):
    log_weights = jnp.float32(scale) * jnp.linspace(-1.0, 1.0, 9) - 1e4
    chex.assert_tree_all_finite(jax.value_and_grad(bounds.BOUNDS[name])(log_weights))


@every_bound
def test_jit_changes_nothing(name):
    bound = bounds.BOUNDS[name]
    np.testing.assert_allclose(jax.jit(bound)(LOG_WEIGHTS), bound(LOG_WEIGHTS), rtol=1e-6)


@every_bound
def test_gradient_with_respect_to_log_weights_sums_to_one(name):
    """Follows from the shift contract; catches a factor K or 1/K in a surrogate."""
    gradient = jax.grad(bounds.BOUNDS[name])(jnp.asarray(LOG_WEIGHTS))
    np.testing.assert_allclose(gradient.sum(), 1.0, rtol=1e-5)


def test_elbo_and_iwae_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_allclose(bounds.elbo(log_weights), 1.5 * np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(bounds.iwae(log_weights), np.log(15.0 / 4.0), rtol=1e-6)


def test_iwae_of_one_sample_is_the_elbo():
    np.testing.assert_array_equal(bounds.iwae(LOG_WEIGHTS[:1]), bounds.elbo(LOG_WEIGHTS[:1]))


def test_effective_sample_size_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(
        diagnostics.effective_sample_size(log_weights), 16.0 / 6.0, rtol=1e-6
    )
    np.testing.assert_allclose(diagnostics.effective_sample_size(jnp.zeros(50)), 50.0, rtol=1e-6)


def test_grouped_iwae_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 3.0, 5.0, 7.0, 100.0]))
    value, variance = diagnostics.grouped_iwae(log_weights, group_size=2)
    groups = np.log([2.0, 6.0])  # the fifth weight makes no whole group
    np.testing.assert_allclose(value, groups.mean(), rtol=1e-6)
    np.testing.assert_allclose(variance, groups.var(ddof=1) / 2, rtol=1e-5)


def test_error_of_one_sample_is_unknown_not_zero():
    assert np.isnan(diagnostics.grouped_iwae(jnp.zeros(1), group_size=1)[1])
    assert np.isnan(diagnostics.mean_variance(jnp.zeros(1)))


@pytest.mark.parametrize("group_size", [0, 6])
def test_group_size_outside_the_samples_is_refused(group_size):
    with pytest.raises(ValueError, match=r"1\.\.5"):
        diagnostics.grouped_iwae(jnp.zeros(5), group_size=group_size)


def test_delta_method_error_covers_as_it_says():
    """95% intervals of log p^ cover the truth in 0.93 to 0.97 of runs at a large ESS."""
    log_weights = np.random.default_rng(2).normal(-0.125, 0.5, (4000, 400)).astype(np.float32)
    values = jax.vmap(bounds.iwae)(log_weights)  # E[w] = 1, so log p = 0
    errors = jnp.sqrt(jax.vmap(diagnostics.log_mean_variance)(log_weights))
    coverage = float(jnp.mean(jnp.abs(values) < 1.96 * errors))
    assert 0.93 < coverage < 0.97


def test_unit_activity_removes_the_noise_of_dead_units():
    rng = np.random.default_rng(3)
    signal = np.stack([np.zeros(3000), rng.normal(0.0, 0.5, 3000)], axis=1)
    draws = signal[:, None, :] + rng.normal(0.0, 1.0, (3000, 8, 2))
    means, noise = jax.vmap(diagnostics.mean_moments)(jnp.asarray(draws))
    activity = diagnostics.unit_activity(means, noise)
    assert activity[0] < 0.01 < np.var(np.asarray(means)[:, 0])
    np.testing.assert_allclose(activity[1], 0.25, atol=0.03)
