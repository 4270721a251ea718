"""The experiments of vaejax.explain: exact oracles, contracts, files and the page."""

import functools
import itertools
import json
import math
import re
import shutil
import types

import browser
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, model_config, perturbed, small_config
from matplotlib.figure import Figure
from rich.console import Console
from run_script import run_script
from sklearn.decomposition import PCA

from vaejax import config as config_lib
from vaejax import schema
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.experiment import cli
from vaejax.explain import (
    closed_forms,
    density_pictures,
    fixed_model,
    identity,
    measure,
    plane,
    train,
    trained_model,
)
from vaejax.explain import config as explain_config
from vaejax.explain import page as explain_page
from vaejax.explain import run as explain_run
from vaejax.explain.experiments import EXPERIMENTS
from vaejax.models import latent_variable, linear_gaussian
from vaejax.objectives import importance
from vaejax.storage import files
from vaejax.training import step as training
from vaejax.types import DataSpec

TINY = {
    "identity": {
        "num_examples": 2,
        "num_epochs": 1,
        "hidden_units": 4,
        "grid_nodes": 161,
        "nodes_under_q": 64,
    },
    "fixed_model": {"num_examples": 20, "num_latents": 3, "num_steps": 40, "num_records": 4},
    "trained_model": {
        "num_epochs": 2,
        "num_examples": 3,
        "hidden_units": 4,
        "grid_nodes": 181,
        "nodes_under_q": 48,
    },
    "reconstruction": {
        "num_epochs": 2,
        "latent_dim": 2,
        "hidden_units": 8,
        "num_examples": 8,
        "num_samples": 50,
        "num_temperatures": 4,
        "num_chains": 8,
        "grid_nodes": 61,
    },
    "density": {
        "names": ("moons",),
        "num_steps": 30,
        "batch_size": 8,
        "num_samples": 2,
        "hidden_units": 8,
        "num_records": 3,
        "grid_nodes": 61,
        "test_samples": 100,
    },
    "maximum_likelihood": {"num_latents": 1, "elbo_epochs": 40, "bound_epochs": 20},
    "tighter_bounds": {
        "num_epochs": 2,
        "latent_dim": 2,
        "hidden_units": 8,
        "num_examples": 6,
        "num_samples": 50,
        "num_temperatures": 4,
        "num_chains": 8,
        "gap_steps": 4,
        "gap_samples": 2,
    },
    "richer_parts": {
        "posteriors": ("full_normal",),
        "priors": ("mixture(num_components=3)",),
        "num_seeds": 2,
        "num_epochs": 2,
        "latent_dim": 2,
        "hidden_units": 8,
        "num_examples": 6,
        "num_samples": 50,
        "num_temperatures": 4,
        "num_chains": 8,
        "gap_steps": 4,
        "gap_samples": 2,
    },
}


def tiny(name):
    """The smallest budget of an experiment."""
    return EXPERIMENTS[name].Config(**TINY[name])


@pytest.fixture(scope="module")
def found():
    """Findings of every experiment at the smallest budget."""
    return {name: module.compute(tiny(name), seed=0) for name, module in EXPERIMENTS.items()}


def test_the_closed_form_maximum_is_scikit_learns_and_no_neighbour_is_better():
    x = np.random.default_rng(0).normal(size=(300, 7)) @ np.diag([3, 2, 1.5, 1, 0.5, 0.4, 0.3])
    generative, value = closed_forms.maximum_likelihood(x, 3)
    # scikit-learn divides the covariance by N - 1: a lower likelihood, by about D / (4 N^2).
    assert 0 <= value - PCA(3, svd_solver="full").fit(x).score(x) < 1e-4
    with jax.enable_x64(True):
        mean = jax.jit(lambda g: jax.vmap(lambda r: linear_gaussian.log_marginal(g, r))(x).mean())
        np.testing.assert_allclose(mean(generative), value, rtol=1e-12)
        np.testing.assert_allclose(mean(closed_forms.rotated(generative, 1)), value, rtol=1e-12)
        for seed in range(5):
            assert mean(perturbed(generative, jax.random.key(seed), 1e-3)) < value


def _linear_model():
    """A small linear-Gaussian model away from its start, and five rows of data; float64.

    Returns:
      The model, its parameters, the same as `LinearGaussian` and `LinearPosterior`, and x.
    """
    config = model_config(
        latent_dims=(2,),
        encoder="linear",
        posterior="full_normal(shared_scale=True)",
        likelihood="normal",
    )
    model = latent_variable.build(config, DataSpec((2, 3, 1), np.linspace(0.1, 0.9, 6)))
    params = measure.in_float64(perturbed(model.init(jax.random.key(1)), jax.random.key(2)))
    params["generative"]["likelihood"] = {"log_scale": np.float64(-0.9)}
    params = jax.tree.map(jnp.asarray, params)
    parts = linear_gaussian.of(params), linear_gaussian.posterior_of(params)
    return model, params, parts, jnp.asarray(np.random.default_rng(3).normal(size=(5, 2, 3, 1)))


@pytest.mark.slow
def test_the_closed_forms_agree_with_the_model_and_with_sampling(x64):
    model, params, (linear, q), x = _linear_model()
    exact = np.array([model.log_marginal(params, row) for row in x])
    own = [closed_forms.log_marginal(linear, row) for row in x]
    np.testing.assert_allclose(own, exact, rtol=1e-12)
    elbos = np.array([closed_forms.elbo(linear, q, row) for row in x])
    kls = np.array([closed_forms.kl(linear, q, row) for row in x])
    np.testing.assert_allclose(elbos + kls, exact, rtol=1e-12)
    draw = functools.partial(importance.sample_log_weights, params, model=model, num_samples=20_000)
    draws = np.asarray(jax.jit(draw)(jax.random.key(0), x[0]))
    assert abs(draws.mean() - elbos[0]) < 4 * draws.std() / math.sqrt(len(draws))
    assert abs(closed_forms.kl(linear, linear_gaussian.exact_posterior(linear), x[0])) < 1e-10


@pytest.mark.slow
def test_the_best_diagonal_normal_reaches_the_closed_form_kl(x64):
    _, _, (linear, _), x = _linear_model()
    precision = jnp.eye(2) + linear.weights.T @ linear.weights * jnp.exp(-2 * linear.log_scale)
    factor = jnp.diag(jnp.diag(precision) ** -0.5)
    best = linear_gaussian.exact_posterior(linear)._replace(factor=factor)
    least = closed_forms.best_diagonal_kl(linear)
    np.testing.assert_allclose(closed_forms.kl(linear, best, x[0]), least, rtol=1e-10)
    assert least > 0.01


@pytest.mark.slow
def test_the_plane_integrates_a_linear_gaussian_model_exactly(x64):
    """log p(x), ELBO and KL by quadrature against the closed forms of the same model."""
    model, params, (linear, q), x = _linear_model()
    width = max(float(plane.reach(params, row, model=model)) for row in x)
    for rule in (plane.trapezoidal(width, 161), plane.gauss_legendre(width, 161)):
        for row in x:
            joint = plane.log_joint(params, row, rule, model=model)
            log_q = plane.log_posterior(params, row, rule, model=model)
            exact = closed_forms.log_marginal(linear, row), closed_forms.kl(linear, q, row)
            np.testing.assert_allclose(plane.log_marginal(joint, rule), exact[0], atol=1e-9)
            np.testing.assert_allclose(plane.kl(joint, log_q, rule), exact[1], atol=1e-9)
    elbo = plane.elbo(params, x[0], model=model, num_nodes=8)
    np.testing.assert_allclose(elbo, closed_forms.elbo(linear, q, x[0]), atol=1e-9)


def test_identity_leaves_nothing_over(found):
    terms = found["identity"]
    assert terms.linear.residual().max() < 1e-8
    assert terms.vae.residual().max() < 1e-5
    assert min(terms.linear.kl.min(), terms.vae.kl.min()) > 0.0
    area = (terms.axis[1] - terms.axis[0]) ** 2
    for density in (terms.posterior, terms.approximation):
        np.testing.assert_allclose(density.sum(axis=(1, 2)) * area, 1.0, atol=1e-5)


def test_a_fixed_model_has_a_fixed_sum_and_training_reaches_the_best_q():
    config = fixed_model.Config(num_examples=50, num_latents=6, num_steps=2000, num_records=3)
    findings = fixed_model.compute(config, seed=0)
    assert findings.residual < 1e-8
    assert np.ptp(findings.elbo + findings.kl) < 1e-8
    last = findings.num_diagonal - 1
    assert -1e-9 < findings.kl[last] - findings.best_diagonal_kl < 5e-3
    assert 0 <= findings.kl[-1] < 1e-3 < findings.kl[last]
    assert findings.elbo[-1] > findings.elbo[last] > findings.elbo[0]


def test_trained_model_measures_parts_that_add_up(found):
    findings = found["trained_model"]
    assert len(findings.elbo) == 3
    assert findings.residual()[1:].max() < 1e-5
    assert (findings.kl > 0).all()
    split = trained_model.numbers(findings)
    total = sum(split[key] for key in split if key.startswith("share"))
    np.testing.assert_allclose(total, 1.0, atol=1e-2)


def test_maximum_likelihood_is_reached_and_never_passed(found):
    findings = found["maximum_likelihood"]
    assert abs(findings.best - findings.sklearn) < 1e-4
    for run in findings.runs.values():
        assert (run.log_marginal <= findings.best + 1e-9).all()
        assert (run.elbo <= run.log_marginal + 1e-9).all()
        assert run.log_marginal[0] < findings.best - 5.0
        assert run.log_marginal[-1] > findings.best - 0.05
        assert run.angle < 5.0


def test_records_of_minimize_do_not_change_its_path():
    loss = lambda params: jnp.sum((params - 1.0) ** 2)
    start = jnp.zeros(2)
    few = train.minimize(loss, start, record_at=(0, 20), learning_rate=0.1)
    many = train.minimize(loss, start, record_at=(0, 3, 9, 20), learning_rate=0.1)
    np.testing.assert_array_equal(few[0], start)
    np.testing.assert_array_equal(few[-1], many[-1])
    assert loss(many[1]) > loss(many[2]) > loss(many[3])
    assert train.log_spaced(100, 5)[0] == 0
    assert train.log_spaced(100, 5)[-1] == 100


@pytest.mark.slow
def test_training_in_memory_is_that_of_the_library():
    """Epoch by epoch the parameters of `training.step`, and one program for all betas."""
    settings = small_config(training__num_epochs=2)
    data = splits.training_data(settings)
    model = latent_variable.build(settings.model, data.spec)
    course = list(train.epochs(settings, data.images, model=model, kind=data.kind))
    assert len(course) == 3
    plan = training.make_plan(settings, len(data.images), data.kind)
    state = training.init_state(settings, model=model)
    for params in course:
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.params, params)
        state, _ = training.train_call(
            state, jnp.asarray(data.images), config=settings, model=model, plan=plan
        )
    compiled = train._call._cache_size()
    other = config_lib.override(settings, "objective.beta", 0.25)
    last = train.trained(other, data, model=model)
    assert train._call._cache_size() == compiled
    away = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), last, course[-1])
    assert max(jax.tree.leaves(away)) > 1e-4


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_answers_its_question(name, found):
    """Three sentences and a headline with numbers, finite plain numbers, drawn pictures."""
    module, findings = EXPERIMENTS[name], found[name]
    assert module.QUESTION.endswith("?")
    numbers = module.numbers(findings)
    for value in schema.flatten(json.loads(json.dumps(numbers))).values():
        for number in value if isinstance(value, list) else [value]:
            assert isinstance(number, str) or math.isfinite(number)
    sentences = module.sentences(findings)
    assert len(sentences) == 3
    assert all(sentence.endswith(".") for sentence in sentences)
    assert any(re.search(r"\d", sentence) for sentence in sentences)
    headline = module.headline(findings)
    assert re.search(r"\d", headline)
    assert len(headline) <= 90
    assert "\n" not in headline
    pictures = module.pictures(findings)
    assert pictures
    for picture in pictures.values():
        assert len(picture.caption) > 20
        if isinstance(picture.image, Figure):
            assert any(axes.has_data() for axes in picture.image.axes)
        else:
            assert picture.image[:3] == b"GIF"


def test_every_experiment_has_a_section_and_a_tiny_budget():
    config = explain_config.load(str(ROOT / "configs" / "explain.py"))
    assert {*TINY} == {*EXPERIMENTS} == {*vars(config)}


def test_overrides_are_parsed_and_refused():
    config = cli.override(
        explain_config.Config(), {"identity.num_examples": "4", "fixed_model.learning_rate": "1e-2"}
    )
    assert (config.identity.num_examples, config.fixed_model.learning_rate) == (4, 0.01)
    bad = {
        "identity.num_exampels": "did you mean 'identity.num_examples'",
        "identity.num_examples": "config.identity.num_examples: needs a whole number, got 'many'",
    }
    for path, message in bad.items():
        with pytest.raises(UserError, match=re.escape(message)):
            cli.override(explain_config.Config(), {path: "many"})


@pytest.fixture(scope="module")
def workdir(found, tmp_path_factory):
    """A folder after a run of every experiment at the smallest budget."""
    folder = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in EXPERIMENTS.items():
            patch.setattr(module, "compute", lambda config, *, seed, name=name: found[name])
        config = explain_config.Config(**{name: tiny(name) for name in EXPERIMENTS})
        explain_run.explain(config, folder, console=Console(quiet=True))
    return folder


def test_a_run_writes_everything_it_promises(workdir):
    entries = json.loads((workdir / "explain.json").read_text())
    assert [*entries] == [*EXPERIMENTS]
    for name, entry in entries.items():
        assert entry["config"] | files.plain(TINY[name]) == entry["config"]
        assert (entry["seed"], entry["question"]) == (0, EXPERIMENTS[name].QUESTION)
        for figure in entry["figures"]:
            assert (workdir / figure["file"]).stat().st_size > 5000


def test_a_later_run_keeps_the_other_entries(workdir, found, monkeypatch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(workdir, folder)
    before = json.loads((folder / "explain.json").read_text())
    monkeypatch.setattr(identity, "compute", lambda config, *, seed: found["identity"])
    console = Console(quiet=True)
    explain_run.explain(explain_config.Config(), folder, only=["identity"], seed=3, console=console)
    after = json.loads((folder / "explain.json").read_text())
    assert [*after] == [*before]
    assert after["identity"]["seed"] == 3
    assert {k: v for k, v in after.items() if k != "identity"} == {
        k: v for k, v in before.items() if k != "identity"
    }
    broken = found["identity"].vae._replace(elbo=np.array([np.nan, 0.0]))
    monkeypatch.setattr(
        identity, "compute", lambda config, *, seed: found["identity"]._replace(vae=broken)
    )
    with pytest.raises(UserError, match=r"identity: VAE\.elbo_nats is nan"):
        explain_run.explain(explain_config.Config(), folder, only=["identity"], console=console)
    assert json.loads((folder / "explain.json").read_text()) == after
    (folder / "explain.json").write_text("[1]")
    with pytest.raises(UserError, match=r"is no result of scripts/explain\.py"):
        explain_run.explain(explain_config.Config(), folder, only=["identity"], console=console)
    assert (folder / "explain.json").read_text() == "[1]"


def test_names_of_ceilings_that_lie_close_do_not_touch():
    entropies = {"mixture": 1.54, "moons": 2.36, "pinwheel": 2.14, "checkerboard": 2.78}
    courses = {
        name: types.SimpleNamespace(entropy=entropy, kl=np.array([37.0, 0.5, 0.01]))
        for name, entropy in entropies.items()
    }
    figure = density_pictures._distance((0, 10, 6000), courses)
    figure.canvas.draw()
    names = {text.get_text(): text.get_window_extent() for text in figure.axes[1].texts}
    assert {*names} == {*entropies}
    boxes = sorted(names.values(), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))


def test_misuse_is_one_line_and_exit_code_2(tmp_path):
    finished = run_script("explain.py", f"--workdir={tmp_path}", "--only=identity,reconstructoin")
    assert finished.code == 2
    assert len(finished.err.strip().splitlines()) == 1
    assert "--only: unknown 'reconstructoin'" in finished.err
    assert ", ".join(EXPERIMENTS) in finished.err
    assert not any(tmp_path.iterdir())


def test_numbers_are_written_as_a_reader_would():
    assert explain_page.words("elbo_nats") == "ELBO (nats)"
    assert explain_page.words("log_marginal_nats") == "log p(x) (nats)"
    assert [explain_page.number(value) for value in (3, 0.0, -1.23456, 3e-14)] == [
        "3",
        "0.000",
        "-1.235",
        "3.0e-14",
    ]


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")
def test_the_page_shows_every_figure_in_a_browser(workdir, tmp_path):
    """Every embedded figure decodes, every link of the contents leads somewhere."""
    script = """
<script>addEventListener("load", () => {
  const widths = [...document.images].map(image => image.naturalWidth);
  const links = [...document.querySelectorAll("nav a")].map(
    link => document.querySelector(link.getAttribute("href")) !== null);
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.result = JSON.stringify({widths, links, wide});
});</script></body>"""
    result = browser.found((workdir / "explain.html").read_text(), script, tmp_path)
    entries = json.loads((workdir / "explain.json").read_text())
    assert len(result["widths"]) == sum(len(entry["figures"]) for entry in entries.values())
    assert min(result["widths"]) > 200
    assert result["links"] == [True] * len(EXPERIMENTS)
    assert not result["wide"]
