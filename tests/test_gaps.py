"""The gap decomposition where every gap is known."""

import itertools

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MODELS, model_config, perturbed, small_model

from vaejax.evidence import gaps
from vaejax.evidence.estimators import quadrature
from vaejax.models import latent_variable, linear_gaussian
from vaejax.objectives import importance
from vaejax.types import DataSpec

PARTS = {
    "vamp": {"posterior": "normal", "prior": "vamp(num_components=3)"},
    "full_normal": {"posterior": "full_normal"},
    "mixture": {"posterior": "mixture(num_components=2)"},
    "coupling": {"posterior": "coupling(num_layers=2, hidden_dims=(4,), context_dims=2)"},
    "iaf": {"posterior": "iaf(num_layers=2, hidden_dims=(4,), context_dims=2)"},
    "two layers": {"latent_dims": (1, 1), "encoder": ("mlp(hidden_dims=(8,))",) * 2},
}
ALL_X = np.array(list(itertools.product([0.0, 1.0], repeat=3)), np.float32)


def _best_of_the_encoder(params, x, *, model, config):
    keys = jax.random.split(jax.random.key(3), len(x))
    one = lambda key, x: gaps.encoder_family(params, key, x, model=model, config=config)
    return np.asarray(jax.jit(jax.vmap(one))(keys, x), np.float64)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "vamp" else pytest.mark.slow) for n in PARTS],
)
def test_the_best_q_of_the_encoder_lies_between_the_best_normal_and_log_p(name):
    """Over every x, with log p(x) by quadrature. Each of these families contains the diagonal
    normals (two layers: those of z_1 and z_2), so that its best q reaches theirs; and none reaches
    beyond log p(x), as it would if p(z) moved with the encoders that a VampPrior is made of. An
    encoder of diagonal normals has the same best q as they.
    """
    fields = {"latent_dims": (2,), "encoder": "mlp(hidden_dims=(8,))"} | PARTS[name]
    model = latent_variable.build(model_config(**fields), DataSpec((3,), None))
    params = perturbed(jax.jit(model.init)(jax.random.key(7)), jax.random.key(8), 0.4)
    config = gaps.Config(elbo_samples=4000)
    keys = jax.random.split(jax.random.key(2), len(ALL_X))
    one = lambda key, x: gaps.elbos(params, key, x, model=model, config=config)
    elbos = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys, jnp.asarray(ALL_X)))
    own = _best_of_the_encoder(params, jnp.asarray(ALL_X), model=model, config=config)
    exact = quadrature.build(quadrature.Config(), model=model)
    log_p = jax.jit(jax.vmap(lambda x: exact.estimate(params, keys[0], x, ())))(jnp.asarray(ALL_X))
    log_p = np.asarray(log_p["quadrature"].value)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-3)
    assert (elbos.encoder[:, 0] < log_p - 0.05).mean() >= 0.5  # there is something to win
    error = np.sqrt(own[:, 1] + elbos.best["diagonal"][:, 1])
    assert (own[:, 0] > elbos.best["diagonal"][:, 0] - 4 * error - 0.01).all()
    assert (own[:, 0] < log_p + 4 * np.sqrt(own[:, 1])).all()
    if fields.get("posterior") == "normal":
        assert (own[:, 0] < elbos.best["diagonal"][:, 0] + 4 * error + 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_that_is_trained_on_one_example_knows_it_better(name):
    """Of every model of the registries with real latents, untrained."""
    spec = DataSpec((2, 6, 1), np.linspace(0.05, 0.95, 12).reshape(2, 6, 1), levels=3)
    model = small_model(name, spec)
    if gaps.problems(model):
        assert model.support.is_discrete
        return
    params = perturbed(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1))
    # Chains of untrained layers have scales whose E[log w] nothing would measure.
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    # Biases are off: there is something to win. Not those that a VampPrior is made of, which is
    # made before: it would move along with q, and next to nothing would be lost.
    shifted = jax.tree.map(lambda leaf: leaf + 0.5 * (leaf.ndim < 2), params["inference"])
    params = model.prepare(params) | {"inference": shifted}
    x = jnp.asarray(np.arange(48) % 5 % 2, jnp.float32).reshape(4, 2, 6, 1)
    config = gaps.Config(num_steps=100, elbo_samples=500)
    own = _best_of_the_encoder(params, x, model=model, config=config)
    keys = jax.random.split(jax.random.key(4), (len(x), config.elbo_samples))
    weights = lambda key, x: importance.log_weights(
        importance.log_terms(params, key, x, model=model)
    )
    before = np.asarray(jax.jit(jax.vmap(jax.vmap(weights, (0, None))))(keys, x), np.float64)
    error = np.sqrt(own[:, 1] + before.var(axis=1) / config.elbo_samples)
    gain = own[:, 0] - before.mean(axis=1)
    assert np.isfinite(gain).all()
    assert (gain > -4 * error).all()
    assert np.median(gain / error) > 4.0


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
    own = _best_of_the_encoder(params, x, model=model, config=config)
    exact = np.asarray(jax.vmap(lambda x: model.log_marginal(params, x))(x))
    log_marginal = np.stack([exact, np.zeros_like(exact)], axis=1)
    full = gaps.decompose(log_marginal, elbos.encoder, elbos.best["full_covariance"])
    diagonal = gaps.decompose(log_marginal, elbos.encoder, elbos.best["diagonal"])
    # The encoder gives full normals, too.
    own = gaps.decompose(log_marginal, elbos.encoder, own)
    assert np.abs(own["approximation"][:, 0]).max() < 0.05
    assert own["approximation"][:, 0].mean() < 0.01
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
    for parts in (full, diagonal, own):
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
