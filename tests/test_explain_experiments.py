"""The experiments that train: exact oracles for each of their parts, then tiny runs."""

import functools
import io

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import model_config
from PIL import Image
from scipy import stats

from vaejax.evaluation import means
from vaejax.evaluation.means import ExampleMean
from vaejax.evidence import estimators as evidence
from vaejax.evidence.estimators import annealed
from vaejax.explain import (
    densities,
    density,
    grids,
    measure,
    plane,
    reconstruction,
    richer_parts,
    tighter_bounds,
)
from vaejax.models import latent_variable
from vaejax.types import DataSpec

NAMES = tuple(densities.DENSITIES)
SAMPLES = 4000


@functools.cache
def _target(name):
    return densities.DENSITIES[name]()


@functools.cache
def _grid(name):
    """A line as `density` uses it, and log p on it."""
    target = _target(name)
    line = grids.axis(6.0, 401 if target.size == 1 else 145)
    return line, grids.log_prob_grid(target, line)


@functools.cache
def _samples(name):
    keys = jax.random.split(jax.random.key(1), SAMPLES)
    return np.asarray(jax.jit(jax.vmap(_target(name).sample))(keys), np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_every_true_density_integrates_to_one(name):
    line, log_prob = _grid(name)
    assert abs(grids.integral(np.exp(log_prob), line, _target(name).size) - 1.0) < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_moments_of_the_density(name):
    """Means, second moments and a bumpy function, each within 4 standard errors."""
    line, log_prob = _grid(name)
    points, x = grids.points(line, _target(name).size), _samples(name)
    functions = [
        lambda x: x[:, 0],
        lambda x: x[:, -1],
        lambda x: x[:, 0] ** 2,
        lambda x: x[:, 0] * x[:, -1],
        lambda x: np.cos(3 * x[:, 0] + 2 * x[:, -1]),
    ]
    for function in functions:
        exact = grids.integral(np.exp(log_prob) * function(points), line, _target(name).size)
        values = function(x)
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(SAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_entropy_on_the_grid_is_that_of_samples(name):
    log_prob = np.asarray(
        jax.jit(jax.vmap(_target(name).log_prob))(_samples(name).astype(np.float32))
    )
    line, _ = _grid(name)
    error = log_prob.std() / np.sqrt(SAMPLES)
    assert (
        abs(-log_prob.mean() - grids.entropy(_grid(name)[1], line, _target(name).size)) < 4 * error
    )
    assert np.mean(np.abs(_samples(name)) < _target(name).extent) > 0.998


def test_entropies_in_closed_form():
    """One normal; a board without blur; a twist, which changes no entropy."""
    one = densities.normal_mixture(np.ones(1), np.zeros((1, 2)), np.array([[0.5, 0.8]]), extent=4.0)
    line = grids.axis(6.0, 145)

    def entropy(target, line=line):
        return grids.entropy(grids.log_prob_grid(target, line), line, 2)

    assert entropy(one) == pytest.approx(1 + np.log(2 * np.pi * 0.4), abs=1e-5)
    sharp = densities.checkerboard(blur=0.005)
    assert entropy(sharp, grids.axis(2.7, 541)) == pytest.approx(np.log(8 * 1.2**2), abs=0.03)
    straight, twisted = densities.pinwheel(turn=0.0), densities.pinwheel(turn=0.7)
    assert entropy(straight) == pytest.approx(entropy(twisted), abs=1e-3)


def _nodes(per_axis):
    """A rule over z, and the part of N(z; 0, I) that each of its nodes stands for."""
    rule = plane.trapezoidal(5.0, per_axis)
    density = stats.multivariate_normal(np.zeros(2)).pdf(rule.nodes)
    return rule, density * np.exp(np.asarray(rule.log_weights, np.float64))


def test_density_of_a_linear_decoder_is_the_closed_form():
    """Quadrature over z of a linear-Gaussian model is its log p(x), and integrates to one."""
    weights, bias, scale = np.array([[0.9, 0.3], [-0.2, 0.7]]), np.array([0.2, -0.1]), 0.4
    rule, node_weights = _nodes(101)
    line = grids.axis(6.0, 81)
    values = grids.node_mixture(rule.nodes @ weights.T + bias, node_weights, scale, line)
    covariance = weights @ weights.T + scale**2 * np.eye(2)
    exact = stats.multivariate_normal(bias, covariance).pdf(grids.points(line, 2))
    np.testing.assert_allclose(values, exact, atol=3e-6 * exact.max())
    assert abs(grids.integral(values, line, 2) - 1.0) < 3e-6
    # And KL between two normals is known as well.
    normal = densities.normal_mixture(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)), extent=5.0)
    precision = np.linalg.inv(covariance)
    log_det = np.linalg.slogdet(covariance)[1]
    expected = 0.5 * (np.trace(precision) + bias @ precision @ bias - 2 + log_det)
    measured = grids.kl_on_grid(grids.log_prob_grid(normal, line), values, line, 2)
    assert measured == pytest.approx(expected, abs=1e-4)


@functools.cache
def _vae(size, prior="normal"):
    """A VAE of two latents for points of `size` numbers."""
    config = model_config(
        latent_dims=(2,), encoder="mlp(hidden_dims=(6,))", likelihood="normal", prior=prior
    )
    return latent_variable.build(config, DataSpec((size,), None))


@pytest.mark.parametrize(
    "prior", ["mixture(num_components=3)", pytest.param("normal", marks=pytest.mark.slow)]
)
def test_density_of_a_vae_by_three_routes(prior):
    """The product of matrices, the log-space sum and adaptive Gauss-Hermite agree."""
    model = _vae(2, prior)
    params = jax.jit(model.init)(jax.random.key(2))
    params["generative"] = jax.tree.map(lambda leaf: 1.3 * leaf, params["generative"])
    params["generative"]["likelihood"]["log_scale"] = jnp.asarray(-0.7)
    rule = plane.trapezoidal(5.0, 121)
    line = grids.axis(2.0, 3)
    x = grids.points(line, 2).astype(np.float32)
    loc, log_prior = density.at_nodes(model)(params, rule.nodes.astype(np.float32))
    masses = np.exp(np.asarray(log_prior, np.float64) + rule.log_weights)
    product = grids.node_mixture(np.asarray(loc, np.float64), masses, np.exp(-0.7), line)
    summed = density.log_marginal(params, x, rule, model=model)
    np.testing.assert_allclose(np.log(product), summed, atol=2e-5)
    module = evidence.ESTIMATORS["quadrature"]
    estimate = module.build(module.Config(), model=model).estimate
    for index in (4,):
        found = jax.jit(estimate)(params, jax.random.key(0), x[index], ())["quadrature"]
        assert abs(found.value - summed[index]) < 1e-4 + 4 * np.sqrt(found.variance)


@functools.cache
def _untrained():
    """Courses of untrained models, whose checks must hold like those of trained ones."""
    config = density.Config(grid_nodes=81, test_samples=200)
    courses = {}
    for name in ("mixture", "moons"):
        target = _target(name)
        model = _vae(target.size)
        history = [jax.jit(model.init)(key) for key in jax.random.split(jax.random.key(4), 2)]
        options = {"at": density.at_nodes(model), "model": model, "config": config}
        courses[name] = density._course(target, history, jax.random.key(5), **options)
    return density.Findings((0, 9), 16, courses)


def test_checks_of_a_course_hold():
    findings = _untrained()
    report = density.numbers(findings)
    for name, course in findings.courses.items():
        np.testing.assert_allclose(course.integral, 1.0, atol=1e-3)
        assert (course.kl >= 0.0).all()
        expected = -course.entropy - course.kl[-1]
        assert abs(course.sampled.value - expected) < 4 * course.sampled.data_se
        assert course.kl_shift < 1e-5
        assert course.density_shift < 1e-5
        row = report[name]
        total = row["e_log_p_theta_after_nats"] + row["kl_after_nats"]
        assert total == pytest.approx(row["minus_entropy_nats"])
    assert len(density.sentences(findings)) == 3


def test_animation_shows_every_record_and_is_small():
    findings = _untrained()
    animation = density.pictures(findings)["animation"].image
    assert Image.open(io.BytesIO(animation)).n_frames == len(findings.steps)
    assert len(animation) < 1.5e6


@pytest.mark.parametrize(("scale", "expected"), [(10.0, 0.0), (1e-6, 1.0)])
def test_unresolved_counts_nodes_that_are_further_apart_than_the_scale(scale, expected):
    rule, weights = _nodes(21)
    assert grids.unresolved(rule.nodes, weights, scale) == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_elbo_is_reconstruction_minus_kl_and_bounds_rise():
    """Per example; L_k over disjoint groups of the same samples rises with k (Jensen)."""
    model, params = evidence_models.linear(size=4)
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=10)
    found = measure.bounds([params], np.asarray(x), model=model, seed=2, num_samples=500)
    found = {name: values[0] for name, values in found.items()}
    np.testing.assert_allclose(found["elbo"], found["reconstruction"] - found["kl"], atol=1e-5)
    ladder = np.stack([found[f"iwae_{k}"] for k in (1, 5, 50, 500)])
    np.testing.assert_allclose(ladder[0], found["elbo"], atol=1e-5)
    assert (np.diff(ladder, axis=0) >= -1e-5).all()
    exact = np.asarray(jax.vmap(lambda x: model.log_marginal(params, x))(x))
    assert np.abs(ladder[-1] - exact).mean() < 0.05 < (exact - ladder[0]).mean()


def _reconstruction(log_marginal):
    """Findings of four models with these log p(x), [4, N], all else made up."""
    shape, rng = log_marginal.shape, np.random.default_rng(1)
    parts = {name: rng.normal(size=shape) for name in ("reconstruction", "kl", "elbo", "iwae")}
    parts["reconstruction"][0] += 50.0
    images = rng.uniform(size=(4, 8, 4, 4, 1))
    return reconstruction.Findings(
        betas=(0.0, 0.1, 1.0, 4.0),
        num_samples=10,
        log_marginal=log_marginal,
        variance=np.full(shape, 0.01),
        independent=rng.normal(size=shape[1]),
        two_latents=ExampleMean(-1.0, np.nan, 0.1),
        two_latents_shift=0.0,
        x=images[0],
        reconstructions=images,
        samples=images,
        **parts,
    )


def test_reconstruction_says_what_its_numbers_say():
    noise = np.random.default_rng(2).normal(size=(4, 20))
    level = np.array([-30.0, -25.0, -20.0, -26.0])[:, None]
    findings = _reconstruction(level + noise)
    row = reconstruction.numbers(findings)["beta=0"]
    difference = findings.log_marginal[0] - findings.log_marginal[2]
    assert row["log_p_x_minus_that_of_beta_1_nats"] == pytest.approx(difference.mean())
    assert row["its_paired_error_nats"] == pytest.approx(stats.sem(difference))
    first = reconstruction.sentences(findings)[0]
    assert "worse than beta = 1" in first
    assert "the worst of all" in first
    turned = _reconstruction(level[::-1] + 40.0 * noise)
    assert "not to be told apart" in reconstruction.sentences(turned)[0]
    for picture in reconstruction.pictures(findings).values():
        picture.image.savefig(io.BytesIO(), dpi=30)


def test_independent_pixels_are_a_distribution():
    """The baseline's probabilities over all 2^4 images add up to one."""
    images = np.array([[i >> d & 1 for d in range(4)] for i in range(16)], np.float32)
    images = images.reshape(16, 2, 2, 1)
    log_prob = reconstruction.independent_pixels(
        np.array([0.1, 0.5, 0.7, 0.9]).reshape(2, 2, 1), images
    )
    assert np.exp(log_prob).sum() == pytest.approx(1.0, abs=1e-5)


def _tighter(log_marginal):
    """Findings of three models with these log p(x), [3, N], q ever further behind."""
    steps = np.arange(3.0)[:, None]
    return tighter_bounds.Findings(
        trained_with=(1, 5, 50),
        sizes=(1, 5, 50),
        bounds=(log_marginal - 1.0 - steps)[:, None] + np.array([0.0, 0.4, 0.8])[:, None],
        log_marginal=log_marginal,
        variance=np.full_like(log_marginal, 1e-4),
        best=log_marginal - 0.5 - 0.8 * steps,
        best_full=log_marginal - 0.1 * steps,
    )


def test_tighter_bounds_says_what_its_numbers_say():
    noise = np.random.default_rng(3).normal(size=20)
    rising = _tighter(noise + np.arange(3.0)[:, None])
    for index in range(3):
        parts = rising.parts(index)
        total = parts["approximation"].value + parts["amortization"].value
        assert parts["inference"].value == pytest.approx(total)
        assert parts["inference"].value == pytest.approx(1.0 + index)
    assert "log p(x) rises by 2.00" in tighter_bounds.sentences(rising)[1]
    assert "moved away from every diagonal normal" in tighter_bounds.sentences(rising)[2]
    falling = _tighter(noise - np.arange(3.0)[:, None])
    assert "log p(x) falls by 2.00" in tighter_bounds.sentences(falling)[1]
    row = tighter_bounds.numbers(rising)["trained with k=50"]
    assert row["log_p_x_minus_that_of_k_1_nats"] == pytest.approx(2.0)
    assert row["elbo_minus_that_of_k_1_nats"] == pytest.approx(0.0)
    assert row["log_p_x_difference_error_nats"] == pytest.approx(0.0, abs=1e-12)
    for picture in tighter_bounds.pictures(rising).values():
        picture.image.savefig(io.BytesIO(), dpi=30)


def _richer(gain, gap):
    """Findings of plain, a flow for q and two p: log p(x) higher by `gain`, q behind by `gap`."""
    rng = np.random.default_rng(5)
    log_marginal = rng.normal(size=(1, 1, 20)) + np.array(gain)[:, None, None] + np.zeros((4, 2, 1))
    return richer_parts.Findings(
        priors=("normal", "normal", "mixture(num_components=5)", "vamp(num_components=5)"),
        posteriors=("normal", "coupling", "normal", "normal"),
        elbo=log_marginal - np.array(gap)[:, None, None],
        log_marginal=log_marginal,
        variance=np.full_like(log_marginal, 1e-4),
        best=log_marginal - 0.3,
        best_full=log_marginal - 0.1,
    )


def test_richer_parts_says_what_its_numbers_say():
    findings = _richer([0.0, 0.0, 0.5, 0.7], [0.6, 0.4, 0.6, 0.65])
    assert findings.names() == ["plain", "q: coupling", "p: mixture", "p: vamp"]
    assert richer_parts.headline(findings).startswith("log p(x) in nats: a richer p +0.70")
    richer_p, richer_q, gap = richer_parts.sentences(findings)
    assert "the vamp has the highest log p(x), +0.700" in richer_p
    assert "0.050 nat wider" in richer_p
    assert "does not tell from none" in richer_q
    assert "0.200 nat narrower" in richer_q
    assert "0.60 +- 0.00" in gap
    assert "leaves 0.10" in gap
    row = richer_parts.numbers(findings)["q: coupling"]
    assert row["elbo_minus_that_of_plain_nats"] == pytest.approx(0.2)
    assert row["log_p_x_minus_elbo_nats"] == pytest.approx(0.4)
    # 20 digits, 2 seeds, a variance of 1e-4 each.
    assert row["log_p_x_monte_carlo_error_nats"] == pytest.approx(np.sqrt(1e-4 / 40))
    for picture in richer_parts.pictures(findings).values():
        picture.image.savefig(io.BytesIO(), dpi=30)


@pytest.mark.slow
def test_annealed_agrees_with_the_exact_value_for_every_variant():
    """Two linear-Gaussian models through one compiled program."""
    model, params = evidence_models.linear(size=4)
    other = jax.tree.map(lambda leaf: 1.1 * leaf, params)
    x = np.asarray(evidence_models.simulate(params, jax.random.key(1), model=model, count=16))
    chains = annealed.Config(num_temperatures=40, num_chains=16)
    tasks = measure.tasks([params, other], x, model=model, seed=3, annealed=chains)
    found = measure.annealed(tasks)
    for one, value, variance in zip((params, other), found.value, found.variance, strict=True):
        exact = np.asarray(jax.vmap(lambda x: model.log_marginal(one, x))(x))  # noqa: B023
        assert abs((value - exact).mean()) < 4 * means.monte_carlo_error(variance) + 2e-3


def test_the_square_of_latents_holds_the_prior():
    rule, weights = _nodes(101)
    assert weights.sum() == pytest.approx(1.0, abs=2e-6)
    assert plane.log_marginal(
        jnp.asarray(-0.5 * (rule.nodes**2).sum(axis=1) - np.log(2 * np.pi)), rule
    ) == pytest.approx(0.0, abs=2e-6)
