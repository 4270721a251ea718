"""The gradient laboratory: statistics with known answers, then a whole measurement."""

import io
import json

import evidence_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LINEAR, small_config
from jax.flatten_util import ravel_pytree
from rich.console import Console
from run_script import run_script

from vaejax import config as config_lib
from vaejax.errors import UserError
from vaejax.laboratory import draws as gradient_lab
from vaejax.laboratory import run as gradient_run
from vaejax.laboratory import settings as settings_lib
from vaejax.laboratory.draws import Moments, Pair
from vaejax.laboratory.settings import Settings
from vaejax.models import linear_gaussian
from vaejax.objectives import bounds, gradients, surrogates

QUIET = Console(quiet=True)
BLOCKS = gradient_lab.NUM_BLOCKS


def _moments(draws, differences):
    """Moments of draws [R, size, J], accumulated as the laboratory does."""

    def block(values):
        zeros = {"inference": jnp.zeros(values.shape[-1]), "generative": jnp.zeros(1)}

        def add(carry, step):
            return gradient_lab.add_draw(step[0], *carry, zeros | {"inference": step[1]}), None

        counts = jnp.arange(1, len(values) + 1)
        return jax.lax.scan(add, (zeros, zeros), (counts, values))[0]

    stacked = [jax.vmap(block)(jnp.asarray(part)) for part in (draws, differences)]
    return Moments(*stacked[0], *stacked[1])


@pytest.mark.usefixtures("x64")
def test_signal_to_noise_and_variance_are_those_of_the_draws():
    rng, mean = np.random.default_rng(0), np.array([0.5, -0.2, 0.0])
    scale = np.array([1.0, 2.0, 0.5])
    draws = mean + scale * rng.normal(size=(BLOCKS, 200, 3))
    found = gradient_lab.summarize(
        _moments(draws, np.zeros_like(draws)), reference=None, num_draws=BLOCKS * 200
    )["phi"]
    np.testing.assert_allclose(found.variance, draws.reshape(-1, 3).var(axis=0, ddof=1).sum())
    exact = np.sqrt(np.sum(mean**2) / np.sum(scale**2))
    assert abs(found.snr - exact) < 4 * found.snr_se
    assert 0.5 < found.snr_se / (1 / np.sqrt(BLOCKS * 200)) < 2.0


def test_bias_statistic_is_standard_without_a_bias_and_sees_one():
    rng = np.random.default_rng(1)
    null = [gradient_lab.bias_statistic(rng.standard_t(4, (BLOCKS, 300))) for _ in range(400)]
    assert abs(np.mean(null)) < 4 / np.sqrt(400)
    assert 0.8 < np.std(null) < 1.25
    assert np.mean(np.array(null) > gradient_lab.Z_LIMIT) < 0.02
    shift = np.full(300, 0.2)
    assert gradient_lab.bias_statistic(shift + rng.normal(size=(BLOCKS, 300))) > 6.0


def test_slope_is_the_exponent():
    sizes = [1, 5, 50, 500]
    np.testing.assert_allclose(gradient_lab.slope(sizes, [3 * k**-0.5 for k in sizes]), -0.5)
    assert gradient_lab.slope([5], [1.0]) is None


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The linear-Gaussian model on digits, at its initial parameters."""
    out = tmp_path_factory.mktemp("gradients")
    config = small_config(**LINEAR | {"model__latent_dims": (2,)})
    pairs = "iwae:pathwise,iwae:doubly_reparameterized,iwae:stl"
    settings = Settings(settings_lib.parse_pairs(pairs), (2, 32), num_draws=200, num_examples=4)
    return out, gradient_run.measure_config(config, out, settings, console=QUIET)


def test_laboratory_tells_sound_from_unsound(result):
    rows = {(row["pair"], row["num_samples"]): row for row in result[1]["rows"]}
    assert len(rows) == 6
    for size in (2, 32):
        assert rows["iwae:stl", size]["phi"]["biased"]
        assert not rows["iwae:doubly_reparameterized", size]["phi"]["biased"]
        assert rows["iwae:pathwise", size]["phi"]["bias_z"] is None
        assert not any(rows[pair, size]["theta"]["biased"] for pair, k in rows if k == size)
        assert rows["iwae:stl", size]["seconds"] > 0


def test_laboratory_shows_what_rainforth_and_tucker_found(result):
    """Pathwise phi-SNR falls with K, the doubly reparameterised one is above it at each K."""
    snr = {(r["pair"], r["num_samples"]): r["phi"]["snr"] for r in result[1]["rows"]}
    assert snr["iwae:pathwise", 32] < snr["iwae:pathwise", 2]
    for size in (2, 32):
        assert snr["iwae:doubly_reparameterized", size] > snr["iwae:pathwise", size]


def test_laboratory_writes_json_a_figure_and_a_table(result):
    out, found = result
    assert json.loads((out / "gradients.json").read_text())["rows"][0]["num_samples"] == 2
    assert (out / "figures" / "gradients.png").stat().st_size > 10_000
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(gradient_run.table(found))
    text = console.export_text()
    assert "reference" in text
    assert "*" in text
    assert len(gradient_run.summary_lines(found)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "iwae": "needs bound:estimator, got 'iwae'",
        "iwea:pathwise": "did you mean 'iwae'",
        "iwae:dreg": "unknown 'dreg'",
        "renyi(alfa=2):pathwise": "did you mean 'alpha'",
        "iwae:closed_form_kl": "form of the elbo alone",
        ",": "needs at least one",
    }.items(),
)
def test_bad_pairs_are_named(text, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        settings_lib.parse_pairs(text)


def test_all_means_every_pair_that_can_be():
    pairs = settings_lib.parse_pairs("all")
    labels = [pair.label for pair in pairs]
    assert "cubo(order=2.0):doubly_reparameterized" in labels
    assert "iwae:closed_form_kl" not in labels
    first, second = settings_lib.parse_pairs("renyi(alpha=0.25):stl,elbo:stl")
    assert first.label == "renyi(alpha=0.25):stl"
    assert second == Pair(bounds.parse("elbo"), gradients.parse("stl"))


def test_every_estimator_is_compared_with_one_that_is_its_own_reference():
    for name, gradient in gradients.GRADIENTS.items():
        reference = gradients.GRADIENTS[gradient.reference]
        assert reference.reference == gradient.reference
        assert reference.own_objective == gradient.own_objective, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir of a run, or --config with --out"),
        (["--workdir=nowhere"], "nowhere holds no run"),
        (["--workdir=nowhere", "--num_samples=5,x"], "needs whole numbers"),
        (["--workdir=nowhere", "--config=configs/digits.py"], "--config: the run in --workdir"),
        (
            ["--workdir=nowhere", "--config.model.latent_dims=(2,)"],
            "--config.model.latent_dims: the run in --workdir",
        ),
        (
            ["--out=o", "--config=configs/digits.py", "--config.objective.beta=0.5"],
            "--config.objective.beta: has no effect on gradients",
        ),
        (
            ["--out=o", "--config=configs/digits.py", "--config.training.start_from=nowhere"],
            "config.training.start_from: nowhere holds no run",
        ),
        (["--out=o", "--config=configs/digits.py", "--num_draws=50"], "multiple of 20"),
        (
            ["--out=o", "--config=configs/digits.py", "--estimators=miwae:stl", "--num_samples=3"],
            "num_groups: must divide num_samples = 3, got 2",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
    finished = run_script("gradients.py", *arguments)
    assert finished.code == 2
    assert message in finished.err
    assert finished.err.count("\n") == 1


def _measured(config, out):
    settings = Settings(settings_lib.parse_pairs("elbo:stl"), (1,), num_draws=40, num_examples=2)
    return gradient_run.measure_config(config, out, settings, console=QUIET)["rows"][0]["phi"]


@pytest.mark.slow
def test_start_from_is_where_the_gradients_are_measured(tmp_path, monkeypatch):
    """At q = posterior sticking the landing has no variance: only that start can show it."""
    config = small_config(**LINEAR | {"training__start_from": str(tmp_path)})
    _, params = evidence_models.linear(num_latents=3, size=64, perturbation=0.0)
    exact = linear_gaussian.exact_posterior(linear_gaussian.of(params))
    params = params | {"inference": linear_gaussian.inference_params(exact)}
    before = _measured(config_lib.override(config, "training.start_from", None), tmp_path)
    given = lambda config, spec, *, console: params if config.training.start_from else None
    monkeypatch.setattr(gradient_run.runs, "start_params", given)
    assert _measured(config, tmp_path)["variance"] < 1e-6 * before["variance"]


def test_wake_phi_at_the_posterior_has_no_gradient_whatever_beta():
    """E of the gradient of phi is 0 where q(z|x) = p(z|x): w~ must not be tempered by beta.

    The score has mean 0 under the posterior; with tempered weights one coordinate's was 0.292
    +- 0.005 at beta = 0.5.
    """
    model, params = evidence_models.linear(size=4)
    exact = linear_gaussian.exact_posterior(linear_gaussian.of(params))
    params = params | {"inference": linear_gaussian.inference_params(exact)}
    x = evidence_models.simulate(params, jax.random.key(1), model=model, count=1)[0]
    target = surrogates.Target(bounds.make("iwae"), num_samples=4, beta=0.5)

    @jax.jit
    @jax.vmap
    def draw(key):
        def objective(params):
            surrogate = gradients.surrogate(gradients.parse("wake_phi"))
            return surrogate(params, key, x, model=model, target=target)[0]

        return ravel_pytree(jax.grad(objective)(params)["inference"])[0]

    drawn = np.asarray(draw(jax.random.split(jax.random.key(2), 40_000)), np.float64)
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (error < 0.02 * drawn.std(axis=0).max()).all()
    assert (np.abs(drawn.mean(axis=0)) < 4 * error).all()
