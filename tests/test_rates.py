"""The parts of the rate against quadrature over one latent, and against sums over discrete ones."""

import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import model_config, perturbed, small_config, small_model
from evidence_models import linear, simulate
from rich.console import Console

from vaejax.comparison import rate_distortion as plane
from vaejax.errors import UserError
from vaejax.evaluation import rates, results
from vaejax.evaluation.rates import Part
from vaejax.models import latent_variable, latents, linear_gaussian, supports
from vaejax.runs import evaluate as evaluate_run
from vaejax.runs import rates as rates_run
from vaejax.runs import tables
from vaejax.training import train
from vaejax.types import DataSpec

CHUNK = 1000
QUIET = Console(quiet=True)


def _exact(log_q, log_p, measure):
    """Means over examples of the four parts: log q(z|x_i) [N G], log p(z) [G] on a grid."""
    weights = np.exp(log_q) * measure
    count = len(log_q)
    inside = np.broadcast_to(np.logaddexp.reduce(log_q, axis=0) - np.log(count), log_q.shape)
    rest = [np.logaddexp.reduce(np.delete(log_q, i, 0), axis=0) for i in range(count)]
    found = []
    for aggregate in (inside, np.array(rest) - np.log(count - 1)):
        found += [
            np.sum(weights * (log_q - aggregate), 1),
            np.sum(weights * (aggregate - log_p), 1),
        ]
    return np.array(found)


def _grid_case():
    """Six x of a linear-Gaussian model of one latent, q a little off; its densities on a grid."""
    model, params = linear(num_latents=1, size=3, perturbation=0.3)
    x = np.asarray(simulate(params, jax.random.key(1), model=model, count=6))
    grid = jnp.linspace(-12.0, 12.0, 4001)[:, None]
    return model, params, x, *_densities(model, params, x, grid), float(grid[1, 0] - grid[0, 0])


def _densities(model, params, x, z):
    """log q(z|x_i) [N G] and log p(z) [G] at every z."""

    @jax.jit
    def both(x, z):
        log_q = jax.vmap(lambda x: jax.vmap(model.posterior(params, x).log_prob)(z))(x)
        return log_q, jax.vmap(model.prior(params).log_prob)(z)

    return tuple(map(np.asarray, both(x, z)))


def _states_case(**fields):
    """Five x of a small model of discrete latents; its masses at every state."""
    config = model_config(encoder="mlp(hidden_dims=(3,))", **fields)
    model = latent_variable.build(config, DataSpec((4,), None))
    params = perturbed(jax.jit(model.init)(jax.random.key(7)), jax.random.key(8), 0.8)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    x = np.asarray([[0, 0, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], float)
    size, unravel = latents.unraveller(params, model=model)
    numbers = jnp.arange(supports.num_states(model.support, size))
    z = jax.vmap(lambda n: unravel(supports.state(model.support, size, n)))(numbers)
    return model, params, x, *_densities(model, params, x, z), 1.0


BINARY = {"posterior": "bernoulli", "prior": "bernoulli"}
CASES = {
    "linear_gaussian": _grid_case,
    "binary": functools.partial(_states_case, latent_dims=(3,), **BINARY),
    "top_down": functools.partial(
        _states_case, latent_dims=(2, 1), hierarchy="top_down(features=2)", **BINARY
    ),
}


def _measured(model, params, x, rate, *, seed, num_samples):
    key = jax.random.key(seed)
    drawn = rates.draws(params, key, x, model=model, num_samples=num_samples, chunk_size=CHUNK)
    return rates.surgery(drawn, rate)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_part_is_the_exact_one(name, x64):
    """In every example within 4.5 of its errors, which are of the right size."""
    model, params, x, log_q, log_p, measure = CASES[name]()
    exact = _exact(log_q, log_p, measure)
    rate = np.sum(np.exp(log_q) * (log_q - log_p) * measure, axis=1)
    np.testing.assert_allclose(exact[0] + exact[1], rate, atol=1e-9)
    known = Part(rate, np.zeros_like(rate))
    found = _measured(model, params, x, known, seed=0, num_samples=1000)
    values = np.array([part.values for part in found])
    errors = np.sqrt([part.variances for part in found])
    assert errors[:2].max() < 0.05
    z = (values - exact) / errors
    assert np.abs(z).max() < 4.5
    assert 0.4 < np.sqrt(np.mean(z**2)) < 1.7
    np.testing.assert_allclose(values[0] + values[1], rate, atol=1e-9)
    np.testing.assert_allclose(values[2] + values[3], rate, atol=1e-9)
    # As a mean over examples: the identity of Hoffman and Johnson, and its ceiling.
    assert 0.0 < exact[0].mean() < np.log(len(x))
    assert exact[1].mean() > 0.0


@pytest.mark.slow
def test_the_mutual_information_of_the_distribution_lies_between(x64):
    """q = p(z|x) and x ~ p(x): q(z) = p(z), and I is half a log determinant. Eight x at a time."""
    model, params = linear(num_latents=1, size=3, perturbation=0.0)
    own = linear_gaussian.of(params)
    params["inference"] = linear_gaussian.inference_params(linear_gaussian.exact_posterior(own))
    information = 0.5 * np.log1p(float(jnp.sum(own.weights**2)) / np.exp(2 * float(own.log_scale)))
    means = []
    for seed in range(40):
        x = np.asarray(simulate(params, jax.random.key(seed), model=model, count=8))
        rate = np.asarray(jax.vmap(lambda x: model.kl_groups(params, x).sum())(x))
        found = _measured(model, params, x, Part(rate, 0.0 * rate), seed=seed, num_samples=50)
        means.append([part.values.mean() for part in found])
    mean, error = np.mean(means, axis=0), np.std(means, axis=0, ddof=1) / np.sqrt(len(means))
    assert mean[0] + 4 * error[0] < information < mean[2] - 4 * error[2]
    assert mean[3] + 4 * error[3] < 0.0 < mean[1] - 4 * error[1]


def test_the_control_variate_changes_errors_not_means():
    """Its slope takes away what both have in common; what `rate` does not know is added."""
    random = np.random.default_rng(0)
    control = 3.0 + random.normal(size=(500, 8))
    values = 1.0 + 0.7 * (control - 3.0) + 0.1 * random.normal(size=(500, 8))
    sure = rates._controlled(values, control, Part(np.full(500, 3.0), np.zeros(500)))
    np.testing.assert_allclose(sure.variances.mean(), 0.1**2 / 8, rtol=0.1)
    assert abs(sure.values.mean() - 1.0) < 4 * np.sqrt(sure.variances.sum()) / 500
    unsure = rates._controlled(values, control, Part(np.full(500, 3.0), np.full(500, 0.2)))
    np.testing.assert_allclose(unsure.variances - sure.variances, 0.7**2 * 0.2, rtol=0.01)
    alone = rates._controlled(values[:, :1], control[:, :1], Part(np.full(500, 3.0), np.zeros(500)))
    assert np.isnan(alone.variances).all()
    assert np.isfinite(alone.values).all()


@pytest.mark.parametrize(
    ("units", "count"),
    [([0.5, 0.5, 0.0], 2), ([98.0, 1.0, 1.0], 2), ([99.0, 1.0], 1), ([0.0, 0.0], 0), ([1.0], 1)],
)
def test_how_few_units_carry_the_rate(units, count):
    assert rates.units_for(np.array(units)) == count


@pytest.mark.slow
def test_what_would_take_too_long_names_the_most_that_does_not(spec):
    model = small_model("mlp-2-iaf", spec)
    assert model.density_steps > 1
    (problem,) = rates.problems(model, num_examples=100_000, num_samples=4)
    most = int(problem.rpartition("=")[2])
    assert rates.problems(model, num_examples=most, num_samples=4) == []
    assert rates.problems(model, num_examples=most + 1, num_samples=4) != []
    assert rates.problems(small_model("mlp-1", spec), num_examples=most + 1, num_samples=4) == []


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data_directory):
    """A run with its rates."""
    folder = tmp_path_factory.mktemp("rates")
    train.train(small_config(training__num_epochs=2), folder, console=QUIET)
    result = evaluate_run.evaluate(
        folder, rates=True, overrides={"rates.num_examples": 50}, console=QUIET
    )
    return folder, result


@pytest.mark.slow
def test_rates_are_written_beside_the_evaluation(evaluated):
    folder, result = evaluated
    found = rates_run.read(folder, "test")
    assert results.to_json(found) == json.loads((folder / "rates.json").read_text())
    assert found.protocol == result.protocol
    rows = {name: row.value for name, row in found.estimates.items()}
    assert rows["mutual_information"] + rows["marginal_kl"] == pytest.approx(rows["rate"])
    assert sum(found.unit_rates) == pytest.approx(rows["rate"], rel=1e-5)
    assert found.log_num_examples == pytest.approx(np.log(50))
    assert (folder / "figures" / "rates.png").exists()
    with np.load(folder / "rates.npz") as arrays, np.load(folder / "evaluation.npz") as whole:
        assert arrays["unit_rate"].shape == (50, 3)
        np.testing.assert_array_equal(arrays["value/rate"], whole["value/kl_closed_form"][:50])
    console = Console(width=200, record=True, file=io.StringIO())
    tables.show_rates(found, console)
    assert "units carry 99% of the rate" in console.export_text()


@pytest.mark.slow
def test_the_plane_of_rate_and_distortion(evaluated, tmp_path):
    """The curve ends at log p(x), near L_K; what has no effect is refused."""
    folder, result = evaluated
    chains = {"num_temperatures": 60, "num_chains": 6, "pilot_temperatures": 5, "pilot_moves": 10}
    options = {
        "decoder": folder,
        "num_examples": 60,
        "overrides": {f"evidence.annealed.{name}": value for name, value in chains.items()},
        "out": tmp_path,
        "console": QUIET,
    }
    found = plane.draw([str(folder)], **options)
    (point,) = found.points
    assert point.rate.value + point.distortion.value == pytest.approx(-point.elbo.value, abs=1e-4)
    assert point.elbo.value == pytest.approx(result.estimates["elbo"].value)
    told = json.loads((tmp_path / "rate_distortion.json").read_text())
    assert len(told["decoder"]["rate"]) == 60
    with np.load(folder / "evaluation.npz") as arrays:
        bound = arrays["value/iwae_20"][:60].mean()
    end = -(told["decoder"]["rate"][-1] + told["decoder"]["distortion"][-1])
    assert abs(end - bound) < 0.3
    assert (tmp_path / "rate_distortion.png").exists()
    with pytest.raises(UserError, match="--num_examples: has no effect without --decoder"):
        plane.draw([str(folder)], **options | {"decoder": None, "overrides": {}})
    with pytest.raises(UserError, match="the curve starts at the prior"):
        plane.draw([str(folder)], **options | {"overrides": {"evidence.annealed.start": "prior"}})


@pytest.mark.slow
def test_a_bad_request_for_rates_is_refused(evaluated):
    folder, _ = evaluated
    with pytest.raises(UserError, match=r"rates.num_examples: must be in 2..360.*got 361"):
        evaluate_run.evaluate(
            folder, rates=True, overrides={"rates.num_examples": 361}, console=QUIET
        )
    with pytest.raises(UserError, match=r"rates.num_samples: has no effect without --rates"):
        evaluate_run.evaluate(folder, overrides={"rates.num_samples": 8}, console=QUIET)
    with pytest.raises(UserError, match=r"rates-validation.json is missing.*--rates"):
        rates_run.read(folder, "validation")
    (folder / "rates.npz").write_bytes((folder / "evaluation.npz").read_bytes())
    with pytest.raises(UserError, match="do not belong together"):
        rates_run.read(folder, "test")
