"""The evidence command, end to end, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import small_config
from rich.console import Console
from run_script import run_script

from vaejax import config as config_lib
from vaejax.errors import UserError
from vaejax.evidence import estimators as evidence
from vaejax.runs import evidence as evidence_run
from vaejax.runs import tasks as evidence_tasks
from vaejax.training import loop as train_run
from vaejax.training import runs
from vaejax.types import DataSpec

QUIET = Console(quiet=True)
CHAINS = {"num_temperatures": 4, "num_chains": 5, "num_leapfrog": 2, "pilot_examples": 2}
CHAINS |= {"pilot_temperatures": 2, "pilot_moves": 2}
BUDGETS = {
    "importance": {"num_samples": 40, "chunk_size": 20},
    "annealed": CHAINS,
    "bidirectional": CHAINS | {"num_simulated": 3},
    "smc": CHAINS | {"num_repeats": 3, "num_particles": 6},
    "quadrature": {"num_nodes": 8},
    "gaps": {"num_steps": 5, "num_samples": 2, "elbo_samples": 20},
}
OVERRIDES = {
    f"evidence.{name}.{key}": value
    for name, budget in BUDGETS.items()
    for key, value in budget.items()
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_directory):
    """A trained run with three latents."""
    folder = tmp_path_factory.mktemp("run")
    train_run.train(small_config(training__num_epochs=1), folder, console=QUIET)
    return folder


@pytest.fixture(scope="module")
def result(workdir):
    """Four estimators, and the gaps, on six examples."""
    return evidence_run.evaluate(
        workdir,
        estimators=("importance", "annealed", "bidirectional", "quadrature"),
        gaps=True,
        num_examples=6,
        overrides=OVERRIDES,
        console=QUIET,
    )


def test_every_number_says_what_it_is(workdir, result):
    assert json.loads((workdir / "evaluation.json").read_text()) == result
    labels = {name: row["label"] for name, row in result["estimates"].items()}
    assert labels["elbo"] == labels["iwae_20"] == labels["annealed"] == "lower bound"
    assert labels["quadrature"] == "estimate"
    assert labels["jackknife"] == "estimate, not a bound"
    wanted = {"lower", "upper", "gap", "gap_se", "num_simulated", "valid"}
    assert wanted <= set(result["sandwich"])
    for name in ("annealed", "quadrature"):
        assert result["estimates"][name]["num_examples"] == 6
    assert 0 <= result["diagnostics"]["pareto_k_bad"] <= 1


def test_the_gaps_add_up(result):
    gaps = result["gaps"]
    assert gaps["log_marginal_from"] == "quadrature"
    for rows in (gaps, gaps["full_covariance"]):
        parts = rows["approximation"]["value"] + rows["amortization"]["value"]
        assert rows["inference"]["value"] == pytest.approx(parts, abs=1e-4)
        assert all(rows[part]["mc_se"] > 0 for part in ("approximation", "amortization"))


def test_per_example_values_and_figures_are_kept(workdir, result):
    with np.load(workdir / "evidence.npz") as arrays:
        assert arrays["annealed/value"].shape == (6,)
        assert arrays["gaps/elbo_full_covariance"].shape == (6, 2)
        assert len(arrays["unit_activity/layer_1"]) == 3
    for name in ("pareto_k", "gaps", "annealed_moves", "active_units"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 1000


def test_a_second_command_adds_and_a_batch_changes_nothing(workdir, result):
    before = result["estimates"]["annealed"]["value"]
    again = evidence_run.evaluate(
        workdir,
        estimators=("annealed",),
        num_examples=6,
        overrides=OVERRIDES | {"evidence.rows_per_call": 10},
        console=QUIET,
    )
    assert again["estimates"]["annealed"]["value"] == pytest.approx(before, abs=1e-3)
    assert again["estimates"]["quadrature"] == result["estimates"]["quadrature"]
    assert again["sandwich"] == result["sandwich"]


def _refused(workdir, **changes):
    options = {"estimators": (), "overrides": OVERRIDES} | changes
    with pytest.raises(UserError) as caught:
        evidence_run.evaluate(workdir, console=QUIET, **options)
    return str(caught.value)


def test_bad_requests_are_refused_before_anything_runs(workdir):
    assert "did you mean 'annealed'" in _refused(workdir, estimators=("anneald",))
    assert "no closed-form log p(x)" in _refused(workdir, estimators=("exact",))
    assert "must be in 2..360" in _refused(workdir, estimators=("importance",), num_examples=361)
    assert "belongs to the run" in _refused(workdir, overrides={"model.likelihood": "normal"})
    message = _refused(workdir, overrides={"evidence.annealed.num_chains": "one"})
    assert "config.evidence.annealed.num_chains" in message


def test_the_script_exits_with_2_and_one_line(workdir):
    done = run_script("evaluate.py", f"--workdir={workdir}", "--estimators=importance,qadrature")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "did you mean 'quadrature'" in done.err


def _task(**changes):
    config = small_config(model__latent_dims=(50,))
    model = runs.build_model(config, DataSpec((8, 8, 1), None))
    params = model.init(jax.random.key(0))
    task = evidence_tasks.Task(config, model, params, np.zeros((3, 64), np.float32), ())
    return dataclasses.replace(task, **changes)


def test_what_a_model_or_data_does_not_allow():
    with pytest.raises(UserError, match="this model has 50"):
        evidence_tasks.check(_task(estimators=("quadrature",)))
    broken = np.zeros((3, 64), np.float32)
    broken[1, 5] = np.nan
    with pytest.raises(UserError, match="not finite, the first is number 1"):
        evidence_tasks.check(_task(x=broken))
    unsampled = _task(estimators=("bidirectional",))
    unsampled = dataclasses.replace(
        unsampled, model=unsampled.model._replace(sample_likelihood=None)
    )
    with pytest.raises(UserError, match="has no sample_likelihood"):
        evidence_tasks.check(unsampled)


def test_every_estimator_has_its_budget_in_the_config():
    settings = config_lib.Config().evidence
    for name, module in evidence.ESTIMATORS.items():
        assert isinstance(getattr(settings, name), module.Config)
