"""Pictures: what a temperature does to every prior, ways between latents, files of a run."""

import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import MODELS, model_config, perturbed, small_config
from rich.console import Console
from run_script import run_script

from vaejax.errors import UserError
from vaejax.evaluation import pictures
from vaejax.models import latent_variable, priors, supports, temperature
from vaejax.models.flows import Flow
from vaejax.models.mixtures import Mixture, NormalMixture
from vaejax.runs import sample as sample_run
from vaejax.runs.sample import Settings
from vaejax.training import train
from vaejax.types import DataSpec, Model

QUIET = Console(file=io.StringIO())
COLD = 0.25


OPTIONS = {
    "mixture": {"num_components": 3},
    "vamp": {"num_components": 3},
    "coupling": {"num_layers": 2, "hidden_dims": (4,)},
    "autoregressive": {"hidden_dims": (4,)},
}
DISCRETE = ("bernoulli", "categorical", "autoregressive_bernoulli")
DISCRETE_OPTIONS = {
    "categorical": {"num_classes": 2},
    "autoregressive_bernoulli": {"hidden_dims": ()},
}


def _made(name):
    """A prior of two latents away from its start; a vamp's components are x -> N(x, exp(x)^2)."""
    prior = priors.PRIORS[name](2, DataSpec((2,), None), **OPTIONS.get(name, {}))
    encode = lambda x: dist.Normal(x, jnp.exp(x - 1.0)).to_event(1)
    return prior.distribution(perturbed(prior.init(jax.random.key(0)), jax.random.key(1)), encode)


def _colder(distribution, key, cold):
    """The sample at COLD that belongs to the one at 1, by what each family is."""
    z = distribution.sample(key)
    if isinstance(distribution, NormalMixture):  # one row for each component it may be of
        found = distribution.loc + COLD * (z[None] - distribution.loc)
        return found[jnp.argmin(jnp.sum((found - cold[None]) ** 2, axis=1))]
    if isinstance(distribution, Flow):
        params, context = distribution.params, distribution.context
        u = distribution.bijection.inverse(params, z, context)[0]
        return distribution.bijection.forward(params, COLD * u, context)[0]
    return distribution.mean + COLD * (z - distribution.mean)


@pytest.mark.parametrize("name", [name for name in priors.PRIORS if name not in DISCRETE])
def test_temperature_multiplies_the_noise_of_every_prior(name):
    """And what it makes is normalised: quadrature on a grid of 0.05 over [-6, 6]^2."""
    axis = np.linspace(-6.0, 6.0, 241)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    @jax.jit
    def compute(grid):
        prior = _made(name)
        cold, key = temperature.tempered(prior, COLD), jax.random.key(2)
        z = cold.sample(key)
        same = (temperature.tempered(prior, 1.0).sample(key), prior.sample(key))
        mass = jnp.exp(jax.vmap(temperature.tempered(prior, 0.7).log_prob)(grid))
        return same, (z, _colder(prior, key, z)), jnp.sum(mass)

    same, pair, total = compute(jnp.asarray(grid, jnp.float32))
    np.testing.assert_array_equal(*same)
    np.testing.assert_allclose(*pair, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(total * (axis[1] - axis[0]) ** 2, 1.0, atol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp-2", "top_down-3-ladder"])
def test_every_layer_of_a_hierarchy_has_the_temperature(name, spec):
    model = latent_variable.build(model_config(**MODELS[name]), spec)

    @jax.jit
    def compute():
        params = perturbed(model.init(jax.random.key(0)), jax.random.key(1))
        prior, key = model.prior(params), jax.random.key(2)
        cold = temperature.tempered(prior, COLD)
        z = cold.sample(key)
        pairs, total, carry, layer = [], 0.0, None, prior.first
        steps = [*prior.following, None]
        for own, step, value in zip(jax.random.split(key, len(z)), steps, z[::-1], strict=True):
            pairs.append((value, _colder(layer, own, value)))
            total += dist.Normal(layer.mean, COLD * layer.variance**0.5).log_prob(value).sum()
            carry, layer = step(carry, value) if step else (None, None)
        return pairs, (cold.log_prob(z), total)

    pairs, log_probs = compute()
    for drawn, wanted in pairs:
        np.testing.assert_allclose(drawn, wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(*log_probs, rtol=1e-5)


@pytest.mark.slow
def test_normals_and_mixtures_have_the_covariance_of_a_temperature():
    """T^2 within components; between them as before. Samples: 4 standard errors of 20,000."""
    factor = jnp.asarray([[0.8, 0.0], [0.5, 0.6]])
    means = jnp.asarray([[1.0, 0.0], [-1.0, 0.5]])
    full = lambda mean: dist.MultivariateNormal(mean, scale_tril=factor)
    within = np.asarray(factor @ factor.T)
    between = 0.25 * np.outer(means[0] - means[1], means[0] - means[1])
    for distribution, wanted in (
        (full(means[0]), 0.25 * within),
        (Mixture(jax.vmap(full)(means)), 0.25 * within + between),
    ):
        cold = temperature.tempered(distribution, 0.5)
        z = jax.jit(jax.vmap(cold.sample))(jax.random.split(jax.random.key(0), 20_000))
        centered = z - z.mean(axis=0, keepdims=True)
        products = centered[:, :, None] * centered[:, None, :]
        error = products.std(axis=0) / 20_000**0.5
        np.testing.assert_array_less(np.abs(products.mean(axis=0) - wanted), 4 * error)


def test_a_distribution_without_a_temperature_is_refused():
    with pytest.raises(UserError, match="--temperature: a prior of Gamma knows none"):
        temperature.tempered(dist.Gamma(jnp.ones(3)), 0.5)


@pytest.mark.parametrize("name", DISCRETE)
def test_temperature_divides_the_logits_of_discrete_priors(name):
    """p(z; T) is p(z)^(1 / T), normalised, of every value given those before it."""
    prior = priors.PRIORS[name](2, DataSpec((2,), None), **DISCRETE_OPTIONS.get(name, {}))
    made = prior.distribution(perturbed(prior.init(jax.random.key(0)), jax.random.key(1)), None)
    states = [
        supports.state(prior.support, 2, jnp.asarray(n))
        for n in range(supports.num_states(prior.support, 2))
    ]
    log_probs = {
        t: [float(temperature.tempered(made, t).log_prob(z)) for z in states] for t in (1.0, 0.5)
    }
    np.testing.assert_allclose(np.exp(log_probs[0.5]).sum(), 1.0, rtol=1e-5)
    if name != "autoregressive_bernoulli":
        squared = np.exp(2 * np.array(log_probs[1.0]))
        np.testing.assert_allclose(np.exp(log_probs[0.5]), squared / squared.sum(), rtol=1e-4)
        return
    given = {z1: np.array([log_probs[0.5][z1 + 2 * z2] for z2 in (0, 1)]) for z1 in (0, 1)}
    for z1, own in given.items():
        plain = np.exp(2 * np.array([log_probs[1.0][z1 + 2 * z2] for z2 in (0, 1)]))
        np.testing.assert_allclose(np.exp(own) / np.exp(own).sum(), plain / plain.sum(), rtol=1e-4)


def test_great_circles_begin_end_and_keep_their_length():
    start, end = jnp.asarray([2.0, 0.0, 0.0]), jnp.asarray([0.0, 0.0, 2.0])
    shares = jnp.linspace(0.0, 1.0, 5)
    way = jax.vmap(lambda t: pictures.between(start, end, t))(shares)
    np.testing.assert_allclose(way[jnp.asarray([0, -1])], [start, end], atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(way, axis=1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(way[2], [2**0.5, 0.0, 2**0.5], rtol=1e-6)
    for other in (3.0 * start, -start, jnp.zeros(3)):
        way = jax.vmap(lambda t, other=other: pictures.between(start, other, t))(shares)
        straight = (1.0 - shares)[:, None] * start[None] + shares[:, None] * other[None]
        np.testing.assert_allclose(way, straight, atol=1e-5)


LOC = jnp.asarray([1.0, 3.0, 0.0])
CLEAR = Model(
    init=lambda key: {},
    prior=lambda params: dist.Normal(0.5, jnp.asarray([1.0, 2.0, 3.0])).to_event(1),
    posterior=lambda params, x: dist.Normal(LOC * x, 1e-3).to_event(1),
    likelihood=lambda params, z: dist.Normal(z, 1.0).to_event(1),
)
"""x and z have three values; q(z|x) is nearly LOC x, and E[x|z] = z."""


def test_traversals_set_one_unit_to_the_range_of_the_prior():
    x, units = jnp.asarray([0.2, -0.4, 0.9]), jnp.asarray([2, 0])
    found = pictures.traversals(
        {}, jax.random.key(0), x, units, jnp.asarray(0.5), model=CLEAR, num_steps=5
    )
    assert found.means.shape == (2, 5, 3)
    scales = 0.5 * np.asarray([3.0, 1.0])
    # The 1% quantile of 1,000 normals has a standard error of 0.118.
    for column, quantile in ((0, -2.326), (-1, 2.326)):
        error = np.abs(found.values[:, column] - (0.5 + quantile * scales)) / scales
        assert (error < 4 * 0.118).all()
    for row, unit in enumerate((2, 0)):
        wanted = np.tile(np.asarray(LOC * x), (5, 1))
        wanted[:, unit] = found.values[row]
        np.testing.assert_allclose(found.means[row], wanted, atol=5e-3)


def test_activity_is_the_variance_of_posterior_means():
    noisy = CLEAR._replace(posterior=lambda params, x: dist.Normal(LOC * x, 2.0).to_event(1))
    x = 0.7 * jax.random.normal(jax.random.key(0), (4000, 3))
    found = pictures.unit_activity({}, jax.random.split(jax.random.key(1), 4000), x, model=noisy)
    exact = np.asarray(LOC) ** 2 * np.asarray(x).var(axis=0)
    error = (2.0**2 + 2 * exact**0.5 * 2.0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(found - exact), 4 * error)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_directory):
    """A hierarchy under pseudo-inputs, trained for a moment on colours."""
    folder = tmp_path_factory.mktemp("sample")
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 6, 3), np.uint8)
    np.savez(folder / "colours.npz", train=images, test=images[::-1][:25])
    config = small_config(
        dataset__name=str(folder / "colours.npz"),
        dataset__binarization="none",
        dataset__num_validation=5,
        model__prior="vamp(num_components=3)",
        model__latent_dims=(3, 2),
        model__hierarchy="top_down(features=4)",
        model__likelihood="discretized_logistic",
        training__batch_size=25,
        training__num_epochs=1,
    )
    train.train(config, folder / "run", console=QUIET)
    return folder / "run"


def _arrays(workdir, **settings):
    sample_run.sample(workdir, Settings(num_samples=10, **settings), console=QUIET)
    return dict(np.load(workdir / "samples.npz"))


def test_a_run_is_pictured(trained, tmp_path):
    workdir, shape = shutil.copytree(trained, tmp_path / "run"), (4, 6, 3)
    first = _arrays(workdir)
    assert {key: first[key].shape for key in first if first[key].ndim > 2} == {
        "prior": (10, *shape),
        "draws": (10, *shape),
        "x": (12, *shape),
        "reconstructions": (12, *shape),
        "interpolations": (8, 11, *shape),
        "traversals": (5, 11, *shape),
    }
    for key in ("prior", "draws", "x", "reconstructions", "interpolations", "traversals"):
        assert first[key].min() >= 0.0, key
        assert first[key].max() <= 1.0, key
    assert sorted(first["traversals/units"]) == [0, 1, 2, 3, 4]
    assert (first["seed"], first["temperature"], first["split"]) == (0, 1.0, "test")
    assert first["checkpoint_step"] == 1
    figures = {path.name for path in (workdir / "figures").glob("sample-*.png")}
    assert figures == {f"sample-{figure}.png" for figure in sample_run.FIGURES}
    again = _arrays(workdir)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    cold = _arrays(workdir, temperature=0.1, units=(4, 3, 2, 1, 0))
    assert not np.array_equal(cold["prior"], first["prior"])
    assert np.array_equal(cold["interpolations"], first["interpolations"])
    assert cold["traversals/units"].tolist() == [4, 3, 2, 1, 0]
    other = _arrays(workdir, seed=1, split="train")
    assert not np.array_equal(other["x"], first["x"])
    assert not np.array_equal(other["draws"], first["draws"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "--temperature: must be above 0"),
        ({"temperature": float("nan")}, "--temperature: must be above 0"),
        ({"num_samples": 0}, "--num_samples: must be in 1..10000, got 0"),
        ({"seed": -1}, "--seed: must be in 0"),
        ({"units": (0, 5)}, "--units: must be in 0..4, got 5"),
        ({"split": "tset"}, "--split: unknown 'tset'; did you mean 'test'"),
    ],
)
def test_bad_settings_are_named(settings, message, trained):
    with pytest.raises(UserError, match=message) as caught:
        sample_run.sample(trained, Settings(**settings), console=QUIET)
    assert "\n" not in str(caught.value)


def test_the_script_names_its_files_or_says_what_is_wrong(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    good = run_script("sample.py", f"--workdir={workdir}", "--num_samples=4", "--units=0,1")
    assert good.code == 0, good.err
    named = good.out.split()
    assert [path.rpartition("/")[2] for path in named] == [
        "samples.npz",
        *(f"sample-{figure}.png" for figure in sample_run.FIGURES),
    ]
    for arguments, message in (
        ((f"--workdir={tmp_path / 'nothing'}",), "holds no run"),
        ((f"--workdir={workdir}", "--units=x"), "--units: needs whole numbers"),
    ):
        bad = run_script("sample.py", *arguments)
        assert bad.code == 2
        assert message in bad.err
        assert bad.err.count("\n") == 1


@pytest.mark.slow
def test_colour_levels_are_pictured_between_0_and_1():
    """Means and draws of whole numbers 0..15, whatever the temperature."""
    spec = DataSpec((2, 2, 3), np.full((2, 2, 3), 7.0), levels=16)
    fields = {"latent_dims": (2,), "encoder": "linear", "likelihood": "categorical"}
    model = latent_variable.build(model_config(**fields), spec)
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 400)
    means, draws = pictures.from_prior(params, keys, jnp.asarray(2.0), model=model)
    assert set(np.unique(np.round(15 * np.asarray(draws), 4))) <= set(range(16))
    error = np.asarray(draws).std(axis=0) / 20
    np.testing.assert_array_less(np.abs(means.mean(axis=0) - draws.mean(axis=0)), 4.5 * error)
