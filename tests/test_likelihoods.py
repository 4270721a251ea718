"""Likelihoods: masses that sum to one, densities that integrate to one, means, samples, starts."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import model_config
from scipy import special, stats

from vaejax.errors import UserError
from vaejax.models import latent_variable, likelihoods, pixels
from vaejax.models.likelihoods import LIKELIHOODS
from vaejax.types import DataSpec

COLOR, GREY = (1, 1, 3), (1, 1, 1)
MASSES = ("discretized_logistic", "discretized_logistic_mixture", "categorical")
SOME_MASSES = (*MASSES, "discretized_logistic, scales of the decoder")
VARIANTS = {
    "bernoulli": {},
    "continuous_bernoulli": {},
    "normal": {},
    "normal, a scale per pixel": {"scale": "pixel", "min_scale": 0.05},
    "normal, scales of the decoder": {"scale": "decoder", "min_scale": 0.05},
    "discretized_logistic": {},
    "discretized_logistic, a scale per pixel": {"scale": "pixel"},
    "discretized_logistic, scales of the decoder": {"scale": "decoder"},
    "discretized_logistic_mixture": {"num_components": 3},
    "categorical": {},
}
OF_DATA = {"bernoulli": "binary"} | dict.fromkeys(MASSES, "levels")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def likelihood_of(variant, shape, levels=5):
    return LIKELIHOODS[variant.partition(",")[0]](
        DataSpec(shape, None, levels), **VARIANTS[variant]
    )


def drawn(likelihood, seed=0, scale=0.7):
    """The distribution of x for outputs and parameters drawn at random."""
    keys = jax.random.split(jax.random.key(seed))
    own = jax.tree.map(
        lambda leaf: leaf + scale * jax.random.normal(keys[0], leaf.shape),
        likelihood.init(keys[0]),
    )
    output = scale * jax.random.normal(keys[1], likelihood.outputs)
    return likelihood.distribution(own, output)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_say_what_they_are_of(name):
    part = LIKELIHOODS[name](DataSpec(GREY, None))
    assert part.data == OF_DATA.get(name, "real")


@functools.cache
def every_value(shape, levels):
    """All images of whole numbers 0..L-1, [L^D, *shape]."""
    rows = itertools.product(range(levels), repeat=math.prod(shape))
    return np.array(list(rows), np.float32).reshape(-1, *shape)


@pytest.mark.parametrize(("shape", "levels"), [(COLOR, 6), (GREY, 256)])
@pytest.mark.parametrize("variant", SOME_MASSES)
def test_masses_sum_to_one_and_have_their_mean(variant, shape, levels):
    distribution = drawn(likelihood_of(variant, shape, levels))
    x = every_value(shape, levels)
    mass = np.exp(np.asarray(jax.jit(jax.vmap(distribution.log_prob))(x), np.float64))
    assert mass.sum() == pytest.approx(1.0, abs=2e-5)
    mean = np.tensordot(mass, x, 1)
    error = abs(np.asarray(jax.jit(lambda: distribution.mean)()) - mean)
    if variant == "discretized_logistic_mixture" and shape == COLOR:
        assert error[..., 0] < 1e-4 * levels
        np.testing.assert_array_less(error, 0.2)  # the open bins: see its docstring
    else:
        np.testing.assert_array_less(error, 1e-4 * levels)


@pytest.mark.parametrize("variant", SOME_MASSES)
def test_samples_of_masses_follow_their_masses(variant):
    """Pearson's chi-square over all 27 colours of one pixel, 40,000 draws."""
    distribution = drawn(likelihood_of(variant, COLOR, 3), seed=3)
    mass = np.exp(np.asarray(jax.vmap(distribution.log_prob)(every_value(COLOR, 3)), np.float64))
    keys = jax.random.split(jax.random.key(5), 40_000)
    draws = np.asarray(jax.jit(jax.vmap(distribution.sample))(keys)).reshape(-1, 3)
    counts = np.bincount((draws @ [9, 3, 1]).astype(int), minlength=27)
    assert counts.sum() == len(draws)
    assert stats.chisquare(counts, mass / mass.sum() * len(draws)).pvalue > 1e-3


@every_variant
def test_means_are_those_of_samples(variant):
    """Within 4.5 standard errors of 20,000 draws; colours of a mixture are only nearly exact."""
    distribution = drawn(likelihood_of(variant, COLOR), seed=1)
    keys = jax.random.split(jax.random.key(2), 20_000)
    x = jax.jit(jax.vmap(distribution.sample))(keys)
    assert x.shape == (20_000, *COLOR)
    slack = 0.2 if "mixture" in variant else 1e-6
    error = x.std(axis=0) / math.sqrt(len(x))
    np.testing.assert_array_less(abs(x.mean(axis=0) - distribution.mean), 4.5 * error + slack)


@pytest.mark.parametrize("logit", [-700.0, -30.0, -1.0, -1e-3, 0.0, 1e-7, 0.999, 1.001, 3.0, 90.0])
def test_continuous_bernoulli_is_a_density_of_the_right_mean(x64, logit):
    """By Gauss-Legendre quadrature on 40 pieces; near 1/2 the constant is 2 to rounding."""
    nodes, weights = np.polynomial.legendre.leggauss(30)
    edges = np.concatenate([[0], np.geomspace(1e-5, 0.5, 20)])
    edges = np.concatenate([edges, 1 - edges[-2::-1]])
    x = np.concatenate([(a + b + (b - a) * nodes) / 2 for a, b in itertools.pairwise(edges)])
    weight = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(edges)])
    distribution = pixels.ContinuousBernoulli(jnp.array([logit]))
    density = np.exp(jax.vmap(distribution.log_prob)(jnp.asarray(x)[:, None]))
    assert density @ weight == pytest.approx(1.0, abs=1e-9)
    assert (density * x) @ weight == pytest.approx(float(distribution.mean[0]), abs=1e-9)


def _densities_at_one(logits):
    at = lambda logit: pixels.ContinuousBernoulli(logit[None]).log_prob(jnp.ones(1, logit.dtype))
    return jax.vmap(at)(jnp.asarray(logits))


def test_continuous_bernoulli_in_float32_is_that_of_float64():
    logits = np.concatenate([np.linspace(-3, 3, 2001), [-1e4, -88, 88, 1e4, 1e-30]])
    with jax.enable_x64(True):
        exact = _densities_at_one(logits)
    found = _densities_at_one(np.float32(logits))
    assert (exact.dtype, found.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(found, exact, atol=3e-7, rtol=3e-7)


def test_continuous_bernoulli_samples_follow_its_distribution_function():
    logits = np.array([-8.0, -0.3, -5e-4, 0.0, 1e-5, 2e-3, 1.0, 25.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(pixels.ContinuousBernoulli(jnp.float32(logits)).sample)(keys)
    for logit, own in zip(logits, np.asarray(draws, np.float64).T, strict=True):
        cdf = lambda x, a=logit: special.expm1(a * x) / special.expm1(a) if a else x
        assert stats.kstest(own, cdf).pvalue > 1e-3


@pytest.mark.parametrize("scale", ["shared", "pixel", "decoder"])
def test_normal_and_logistic_are_those_of_numpyro_and_scipy(x64, scale):
    """From the outputs themselves; bins far in the tails too."""
    spec, key = DataSpec((2, 1, 3), None, 8), jax.random.key(1)
    x = jnp.asarray([0, 7, 3, 0, 7, 5.0]).reshape(spec.shape)
    for name, start, floor in (("normal", -1.0, 0.05), ("discretized_logistic", -2.0, 0.0)):
        part = LIKELIHOODS[name](spec, scale=scale, **({"min_scale": floor} if floor else {}))
        output = jax.random.normal(key, part.outputs)
        loc, log_scale = output, part.init(key).get("log_scale", jnp.zeros(()))
        if scale == "decoder":
            loc, log_scale = output[..., :3], output[..., 3:] + start
        log_scale = np.broadcast_to(np.ravel(log_scale), 6)
        spread, loc = floor + np.exp(log_scale), np.ravel(loc)
        found = part.distribution(part.init(key), output).log_prob(x)
        if name == "normal":
            expected = dist.Normal(loc, spread).log_prob(x.ravel()).sum()
        else:
            edges = (np.arange(1, 8)[None] / 8 - loc[:, None] - 0.5) / spread[:, None]
            below = np.pad(special.expit(edges), ((0, 0), (1, 1)), constant_values=(0.0, 1.0))
            expected = np.log(np.diff(below, axis=1)[np.arange(6), np.ravel(x).astype(int)]).sum()
        # In the tails the difference of sigmoids loses digits, even in float64.
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_logistic_masses_are_exact_in_float32_where_differences_of_sigmoids_are_zero():
    x = np.array([0.0, 1.0, 100.0, 254.0, 255.0], np.float32)
    loc, log_scale = np.float32(-3.0), np.float32(-4.0)
    found = pixels.log_level_mass(*map(jnp.asarray, (x, loc, log_scale)), levels=256)
    lower = (x.astype(np.float64) / 256 + 3.0) * np.exp(4.0)
    width = np.exp(4.0) / 256
    expected = -lower + np.log1p(-np.exp(-width))  # the tail of a logistic is exponential
    expected[0], expected[-1] = 0.0, -lower[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert special.expit(np.float32(lower[2])) - special.expit(np.float32(lower[2] + width)) == 0


def test_mixtures_of_colours_are_those_of_pixelcnn(x64):
    """The formulas of Salimans et al. (2017), eq. 1 to 3, written out for one pixel."""
    levels, count = 7, 2
    part = LIKELIHOODS["discretized_logistic_mixture"](
        DataSpec(COLOR, None, levels), num_components=count
    )
    assert part.outputs == (1, 1, 10 * count)
    log_prob = jax.jit(lambda output, x: part.distribution({}, output).log_prob(x))
    output = np.random.default_rng(0).normal(size=10 * count)
    shares = special.softmax(output[:count])
    loc, log_scale, k = output[count:].reshape(3, 3, count)
    place = lambda level: (level + 0.5) / levels - 0.5
    for x in ([0, 3, 6], [2, 6, 0], [5, 5, 1]):
        total = 0.0
        for m in range(count):
            a, b, c = np.tanh(k[:, m])
            centers = [
                loc[0, m],
                loc[1, m] + a * place(x[0]),
                loc[2, m] + b * place(x[0]) + c * place(x[1]),
            ]
            product = shares[m]
            for value, center, own in zip(x, centers, log_scale[:, m], strict=True):
                upper, lower = value + 1, value
                cdf = lambda edge, mid=center, own=own: special.expit(
                    (edge / levels - 0.5 - mid) / np.exp(own - 2.0)
                )
                top = 1.0 if value == levels - 1 else cdf(upper)
                product *= top - (0.0 if value == 0 else cdf(lower))
            total += product
        found = log_prob(output.reshape(1, 1, -1), np.reshape(np.float64(x), COLOR))
        np.testing.assert_allclose(found, np.log(total), rtol=1e-9)


def test_categorical_is_numpyros():
    part = likelihood_of("categorical", (2, 3, 3), 4)
    output = jax.random.normal(jax.random.key(0), part.outputs)
    x = jnp.asarray(np.arange(18) % 4, jnp.float32).reshape(2, 3, 3)
    expected = dist.Categorical(logits=output.reshape(2, 3, 3, 4)).log_prob(x.astype(int)).sum()
    np.testing.assert_allclose(part.distribution({}, output).log_prob(x), expected, rtol=1e-5)


@every_variant
def test_gradients_are_finite_for_any_output(variant):
    likelihood = likelihood_of(variant, (1, 2, 3), 256)
    signs = np.where(np.arange(math.prod(likelihood.outputs)) % 3 == 0, -1.0, 1.0)
    own = likelihood.init(jax.random.key(0))
    most = {"binary": 1.0, "real": 1.0, "levels": 255.0}[likelihood.data]

    def value(own, output, x):
        return likelihood.distribution(own, output).log_prob(jnp.full((1, 2, 3), x))

    gradient = jax.jit(jax.vmap(jax.value_and_grad(value, (0, 1)), (None, None, 0)))
    for size in (1e4, -1e4, 30.0, 0.0):
        extreme = jax.tree.map(lambda leaf, size=size: leaf * 0 + size / 4000, own)
        output = jnp.asarray(size * signs, jnp.float32).reshape(likelihood.outputs)
        found = gradient(extreme, output, jnp.array([0.0, 1.0, most]))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("variant", "shape"),
    [(v, (2, 2, 3)) for v in VARIANTS] + [("discretized_logistic_mixture", (3, 4, 1))],
)
def test_the_output_bias_starts_at_the_mean(variant, shape):
    """Where the mean lies at an end of its range, 0.001 of the range away from it."""
    likelihood = likelihood_of(variant, shape, 16)
    most = 15.0 if likelihood.data == "levels" else 1.0
    mean = most * np.linspace(0.0, 1.0, math.prod(shape)).reshape(shape)

    def started(mean):
        output = likelihood.output_bias(mean)
        assert output.shape == likelihood.outputs
        return likelihood.distribution(likelihood.init(jax.random.key(0)), output).mean

    start = jax.jit(started)(jnp.asarray(mean))
    expected = mean if variant.startswith("normal") else np.clip(mean, most / 1000, 0.999 * most)
    np.testing.assert_allclose(start, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    "likelihood",
    [
        "discretized_logistic(scale='decoder')",
        pytest.param("discretized_logistic_mixture", marks=pytest.mark.slow),
    ],
)
def test_locations_start_about_one_scale_from_the_mean(likelihood):
    """Convolutions from random z: the mean image then has more mass than under uniform levels."""
    image = np.round(np.linspace(5.0, 250.0, 64)).reshape(8, 8, 1).astype(np.float32)
    config = model_config(latent_dims=(8,), encoder="conv(channels=(8, 16))", likelihood=likelihood)
    model = latent_variable.build(config, DataSpec(image.shape, image))

    def started(key):
        params, z = model.init(key), jax.random.normal(key, (8, 8))
        return jax.vmap(lambda z: model.likelihood(params, z).log_prob(jnp.asarray(image)))(z)

    log_mass = jax.jit(jax.vmap(started))(jax.random.split(jax.random.key(0), 8))
    assert log_mass.mean() > -image.size * math.log(256)


def test_scales_have_a_floor_and_pixels_of_their_own_need_one():
    spec = DataSpec((1, 2, 1), None)
    for scale in ("pixel", "decoder"):
        with pytest.raises(UserError, match=rf"min_scale must be above 0.*{scale}.*got 0 "):
            likelihoods.normal(spec, scale=scale)
        part = likelihoods.normal(spec, scale=scale, min_scale=0.1)
        own = jax.tree.map(lambda leaf: leaf - 1e4, part.init(jax.random.key(0)))
        output = jnp.full(part.outputs, -1e4 if scale == "decoder" else 0.0)
        density = part.distribution(own, output)
        best = density.log_prob(density.mean)
        assert best == pytest.approx(2 * stats.norm(0, 0.1).logpdf(0), rel=1e-3)
        assert part.log_scale is None
    with pytest.raises(UserError, match="min_scale must be 0 or more with scale='shared', got -1"):
        likelihoods.normal(spec, min_scale=-1.0)
    floor = likelihoods.normal(spec, min_scale=0.1)
    assert math.exp(floor.log_scale({"log_scale": jnp.log(0.5)})) == pytest.approx(0.6)
    for name in ("normal", "discretized_logistic"):
        with pytest.raises(UserError, match="scale: unknown 'pixels'; did you mean 'pixel'"):
            LIKELIHOODS[name](spec, scale="pixels")


@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 4, 4), (12,)])
def test_a_colour_mixture_needs_one_or_three_channels(shape):
    with pytest.raises(UserError, match=r"mixture: needs images .* of 1 or 3 channels, got \("):
        likelihoods.discretized_logistic_mixture(DataSpec(shape, None))
    with pytest.raises(UserError, match=r"num_components must be in 1..1000, got 0"):
        likelihoods.discretized_logistic_mixture(DataSpec(GREY, None), num_components=0)


@pytest.mark.parametrize("name", MASSES)
def test_networks_see_levels_between_zero_and_one(name):
    """The encoder's q of x levels is that of a normal's encoder of x / (L - 1)."""
    shape, levels = (1, 2, 3), 11
    fields = {"latent_dims": (2,), "encoder": "linear", "decoder": "linear"}
    of = lambda likelihood: latent_variable.build(
        model_config(**fields, likelihood=likelihood), DataSpec(shape, None, levels)
    )
    mine, theirs = of(name), of("normal")
    params = mine.init(jax.random.key(0))
    x = jnp.asarray([0, 10, 3, 4, 9, 1.0]).reshape(shape)
    np.testing.assert_allclose(mine.intensities(x), x / 10, rtol=1e-6)
    np.testing.assert_allclose(
        mine.posterior(params, x).mean, theirs.posterior(params, x / 10).mean, rtol=1e-5
    )
