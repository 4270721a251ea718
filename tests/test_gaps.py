"""The gap decomposition where every gap is known."""

import evidence_models
import jax
import numpy as np

from vaejax.evidence import gaps


def test_gaps_of_the_linear_gaussian_model():
    """A full-covariance q* is the posterior: no approximation gap, and the encoder's KL to
    it is the amortization gap."""
    model, params = evidence_models.linear()
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=20)
    config = gaps.Config(num_steps=200, elbo_samples=400)
    keys = jax.random.split(jax.random.key(2), len(x))
    elbos = jax.jit(
        jax.vmap(lambda key, x: gaps.elbos(params, key, x, model=model, config=config))
    )(keys, x)
    exact = np.asarray(jax.vmap(lambda x: model.log_marginal(params, x))(x))
    log_marginal = np.stack([exact, np.zeros_like(exact)], axis=1)
    full = gaps.decompose(log_marginal, elbos.encoder, elbos.best["full_covariance"])
    diagonal = gaps.decompose(log_marginal, elbos.encoder, elbos.best["diagonal"])
    assert np.abs(full["approximation"][:, 0]).max() < 0.01
    assert (diagonal["approximation"][:, 0].mean()) > full["approximation"][:, 0].mean() - 1e-3
    for parts in (full, diagonal):
        total = parts["approximation"][:, 0] + parts["amortization"][:, 0]
        np.testing.assert_allclose(parts["inference"][:, 0], total, atol=1e-4)
        assert parts["amortization"][:, 0].mean() > -4 * np.sqrt(
            parts["amortization"][:, 1].sum()
        ) / len(x)
