"""Hierarchies: what depends on what, what their options do, and what priors are given of q."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import MODELS, model_config, perturbed

from vaejax.models import (
    distributions,
    hierarchies,
    latent_variable,
    maps,
    posteriors,
    priors,
    top_down,
)
from vaejax.types import DataSpec

SPEC = DataSpec((3, 4, 1), np.linspace(0.05, 0.95, 12).reshape(3, 4, 1))
X = jnp.asarray(np.arange(12) % 2, jnp.float32).reshape(SPEC.shape)


def _built(**fields):
    return latent_variable.build(model_config(**fields), SPEC)


def _parameters(model):
    """Parameters that are not special; one program instead of one for each leaf."""
    return jax.jit(lambda: perturbed(model.init(jax.random.key(0)), jax.random.key(1)))()


@pytest.mark.parametrize("fields", [MODELS["mlp-1"], MODELS["linear_gaussian-full"]])
def test_one_layer_is_the_same_model_in_every_hierarchy(fields):
    def everything(model):
        params = model.init(jax.random.key(5))
        z, log_q = distributions.sample_and_log_prob(model.posterior(params, X), jax.random.key(6))
        found = [z, log_q, model.prior(params).log_prob(z)]
        found += [model.likelihood(params, z).log_prob(X), model.kl_groups(params, X)]
        return found + ([] if model.log_marginal is None else [model.log_marginal(params, X)])

    models = [_built(**fields, hierarchy=name) for name in hierarchies.HIERARCHIES]
    first, *others = jax.jit(lambda: [everything(model) for model in models])()
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, first)


def _layer_densities(distribution, z):
    """log density of each layer as a function of all layers, from the data on."""
    log_probs = []
    carry, layer, ordered = None, distribution.first, z[::-1]
    for step, value in zip(distribution.following, ordered[:-1], strict=True):
        log_probs.append(layer.log_prob(value))
        carry, layer = step(carry, value)
    return [*log_probs, layer.log_prob(ordered[-1])][::-1]


@pytest.mark.slow
@pytest.mark.parametrize("skip", [True, False])
def test_skip_says_which_layers_each_conditional_sees(skip):
    model = _built(
        latent_dims=(2, 2, 2),
        encoder="mlp(hidden_dims=(4,))",
        hierarchy=f"top_down(features=3, skip={skip})",
    )

    @jax.jit
    def jacobians():
        params = perturbed(model.init(jax.random.key(0)), jax.random.key(1))
        z = model.prior(params).sample(jax.random.key(2))
        likelihood = jax.grad(lambda z: model.likelihood(params, z).log_prob(X))(z)
        sides = (model.prior(params), model.posterior(params, X))
        return likelihood, [jax.jacobian(lambda z, s=s: _layer_densities(s, z))(z) for s in sides]

    likelihood, (prior, posterior) = jacobians()
    uses = lambda gradient: [bool(np.any(layer)) for layer in gradient]
    assert uses(likelihood) == ([True] * 3 if skip else [True, False, False])
    lowest = [True, True, True] if skip else [True, True, False]
    for side in (prior, posterior):
        assert [uses(row) for row in side] == [lowest, [False, True, True], [False, False, True]]


def test_precision_weighted_q_is_the_product_of_both_normals():
    data = dist.Normal(jnp.array([0.3, -2.0]), jnp.array([0.5, 3.0])).to_event(1)
    path = dist.Normal(jnp.array([-1.0, 1.5]), jnp.array([2.0, 0.1])).to_event(1)
    merged = top_down.precision_weighted(data, lambda: path)
    points = jax.random.normal(jax.random.key(0), (5, 2))
    unnormalised = jax.vmap(lambda z: data.log_prob(z) + path.log_prob(z))(points)
    ratio = jax.vmap(merged.log_prob)(points) - unnormalised
    np.testing.assert_allclose(ratio, np.full(5, ratio[0]), rtol=1e-4)


def _dense(network, value):
    layer = network["params"]["Dense_0"]
    return jnp.ravel(value) @ layer["kernel"] + layer["bias"]


def _scaled(network, value):
    return network["gain"] * _dense(network["network"], value)


@pytest.mark.slow
def test_merge_chooses_between_both_forms_of_q():
    """Both have their formula: recomputed from the networks' own outputs, by hand."""
    for merge in top_down.MERGES:
        model = _built(
            latent_dims=(2, 1),
            encoder="linear",
            hierarchy=f"top_down(features=3, merge={merge!r})",
        )
        params = _parameters(model)
        theta, phi = params["generative"], params["inference"]
        z2 = jnp.array([0.7])
        d1, h1 = _dense(phi["encoders"][0], X), _dense(theta["decoders"][1], z2)
        p_loc, p_log = jnp.split(_scaled(theta["heads"][0], h1), 2)
        seen = jnp.concatenate([d1, h1]) if merge == "concat" else d1
        loc, log_scale = jnp.split(_scaled(phi["heads"][0], seen), 2)
        scale = jnp.exp(log_scale)
        if merge == "precision":
            own, other = jnp.exp(-2 * log_scale), jnp.exp(-2 * p_log)
            loc, scale = (own * loc + other * p_loc) / (own + other), (own + other) ** -0.5
        z1 = jnp.array([0.2, -0.4])
        top_loc, top_log = jnp.split(_scaled(phi["encoders"][1], d1), 2)
        expected = dist.Normal(top_loc, jnp.exp(top_log)).log_prob(z2).sum()
        expected += dist.Normal(loc, scale).log_prob(z1).sum()
        ours = model.posterior(params, X).log_prob((z1, z2))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
        log_prior = dist.Normal(0, 1).log_prob(z2).sum()
        log_prior += dist.Normal(p_loc, jnp.exp(p_log)).log_prob(z1).sum()
        np.testing.assert_allclose(model.prior(params).log_prob((z1, z2)), log_prior, rtol=1e-5)
        logits = _dense(theta["decoders"][0], jnp.concatenate([h1, z1])).reshape(X.shape)
        log_likelihood = distributions.Bernoulli(logits).log_prob(X)
        theirs = model.likelihood(params, (z1, z2)).log_prob(X)
        np.testing.assert_allclose(theirs, log_likelihood, rtol=1e-5)


def test_downsampling_chooses_the_size_of_each_map():
    """z_l holds height x width x channels values; odd sides are rounded up."""
    fields = {"latent_dims": (2, 3, 4), "encoder": "mlp(hidden_dims=(4,))"}
    sizes = {
        "(0,)": (2, 3, 4),
        "(2,)": (2 * 2 * 2, 2 * 2 * 3, 2 * 2 * 4),
        "(1, 3, 0)": (3 * 4 * 2, 1 * 2 * 3, 4),
    }
    for factors, expected in sizes.items():
        model = _built(**fields, hierarchy=f"top_down(features=2, downsampling={factors})")

        def draw(key, model=model):
            params = model.init(key)
            return model.posterior(params, X).sample(key), model.prior(params).sample(key)

        for z in jax.eval_shape(draw, jax.random.key(0)):
            assert tuple(layer.shape for layer in z) == tuple((size,) for size in expected)


def test_a_latent_of_a_map_has_its_numbers_at_its_own_place():
    """Output [h, w, k c]: number j of the latent at [row, column, channel] is channel j c + .."""
    shape = (2, 3, 2)
    family = maps.on_grid(posteriors.normal, shape)
    output = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    normal = family.distribution({}, output).base_dist
    np.testing.assert_array_equal(normal.loc.reshape(shape), output[..., :2])
    np.testing.assert_allclose(normal.scale.reshape(shape), np.exp(output[..., 2:]), rtol=1e-6)


def _encodes(hierarchy, latent_dims, monkeypatch):
    """What a prior that is made of posteriors is given."""
    given = []

    def spy(size, spec):
        def distribution(params, encode):
            given.append(encode)
            return dist.Normal(jnp.zeros(size), 1.0).to_event(1)

        return priors.Prior(init=lambda key: {}, distribution=distribution)

    monkeypatch.setitem(priors.PRIORS, "spy", spy)
    model = _built(
        latent_dims=latent_dims, encoder="mlp(hidden_dims=(3,))", prior="spy", hierarchy=hierarchy
    )
    params = model.init(jax.random.key(0))
    given.clear()
    model.prior(params)
    return model, params, given[0]


@pytest.mark.slow
def test_priors_are_given_the_topmost_q_where_it_depends_on_x_alone(monkeypatch):
    for hierarchy in hierarchies.HIERARCHIES:
        model, params, encode = _encodes(hierarchy, (2,), monkeypatch)
        z = jnp.ones(2)
        np.testing.assert_array_equal(encode(X).log_prob(z), model.posterior(params, X).log_prob(z))
    model, params, encode = _encodes("top_down(features=2)", (2, 3, 1), monkeypatch)
    z = model.posterior(params, X).sample(jax.random.key(1))
    topmost = model.posterior(params, X).first
    np.testing.assert_array_equal(encode(X).log_prob(z[-1]), topmost.log_prob(z[-1]))
    assert _encodes("bottom_up", (2, 3, 1), monkeypatch)[2] is None
