"""Contracts that hold for every model of the registry."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import MODEL_NAMES, perturbed, small_models

from vaejax.models import registry as models
from vaejax.objectives import importance
from vaejax.types import DataSpec

every_model = pytest.mark.parametrize("name", MODEL_NAMES)


@functools.cache
def _case(name):
    spec = DataSpec((3, 4, 1), np.linspace(0.05, 0.95, 12))
    model = small_models(spec)[name]
    params = jax.jit(lambda: perturbed(model.init(jax.random.key(0)), jax.random.key(1)))()
    return model, params, jnp.asarray(np.arange(12) % 2, jnp.float32)


@pytest.fixture
def case(name):
    return _case(name)


def test_every_registered_model_is_tested():
    assert {name.split("-")[0] for name in MODEL_NAMES} == set(models.MODELS)


@every_model
def test_shapes_and_finiteness(case, spec):
    model, params, x = case
    keys = jax.random.split(jax.random.key(3), 4)

    @jax.jit
    def everything():
        z = model.sample_posterior(params, keys[0], x)
        latents = (z, model.sample_prior(params, keys[1]), model.posterior_mean(params, keys[2], x))
        densities = (
            model.log_prior(params, z),
            model.log_posterior(params, x, z),
            model.log_likelihood(params, x, z),
        )
        data = (model.likelihood_mean(params, z), model.sample_likelihood(params, keys[3], z))
        return latents, densities, data

    (z, *others), densities, data = everything()
    for other in others:
        assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, z)
    for density in densities:
        assert density.shape == ()
        assert np.isfinite(density)
    for value in data:
        assert value.shape == (spec.size,)


@every_model
def test_params_are_split_into_theta_and_phi(case):
    """log q depends on phi alone, log p(x, z) on theta alone."""
    model, params, x = case
    z = jax.jit(model.sample_posterior)(params, jax.random.key(3), x)
    log_joint = lambda p: model.log_prior(p, z) + model.log_likelihood(p, x, z)
    for function, foreign in (
        (log_joint, "inference"),
        (lambda p: model.log_posterior(p, x, z), "generative"),
    ):
        gradient = jax.jit(jax.grad(function))(params)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient[foreign]))
        own = {"inference": "generative", "generative": "inference"}[foreign]
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[own]))


@every_model
def test_prior_and_posterior_densities_belong_to_their_samplers(case):
    """The expected score, E[d log p(z; t) / dt] with z ~ p(z; t), is zero for a density that
    belongs to its sampler, and for few others."""
    model, params, x = case
    keys = jax.random.split(jax.random.key(7), 4000)

    def score(side, key):
        if side == "generative":
            z = model.sample_prior(params, key)
            gradient = jax.grad(lambda p: model.log_prior(p, z))(params)
        else:
            z = model.sample_posterior(params, key, x)
            gradient = jax.grad(lambda p: model.log_posterior(p, x, z))(params)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient[side])])

    for side in ("generative", "inference"):
        scores = jax.jit(jax.vmap(lambda key, side=side: score(side, key)))(keys)
        error = scores.std(axis=0) / np.sqrt(len(keys))
        np.testing.assert_array_less(abs(scores.mean(axis=0)), 5 * error + 1e-5)


@every_model
def test_likelihood_density_belongs_to_its_sampler(case):
    model, params, _ = case
    z = jax.jit(model.sample_prior)(params, jax.random.key(8))
    keys = jax.random.split(jax.random.key(9), 4000)
    x = jax.jit(jax.vmap(lambda key: model.sample_likelihood(params, key, z)))(keys)
    error = x.std(axis=0) / np.sqrt(len(keys))
    np.testing.assert_array_less(
        abs(x.mean(axis=0) - model.likelihood_mean(params, z)), 5 * error + 1e-6
    )


@every_model
def test_closed_form_kl_is_the_expected_log_ratio(case):
    model, params, x = case
    if model.kl_groups is None:
        assert len(model.sample_prior(params, jax.random.key(0))) > 1  # several layers only
        return
    terms = jax.jit(
        lambda key: importance.sample_log_terms(params, key, x, model=model, num_samples=20_000)
    )(jax.random.key(10))
    ratio = terms.log_posterior - terms.log_prior
    kl = model.kl_groups(params, x).sum()
    assert abs(ratio.mean() - kl) < 4 * ratio.std() / np.sqrt(20_000) + 1e-5


@every_model
def test_posterior_mean_averages_to_the_mean_of_samples(case):
    model, params, x = case
    keys = jax.random.split(jax.random.key(11), 4000)
    samples = jax.jit(jax.vmap(lambda key: model.sample_posterior(params, key, x)))(keys)
    means = jax.jit(jax.vmap(lambda key: model.posterior_mean(params, key, x)))(keys)
    for sample, mean in zip(jax.tree.leaves(samples), jax.tree.leaves(means), strict=True):
        error = sample.std(axis=0) / np.sqrt(len(keys))
        np.testing.assert_array_less(abs(sample.mean(0) - mean.mean(0)), 7 * error + 1e-5)


def test_two_layer_densities_match_numpyro():
    """Recomputed with numpyro from the networks' own outputs, layer by layer."""
    model, params, x = _case("mlp-2")
    z1, z2 = model.sample_posterior(params, jax.random.key(2), x)
    mlp = models.MODELS["mlp"]
    network = lambda widths, out: mlp.MLP(widths, out, "tanh", "glorot_uniform")
    first = network((5,), 6).apply(params["inference"][0], x)
    second = network((4, 4), 4).apply(params["inference"][1], z1)
    log_q = dist.Normal(first[:3], jnp.exp(first[3:])).log_prob(z1).sum()
    log_q += dist.Normal(second[:2], jnp.exp(second[2:])).log_prob(z2).sum()
    np.testing.assert_allclose(model.log_posterior(params, x, (z1, z2)), log_q, rtol=1e-5)
    top = network((4, 4), 6).apply(params["generative"]["decoders"][1], z2)
    log_p = dist.Normal(0, 1).log_prob(z2).sum()
    log_p += dist.Normal(top[:3], jnp.exp(top[3:])).log_prob(z1).sum()
    np.testing.assert_allclose(model.log_prior(params, (z1, z2)), log_p, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"latent_dims": (50,), "hidden_dims": ((200, 200),)},
        {"latent_dims": (100, 50), "hidden_dims": ((200, 200), (100, 100))},
    ],
)
def test_paper_architectures_have_the_papers_sizes(config):
    """784-200-200-50 and, for L=2, 784-200-200-100 and 100-100-100-50, both ways."""
    mlp = models.MODELS["mlp"]
    model = mlp.build(mlp.Config(**config), DataSpec((28, 28, 1), np.full(784, 0.1)))
    params = jax.eval_shape(model.init, jax.random.key(0))
    dense = lambda *widths: sum((i + 1) * o for i, o in itertools.pairwise(widths))
    expected = dense(784, 200, 200, 2 * config["latent_dims"][0])
    expected += dense(config["latent_dims"][0], 200, 200, 784)
    if len(config["latent_dims"]) == 2:
        expected += dense(100, 100, 100, 100) + dense(50, 100, 100, 200)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_decoder_starts_at_the_training_mean(spec):
    mlp = models.MODELS["mlp"]
    config = mlp.Config(latent_dims=(2,), hidden_dims=((),))
    spec = spec._replace(mean=np.array([0.0, 1.0, *np.linspace(0.1, 0.9, 10)]))
    model = mlp.build(config, spec)
    mean = model.likelihood_mean(model.init(jax.random.key(0)), (jnp.zeros(2),))
    np.testing.assert_allclose(mean, np.clip(spec.mean, 0.001, 0.999), rtol=1e-4)
