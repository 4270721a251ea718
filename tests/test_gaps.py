"""The gap decomposition where every gap is known."""

import evidence_models
import jax
import numpy as np
import pytest

from vaejax.evidence import gaps
from vaejax.models import linear_gaussian


@pytest.mark.slow
def test_gaps_of_the_linear_gaussian_model():
    """A full-covariance q* is the posterior: no approximation gap, and the encoder's KL to
    it is the amortization gap. The best diagonal normal is known too: the posterior's mean,
    with the inverse of its precision's diagonal for variances.
    """
    model, params = evidence_models.linear(mixing=1.0)
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=20)
    config = gaps.Config(num_steps=200, elbo_samples=400)
    keys = jax.random.split(jax.random.key(2), len(x))
    elbos = jax.jit(
        jax.vmap(lambda key, x: gaps.elbos(params, key, x, model=model, config=config))
    )(keys, x)
    elbos = jax.tree.map(np.asarray, elbos)
    exact = np.asarray(jax.vmap(lambda x: model.log_marginal(params, x))(x))
    log_marginal = np.stack([exact, np.zeros_like(exact)], axis=1)
    full = gaps.decompose(log_marginal, elbos.encoder, elbos.best["full_covariance"])
    diagonal = gaps.decompose(log_marginal, elbos.encoder, elbos.best["diagonal"])
    assert np.abs(full["approximation"][:, 0]).max() < 0.01
    factor = linear_gaussian.exact_posterior(linear_gaussian.of(params)).factor
    precision = np.linalg.inv(np.asarray(factor @ factor.T, np.float64))
    # KL(q*||p) = (sum_j log P_jj - log det P) / 2
    known = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    found = diagonal["approximation"]
    assert known > 0.05
    # 4 errors, and what 200 noisy steps leave.
    error = 4 * np.sqrt(found[:, 1].sum()) / len(x)
    assert abs(found[:, 0].mean() - known) < error + 0.005
    for parts in (full, diagonal):
        total = parts["approximation"][:, 0] + parts["amortization"][:, 0]
        np.testing.assert_allclose(parts["inference"][:, 0], total, atol=1e-4)
        assert parts["amortization"][:, 0].mean() > -4 * np.sqrt(
            parts["amortization"][:, 1].sum()
        ) / len(x)
    q = linear_gaussian.posterior_of(params)
    p = linear_gaussian.exact_posterior(linear_gaussian.of(params))
    kl = _kl_of_encoder(q, p, np.asarray(x, np.float64))
    found = full["inference"]
    assert np.abs(found[:, 0].mean() - kl.mean()) < 4 * np.sqrt(found[:, 1].sum()) / len(x)


def _kl_of_encoder(q, p, x):
    """KL(q(z|x) || p(z|x)) between two normals, in float64, per example."""
    (a, c, s), (b, d, t) = (
        (np.asarray(n.weights, np.float64), np.asarray(n.bias, np.float64), np.asarray(n.factor))
        for n in (q, p)
    )
    precision = np.linalg.inv((t @ t.T).astype(np.float64))
    covariance = (s @ s.T).astype(np.float64)
    shift = x @ (a - b).T + (c - d)
    size = len(c)
    log_det = np.linalg.slogdet(precision)[1] + np.linalg.slogdet(covariance)[1]
    quadratic = np.einsum("ni,ij,nj->n", shift, precision, shift)
    return 0.5 * (np.trace(precision @ covariance) - size - log_det + quadratic)
