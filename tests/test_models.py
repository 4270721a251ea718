"""Contracts that hold for every model of the registry."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import MODELS, SLOW_NAMES, model_config, perturbed, small_model

from vaejax import schema
from vaejax.config import Model
from vaejax.models import (
    distributions,
    divergences,
    hierarchies,
    latent_variable,
    likelihoods,
    networks,
    posteriors,
    priors,
)
from vaejax.objectives import importance
from vaejax.types import DataSpec

most_slowly = pytest.mark.parametrize("name", SLOW_NAMES)


@functools.cache
def _case(name):
    spec = DataSpec((2, 6, 1), np.linspace(0.05, 0.95, 12).reshape(2, 6, 1), levels=3)
    model = small_model(name, spec)
    params = jax.jit(lambda: perturbed(model.init(jax.random.key(0)), jax.random.key(1)))()
    return model, params, jnp.asarray(np.arange(12) % 2, jnp.float32).reshape(2, 6, 1)


@pytest.fixture
def case(name):
    return _case(name)


def test_every_part_of_every_registry_is_tested():
    """A new part is tested the day it is named: `conftest.MODELS` must hold it."""
    configs = [model_config(**fields) for fields in MODELS.values()]
    used = {
        "prior": {config.prior.name for config in configs},
        "posterior": {config.posterior.name for config in configs},
        "likelihood": {config.likelihood.name for config in configs},
        "network": {part.name for config in configs for part in config.encoder},
        "hierarchy": {config.hierarchy.name for config in configs},
    }
    assert used == {
        "prior": set(priors.PRIORS),
        "posterior": set(posteriors.POSTERIORS),
        "likelihood": set(likelihoods.LIKELIHOODS),
        "network": set(networks.NETWORKS),
        "hierarchy": set(hierarchies.HIERARCHIES),
    }


def test_equal_configs_give_the_same_model_and_so_the_same_programs(spec):
    fields = MODELS["mlp-2"]
    first, again = (latent_variable.build(model_config(**fields), spec) for _ in range(2))
    other = latent_variable.build(model_config(**fields | {"latent_dims": (3, 1)}), spec)
    assert first is again
    assert other is not first


@most_slowly
def test_shapes_and_finiteness(case, spec):
    model, params, x = case
    keys = jax.random.split(jax.random.key(3), 4)

    @jax.jit
    def everything():
        z, log_posterior = distributions.sample_and_log_prob(model.posterior(params, x), keys[0])
        means = distributions.layer_means(model.posterior(params, x), keys[2])
        likelihood = model.likelihood(params, z)
        densities = (model.prior(params).log_prob(z), log_posterior, likelihood.log_prob(x))
        data = (likelihood.mean, likelihood.sample(keys[3]))
        return (z, model.prior(params).sample(keys[1])), means, densities, data

    (z, other), means, densities, data = everything()
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, z)
    assert [mean.shape for mean in means] == [layer.shape for layer in jax.tree.leaves(z)]
    for density in densities:
        assert density.shape == ()
        assert np.isfinite(density)
    for value in data:
        assert value.shape == spec.shape


@most_slowly
def test_one_pass_draws_what_sample_draws_with_the_density_that_log_prob_gives(case):
    """And rows of a batch are what they are alone."""
    model, params, x = case

    def both(key):
        found = []
        for distribution in (model.posterior(params, x), model.prior(params)):
            z, log_prob = distributions.sample_and_log_prob(distribution, key)
            found.append(((z, log_prob), (distribution.sample(key), distribution.log_prob(z))))
        return found

    keys = jax.random.split(jax.random.key(2), 3)
    batched, alone = jax.jit(lambda: (jax.vmap(both)(keys), both(keys[1])))()
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    for in_one_pass, in_two in batched:
        jax.tree.map(close, in_one_pass, in_two)
    jax.tree.map(close, jax.tree.map(lambda leaf: leaf[1], batched), alone)


@most_slowly
def test_params_are_split_into_theta_and_phi(case, name):
    """log q depends on phi alone, log p(x, z) on theta alone.

    Except that q goes p's way in a top-down hierarchy, and that a prior may be made of q.
    """
    model, params, x = case
    prior = model_config(**MODELS[name]).prior
    crossing = {
        "generative": MODELS[name].get("hierarchy", "").startswith("top_down"),
        "inference": prior.name == "vamp",
    }
    z = jax.jit(lambda: model.posterior(params, x).sample(jax.random.key(3)))()
    log_joint = lambda p: model.prior(p).log_prob(z) + model.likelihood(p, z).log_prob(x)
    for function, foreign in (
        (log_joint, "inference"),
        (lambda p: model.posterior(p, x).log_prob(z), "generative"),
    ):
        gradient = jax.jit(jax.grad(function))(params)
        used = any(np.any(leaf) for leaf in jax.tree.leaves(gradient[foreign]))
        assert used == crossing[foreign]
        own = {"inference": "generative", "generative": "inference"}[foreign]
        assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[own]))


@most_slowly
def test_prior_and_posterior_densities_belong_to_their_samplers(case):
    """The expected score, E[d log p(z; t) / dt] with z ~ p(z; t), is zero for a density that
    belongs to its sampler, and for few others."""
    model, params, x = case
    keys = jax.random.split(jax.random.key(7), 4000)

    def score(side, key):
        if side == "generative":
            z = model.prior(params).sample(key)
            gradient = jax.grad(lambda p: model.prior(p).log_prob(z))(params)
        else:
            z = model.posterior(params, x).sample(key)
            gradient = jax.grad(lambda p: model.posterior(p, x).log_prob(z))(params)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

    for side in ("generative", "inference"):
        scores = jax.jit(jax.vmap(lambda key, side=side: score(side, key)))(keys)
        error = scores.std(axis=0) / np.sqrt(len(keys))
        np.testing.assert_array_less(abs(scores.mean(axis=0)), 5 * error + 1e-5)


@most_slowly
def test_likelihood_density_belongs_to_its_sampler(case):
    model, params, _ = case
    z = jax.jit(lambda: model.prior(params).sample(jax.random.key(8)))()
    keys = jax.random.split(jax.random.key(9), 4000)
    likelihood = model.likelihood(params, z)
    x = jax.jit(jax.vmap(lambda key: model.likelihood(params, z).sample(key)))(keys)
    error = x.std(axis=0) / np.sqrt(len(keys))
    np.testing.assert_array_less(abs(x.mean(axis=0) - likelihood.mean), 5 * error + 1e-6)


@most_slowly
def test_closed_form_kl_is_the_expected_log_ratio(case, name):
    model, params, x = case
    if model.kl_groups is None:
        # several layers, or parts that are neither normal nor of independent 0 and 1
        config = model_config(**MODELS[name])
        normal = config.prior.name == "normal" and "normal" in config.posterior.name
        normal |= config.prior.name == config.posterior.name == "bernoulli"
        assert len(config.latent_dims) > 1 or not normal
        return
    terms = jax.jit(
        lambda key: importance.sample_log_terms(params, key, x, model=model, num_samples=20_000)
    )(jax.random.key(10))
    ratio = terms.log_posterior - terms.log_prior
    kl = model.kl_groups(params, x).sum()
    assert abs(ratio.mean() - kl) < 4 * ratio.std() / np.sqrt(20_000) + 1e-5


@most_slowly
def test_posterior_mean_averages_to_the_mean_of_samples(case):
    model, params, x = case
    keys = jax.random.split(jax.random.key(11), 4000)
    q = lambda: model.posterior(params, x)
    samples = jax.jit(jax.vmap(lambda key: q().sample(key)))(keys)
    means = jax.jit(jax.vmap(lambda key: distributions.layer_means(q(), key)))(keys)
    means = [jnp.broadcast_to(mean, (len(keys), *mean.shape[1:])) for mean in means]
    for sample, mean in zip(jax.tree.leaves(samples), jax.tree.leaves(means), strict=True):
        error = sample.std(axis=0) / np.sqrt(len(keys))
        np.testing.assert_array_less(abs(sample.mean(0) - mean.mean(0)), 7 * error + 1e-5)


@pytest.mark.slow
def test_two_layer_densities_match_numpyro():
    """Recomputed with numpyro from the networks' own outputs, layer by layer."""
    model, params, x = _case("mlp-2")
    z1, z2 = model.posterior(params, x).sample(jax.random.key(2))
    network = lambda widths, out: networks.MLP(widths, (out,), "tanh", "glorot_uniform")
    phi, theta = params["inference"]["encoders"], params["generative"]["decoders"]
    first = network((5,), 6).apply(phi[0], x)
    second = network((4, 4), 4).apply(phi[1], z1)
    log_q = dist.Normal(first[:3], jnp.exp(first[3:])).log_prob(z1).sum()
    log_q += dist.Normal(second[:2], jnp.exp(second[2:])).log_prob(z2).sum()
    np.testing.assert_allclose(model.posterior(params, x).log_prob((z1, z2)), log_q, rtol=1e-5)
    top = network((4, 4), 6).apply(theta[1], z2)
    log_p = dist.Normal(0, 1).log_prob(z2).sum()
    log_p += dist.Normal(top[:3], jnp.exp(top[3:])).log_prob(z1).sum()
    np.testing.assert_allclose(model.prior(params).log_prob((z1, z2)), log_p, rtol=1e-5)


@pytest.mark.slow
def test_full_normal_is_numpyros_and_holds_correlations():
    family = posteriors.full_normal(3)
    output = jnp.asarray(np.random.default_rng(1).normal(size=family.outputs))
    ours = family.distribution({}, output)
    factor = np.diag(np.exp(output[3:6]))
    factor[np.tril_indices(3, -1)] = output[6:]
    expected = dist.MultivariateNormal(output[:3], factor @ factor.T)
    z = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(ours.log_prob(z), expected.log_prob(z), rtol=1e-4)
    draws = jax.vmap(ours.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.cov(draws.T), factor @ factor.T, rtol=0.1, atol=0.1)
    scale = np.array([0.5, 2.0, 1.0])
    p = dist.Normal(jnp.array([1.0, 0.0, -1.0]), scale)
    kl = dist.kl_divergence(expected, dist.MultivariateNormal(p.loc, scale_tril=np.diag(scale)))
    np.testing.assert_allclose(divergences.kl_groups(ours, p.to_event(1)).sum(), kl, rtol=1e-5)


@pytest.mark.parametrize(
    ("latent_dims", "encoder"),
    [
        ((50,), "mlp(hidden_dims=(200, 200))"),
        ((100, 50), "mlp(hidden_dims=(200, 200)), mlp(hidden_dims=(100, 100))"),
    ],
)
def test_paper_architectures_have_the_papers_sizes(latent_dims, encoder):
    """784-200-200-50 and, for L=2, 784-200-200-100 and 100-100-100-50, both ways."""
    config = model_config(latent_dims=latent_dims, encoder=encoder)
    model = latent_variable.build(config, DataSpec((28, 28, 1), np.full((28, 28, 1), 0.1)))
    params = jax.eval_shape(model.init, jax.random.key(0))
    dense = lambda *widths: sum((i + 1) * o for i, o in itertools.pairwise(widths))
    expected = dense(784, 200, 200, 2 * latent_dims[0])
    expected += dense(latent_dims[0], 200, 200, 784)
    if len(latent_dims) == 2:
        expected += dense(100, 100, 100, 100) + dense(50, 100, 100, 200)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_decoder_starts_at_the_training_mean(spec):
    mean = np.array([0.0, 1.0, *np.linspace(0.1, 0.9, 10)]).reshape(spec.shape)
    config = model_config(latent_dims=(2,), encoder="linear")
    model = latent_variable.build(config, spec._replace(mean=mean))
    start = model.likelihood(model.init(jax.random.key(0)), jnp.zeros(2)).mean
    np.testing.assert_allclose(start, np.clip(mean, 0.001, 0.999), rtol=1e-4)


def test_a_decoder_of_its_own_takes_the_place_of_the_mirror(spec):
    config = schema.checked(
        Model(latent_dims=(2,), encoder=("mlp(hidden_dims=(5,))",), decoder=("linear",))
    )
    params = latent_variable.build(config, spec).init(jax.random.key(0))
    decoder = params["generative"]["decoders"][0]["params"]
    assert [kernel["kernel"].shape for kernel in decoder.values()] == [(2, 12)]


def test_log_marginal_is_known_where_all_parts_are_linear_and_normal(spec):
    linear = MODELS["linear_gaussian-full"]
    known = {
        "as it is": linear,
        "another q": linear | {"posterior": "normal", "encoder": "mlp(hidden_dims=(3,))"},
        "a nonlinear decoder": linear | {"decoder": "mlp(hidden_dims=(3,))"},
        "another likelihood": linear | {"likelihood": "bernoulli"},
    }
    known["another q"] |= {"decoder": "linear"}
    exact = {
        name: latent_variable.build(model_config(**fields), spec).log_marginal is not None
        for name, fields in known.items()
    }
    assert exact == {
        "as it is": True,
        "another q": True,
        "a nonlinear decoder": False,
        "another likelihood": False,
    }
