"""The evaluate command, end to end: what it writes, what it keeps, what it refuses."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import model_config, small_config
from rich.console import Console
from run_script import run_script

from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.evaluation import estimators, per_example, results, summary
from vaejax.evidence import budgets
from vaejax.models import latent_variable
from vaejax.runs import evaluate as evaluate_run
from vaejax.runs import files, settings, tables
from vaejax.runs.settings import Request
from vaejax.training import train
from vaejax.types import DataSpec

QUIET = Console(quiet=True)
CHAINS = {"num_temperatures": 4, "num_chains": 5, "num_leapfrog": 2, "pilot_examples": 2}
CHAINS |= {"pilot_temperatures": 2, "pilot_moves": 2}
BUDGETS = {
    "annealed": CHAINS,
    "bidirectional": CHAINS | {"num_simulated": 3},
    "smc": CHAINS | {"num_repeats": 3, "num_particles": 6},
    "quadrature": {"num_nodes": 8},
    "gaps": {"num_steps": 5, "num_samples": 2, "elbo_samples": 20},
}


def _overrides(*names):
    return {f"evidence.{n}.{key}": value for n in names for key, value in BUDGETS[n].items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_directory):
    """A trained run with three latents."""
    folder = tmp_path_factory.mktemp("run")
    train.train(small_config(training__num_epochs=1), folder, console=QUIET)
    return folder


@pytest.fixture(scope="module")
def result(trained):
    """Four estimators, and the gaps, on six examples."""
    return evaluate_run.evaluate(
        trained,
        estimators=("importance", "annealed", "bidirectional", "quadrature"),
        gaps=True,
        num_examples=6,
        overrides=_overrides("annealed", "bidirectional", "quadrature", "gaps"),
        console=QUIET,
    )


@pytest.fixture
def workdir(trained, result, tmp_path):
    """A copy of the run with its evidence."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def _again(workdir, **options):
    """Evaluates once more; returns the result and what was said."""
    console = Console(file=io.StringIO(), width=10_000)
    found = evaluate_run.evaluate(workdir, console=console, **options)
    return found, console.file.getvalue()


def test_every_number_says_what_it_is(trained, result):
    assert json.loads((trained / "evaluation.json").read_text()) == results.to_json(result)
    labels = {name: row.label for name, row in result.estimates.items()}
    assert labels["elbo"] == labels["iwae_20"] == labels["annealed"] == "lower bound"
    assert labels["quadrature"] == "estimate"
    assert labels["jackknife"] == "estimate, not a bound"
    assert result.sandwich.num_simulated == 3
    for name in ("importance", "annealed", "quadrature"):
        assert result.estimates[name].num_examples == 6
        assert 0 <= result.estimates[name].do_not_trust <= 1
    assert result.estimates["elbo"].do_not_trust is None
    assert set(result.diagnostics.divergent_moves) == {"annealed", "bidirectional"}


def test_the_protocol_says_how_it_was_measured(result):
    protocol = result.protocol
    assert (protocol.precision, protocol.training_precision) == ("highest", "default")
    assert (protocol.dtype, protocol.finished) == ("float32", True)
    assert len(protocol.params_sha256) == len(protocol.data_sha256) == 64


def test_importance_is_the_evaluation_itself(trained, result):
    """Not sampled again: its values are the first ones of the evaluation's L_K."""
    stored = files.read(trained / "evaluation.json")
    for row, name in (("importance", "iwae_20"), ("jackknife", "jackknife")):
        values = stored.arrays[f"value/{name}"][:6]
        np.testing.assert_array_equal(stored.evidence_arrays[f"{row}/value"], values)
        assert result.estimates[row].value == values.astype(np.float64).mean()
    assert result.evidence.same_examples["iwae_20"].value == result.estimates["importance"].value
    assert result.evidence.about["importance"]["budget"]["num_samples"] == 20


def test_the_gaps_add_up(result):
    gaps = result.gaps
    assert gaps.log_marginal_from == "quadrature"
    assert gaps.log_marginal.value == result.estimates["quadrature"].value
    assert list(gaps.by_family()) == ["the encoder's", "diagonal normal", "full normal"]
    for rows in gaps.by_family().values():
        parts = rows.approximation.value + rows.amortization.value
        assert rows.inference.value == pytest.approx(parts, abs=1e-4)
        assert rows.approximation.mc_se > 0
        assert rows.amortization.mc_se > 0


def test_gaps_that_were_made_without_the_encoders_family_are_read(result):
    old = results.to_json(result)
    del old["gaps"]["encoder_family"]
    gaps = results.from_json(old).gaps
    assert list(gaps.by_family()) == ["diagonal normal", "full normal"]
    assert tables.gaps_table(gaps).row_count == 2


def test_per_example_values_and_figures_are_kept(trained, result):
    with np.load(trained / "evaluation.npz") as arrays:
        assert arrays["value/iwae_20"].shape == arrays["mc_variance/iwae_20"].shape == (360,)
        assert arrays["ess"].shape == arrays["pareto_k"].shape == (360,)
    with np.load(trained / "evidence.npz") as arrays:
        assert arrays["annealed/value"].shape == arrays["annealed/trusted"].shape == (6,)
        assert arrays["gaps/elbo_full_covariance"].shape == (6, 2)
        assert arrays["gaps/elbo_encoder_family"].shape == (6, 2)
        assert len(arrays["unit_activity/layer_1"]) == 3
    for name in ("gaps", "annealed_moves", "active_units", "bounds", "reconstructions"):
        assert (trained / "figures" / f"{name}.png").stat().st_size > 1000


def test_a_second_command_adds_and_a_batch_changes_nothing(workdir, result):
    before = result.estimates["annealed"].value
    options = _overrides("annealed") | {"evidence.rows_per_call": 10}
    again, said = _again(workdir, estimators=("annealed",), num_examples=6, overrides=options)
    assert "dropped" not in said
    assert "anew" not in said
    assert again.estimates["annealed"].value == pytest.approx(before, abs=1e-3)
    assert again.estimates["quadrature"] == result.estimates["quadrature"]
    assert (again.sandwich, again.gaps) == (result.sandwich, result.gaps)


def test_plain_bounds_keep_the_evidence_of_their_protocol(workdir, result):
    again, said = _again(workdir)
    assert "dropped" not in said
    assert "anew" not in said
    assert results.to_json(again) == results.to_json(result)


def test_evidence_of_other_samples_is_read_again_or_dropped(workdir, result):
    """Another seed of the bounds: what reads them follows, what does not stays."""
    again, _ = _again(workdir, overrides={"evaluation.seed": "3"})
    assert again.protocol.seed == 3
    assert again.estimates["iwae_20"] != result.estimates["iwae_20"]
    own = again.evidence.same_examples["iwae_20"]
    assert again.estimates["importance"].value == own.value
    assert again.evidence.about["importance"]["budget"]["evaluation_seed"] == 3
    assert again.estimates["annealed"] == result.estimates["annealed"]
    assert again.gaps == result.gaps


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"overrides": {"evidence.seed": 5}}, "evidence.seed"),
        ({"num_examples": 5}, "evidence.num_examples"),
    ],
)
def test_evidence_of_another_protocol_never_stands_beside_the_new(workdir, options, what):
    options = {"num_examples": 6} | options
    overrides = _overrides("quadrature") | options.pop("overrides", {})
    again, said = _again(workdir, estimators=("quadrature",), overrides=overrides, **options)
    assert f"is dropped: it differs in {what}" in said
    assert set(again.evidence.about) == {"quadrature"}
    assert (again.sandwich, again.gaps) == (None, None)
    assert not {"annealed", "importance", "jackknife"} & set(again.estimates)
    arrays = files.read(workdir / "evaluation.json").evidence_arrays
    assert not any(name.startswith(("annealed", "lower", "gaps")) for name in arrays)


def test_evidence_of_another_checkpoint_is_dropped(workdir, result):
    path = workdir / "evaluation.json"
    stored = files.read(path)
    other = dataclasses.replace(stored.result.protocol, params_sha256="0" * 64)
    changed = dataclasses.replace(stored.result, protocol=other)
    files.publish(path, dataclasses.replace(stored, result=changed))
    again, said = _again(workdir)
    assert "is dropped: it differs in params_sha256" in said
    assert again.evidence is None
    assert not (workdir / "evidence.npz").exists()
    assert set(again.estimates) < set(result.estimates)


def test_gaps_go_when_their_log_p_changes(workdir, result):
    options = {"num_examples": 6, "estimators": ("quadrature",)}
    again, said = _again(workdir, overrides={"evidence.quadrature.num_nodes": 9}, **options)
    assert "the gaps of an earlier call are dropped" in said
    assert again.gaps is None
    assert "gaps" not in again.evidence.about
    assert again.estimates["annealed"] == result.estimates["annealed"]


@pytest.mark.parametrize("damage", ["evaluation.npz", "evidence.npz", "evaluation.json"])
def test_files_that_do_not_belong_together_are_made_anew(workdir, damage):
    path = workdir / damage
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError):
        files.read(workdir / "evaluation.json")
    again, said = _again(workdir)
    assert "evaluating anew" in said
    assert again.evidence is None
    assert files.read(workdir / "evaluation.json").result == again


def test_halves_of_two_evaluations_are_not_one(workdir):
    """As a kill between two renames would leave them."""
    before = (workdir / "evaluation.npz").read_bytes()
    _again(workdir, overrides={"evaluation.seed": 3})
    (workdir / "evaluation.npz").write_bytes(before)
    with pytest.raises(UserError, match="do not belong together"):
        files.read(workdir / "evaluation.json")


def test_evidence_arrays_of_another_call_are_not_ours(workdir):
    """Whole and readable, but not those that the JSON speaks of."""
    other = (workdir / "evidence.npz").read_bytes()
    _again(workdir, estimators=("quadrature",), num_examples=6)
    assert files.read(workdir / "evaluation.json") is not None
    (workdir / "evidence.npz").write_bytes(other)
    with pytest.raises(UserError, match="do not belong together"):
        files.read(workdir / "evaluation.json")


@pytest.mark.slow
def test_gaps_that_stand_on_the_bounds_go_with_them(workdir, result):
    """Without an estimator log p(x) is L_K of the evaluation: another seed, other gaps."""
    options = {"gaps": True, "num_examples": 5, "overrides": _overrides("gaps")}
    found, _ = _again(workdir, **options)
    assert found.gaps.log_marginal_from == "iwae_20"
    again, said = _again(workdir, overrides={"evaluation.seed": 3})
    assert "the gaps of an earlier call are dropped" in said
    assert again.gaps is None


def test_a_sweep_asks_whether_a_run_was_evaluated(workdir):
    config = small_config(training__num_epochs=1)
    ask = lambda config: evaluate_run.is_evaluated(workdir, config, "test")
    assert ask(config)
    assert not evaluate_run.is_evaluated(workdir, config, "validation")
    assert not ask(small_config(training__num_epochs=2))
    assert not ask(small_config(training__num_epochs=1, evaluation__seed=1))
    rows = evaluate_run.read_estimates(workdir, "test")
    assert rows["iwae_20"]["value"] == pytest.approx(rows["elbo"]["value"], abs=30)
    (workdir / "evaluation.npz").write_bytes(b"")
    assert not ask(config)


def test_an_unfinished_run_is_named_and_does_not_count(workdir):
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace('"num_epochs": 1', '"num_epochs": 9'))
    found, said = _again(workdir)
    assert "training is not finished" in said
    assert not found.protocol.finished
    assert not evaluate_run.is_evaluated(workdir, small_config(training__num_epochs=9), "test")


def _refused(config=None, **request):
    with pytest.raises(UserError) as caught:
        settings.resolve(config or Config(), Request(**request))
    return str(caught.value)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"estimators": ("anneald",)}, "did you mean 'annealed'"),
        ({"overrides": {"model.likelihood": "normal"}}, "belongs to the run"),
        ({"overrides": {"seed": "3"}}, "belongs to the run"),
        ({"overrides": {"evaluation.num_sample": "3"}}, "did you mean 'evaluation.num_samples'"),
        ({"overrides": {"evidence.anealed.num_chains": "3"}}, "evidence.annealed.num_chains"),
        ({"overrides": {"evaluation.seed": None}}, "needs a value"),
        ({"overrides": {"evaluation.num_samples": "0"}}, ">= 1"),
        ({"overrides": {"evidence.seed": "3"}}, "no effect without --estimators or --gaps"),
        ({"num_examples": 3}, "--num_examples: has no effect without"),
        (
            {"overrides": {"evidence.smc.num_moves": "1"}, "estimators": ("annealed",)},
            "no effect without --estimators=smc",
        ),
        (
            {"overrides": {"evidence.gaps.num_steps": "1"}, "estimators": ("annealed",)},
            "no effect without --gaps",
        ),
        (
            {"overrides": {"evaluation.num_samples": "5"}, "num_samples": 6},
            "say the same; give one of them",
        ),
        (
            {"overrides": {"evidence.annealed.num_chains": "one"}, "estimators": ("annealed",)},
            "config.evidence.annealed.num_chains",
        ),
    ],
)
def test_an_override_has_an_effect_or_is_refused(request_, expected):
    message = _refused(**request_)
    assert expected in message
    assert "\n" not in message


def test_overrides_and_short_flags_reach_the_budgets():
    found = settings.resolve(
        Config(),
        Request(
            estimators=("annealed",),
            overrides={"evaluation.seed": "4", "evidence.annealed.start": "prior"},
            num_samples=7,
            num_examples=9,
        ),
    )
    assert (found.evaluation.seed, found.evaluation.num_samples) == (4, 7)
    assert (found.evidence.annealed.start, found.evidence.num_examples) == ("prior", 9)
    assert found.evidence.smc == budgets.Evidence().smc


def test_bad_requests_are_refused_before_anything_is_computed(workdir, monkeypatch):
    monkeypatch.setattr(evaluate_run, "_measure", lambda *a, **k: pytest.fail("computed"))

    def refused(**options):
        with pytest.raises(UserError) as caught:
            evaluate_run.evaluate(workdir, console=QUIET, **options)
        return str(caught.value)

    assert "no closed-form log p(x)" in refused(estimators=("exact",))
    assert "must be in 2..360" in refused(estimators=("importance",), num_examples=361)
    assert "needs evaluation.num_samples >= 2" in refused(estimators=("importance",), num_samples=1)
    assert "unknown 'tset'" in refused(split="tset")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--estimators=importance,qadrature"], "did you mean 'quadrature'"),
        (["--config.seed=1"], "belongs to the run"),
        (["--config.evalation.seed=1"], "evaluation.seed"),
    ],
)
def test_the_script_exits_with_2_and_one_line(trained, arguments, expected):
    done = run_script("evaluate.py", f"--workdir={trained}", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err


def test_the_script_applies_overrides_without_estimators(workdir):
    done = run_script("evaluate.py", f"--workdir={workdir}", "--config.evaluation.num_samples=7")
    assert (done.code, done.err) == (0, "")
    assert "K = 7" in done.out
    assert json.loads((workdir / "evaluation.json").read_text())["protocol"]["num_samples"] == 7


def test_tables_show_everything(trained, result):
    console = Console(file=io.StringIO(), width=200)
    tables.show(result, console, with_evidence=True)
    text = console.file.getvalue()
    for word in ("jackknife", "quadrature", "sandwich on 3", "= approximation", "k-hat"):
        assert word in text
    assert "NOT FINITE" not in text
    broken = dataclasses.replace(result.estimates["elbo"], not_finite=2, value=float("nan"))
    named = dataclasses.replace(result, estimates=result.estimates | {"elbo": broken})
    tables.show(named, console, with_evidence=False)
    text = console.file.getvalue()
    assert "2 NOT FINITE" in text
    assert "elbo: 2 of 360 values are not finite" in text


def _task(**changes):
    fields = {"latent_dims": (50,), "encoder": "mlp(hidden_dims=(8,))"}
    model = latent_variable.build(model_config(**fields), DataSpec((8, 8, 1), None))
    task = estimators.Task(
        budgets=budgets.Evidence(),
        model=model,
        params=jax.eval_shape(model.init, jax.random.key(0)),
        x=np.zeros((3, 8, 8, 1), np.float32),
        num_samples=20,
        names=(),
    )
    return dataclasses.replace(task, **changes)


def test_what_a_model_or_data_does_not_allow():
    with pytest.raises(UserError, match="this model has 50"):
        estimators.check(_task(names=("quadrature",)))
    broken = np.zeros((3, 8, 8, 1), np.float32)
    broken[1, 5, 0, 0] = np.nan
    with pytest.raises(UserError, match="not finite, the first is number 1"):
        estimators.check(_task(x=broken))


def test_values_that_are_not_finite_reach_json_as_null(workdir):
    stored = files.read(workdir / "evaluation.json")
    values = stored.arrays["value/elbo"].copy()
    values[3] = np.nan
    row = summary.row(values, stored.arrays["mc_variance/elbo"], "lower bound")
    rows = stored.result.estimates | {"elbo": row}
    files.publish(
        workdir / "evaluation.json",
        dataclasses.replace(stored, result=dataclasses.replace(stored.result, estimates=rows)),
    )
    found = json.loads((workdir / "evaluation.json").read_text())["estimates"]["elbo"]
    assert (found["value"], found["not_finite"]) == (None, 1)
    again = files.read(workdir / "evaluation.json").result.estimates["elbo"]
    assert np.isnan(again.value)
    assert per_example.weights_of(stored.arrays, 2).ess.shape == (2,)
