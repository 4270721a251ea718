"""Settings by estimators of log p(x) beside L_K: known answers, what cannot be compared, a run."""

import shutil
import types

import numpy as np
import pytest
from comparison_runs import make_setting
from rich.console import Console
from run_script import run_script

from vaejax.comparison import estimators
from vaejax.comparison import run as compare_run
from vaejax.evaluation.results import EvidenceProtocol
from vaejax.runs import evaluate as evaluate_run
from vaejax.runs import files

N = 25


def _stored(log_marginal, missed, *, seed=0, budget=16, names=("annealed", "jackknife")):
    """Files of a run whose L_20 lies `missed` below log p(x); seeds differ by some noise."""
    noise = 1e-3 * np.random.default_rng(int(1000 * abs(missed)) + 7).normal(size=N)
    values = dict.fromkeys(names, log_marginal) | {"iwae_20": log_marginal - missed + noise}
    arrays = {f"{name}/value": value for name, value in values.items()}
    arrays |= {f"{name}/variance": np.full(N, 1e-4) for name in values}
    about = {"annealed": {"budget": {"num_chains": budget}}, "importance": {"budget": {}}}
    rows = {name: types.SimpleNamespace(do_not_trust=0.25) for name in (*names, "importance")}
    rows["iwae_20"] = types.SimpleNamespace(do_not_trust=None)
    result = types.SimpleNamespace(
        protocol=types.SimpleNamespace(num_samples=20),
        evidence=types.SimpleNamespace(protocol=EvidenceProtocol(N, seed), about=about),
        estimates=rows,
    )
    return types.SimpleNamespace(result=result, evidence_arrays=arrays)


def _three():
    """The baseline; a worse q of the same model; a better model with a q as good."""
    parts = [make_setting(name, [0.0]) for name in ("base", "worse q", "better model")]
    log_marginal = np.linspace(-30.0, -20.0, N)
    files_of = [
        _stored(log_marginal, 1.0),
        _stored(log_marginal, 3.0),
        _stored(log_marginal + 0.5, 1.0),
    ]
    names = [part.runs[0].name for part in parts]
    return parts, dict(zip(names, files_of, strict=True))


def test_a_worse_q_and_a_better_model_are_told_apart():
    parts, stored = _three()
    shared = estimators.measured(stored)
    assert (shared.names, shared.top) == (["annealed", "jackknife"], "iwae_20")
    assert (shared.num_examples, shared.left_out) == (N, [])
    parts = estimators.settings(parts, stored, shared)
    table = estimators.table(parts, parts[0], stored, shared)
    assert table.headings[:4] == ["setting", "L_20", "annealed", "jackknife"]
    assert table.headings[-3:] == ["Δ L_20", "Δ annealed", "Δ jackknife"]
    rows = {row.cells[0]: dict(zip(table.headings, row.cells, strict=True)) for row in table.rows}
    assert rows["base"]["annealed"].startswith("-25.000 ± ")
    assert rows["base"]["annealed flagged"] == "25%"
    assert rows["base"]["Δ annealed"] == "baseline"
    assert rows["worse q"]["Δ L_20"] == "-2.000 ± 0.000"
    assert rows["worse q"]["Δ annealed"] == "(+0.000 ± 0.000)"
    assert rows["better model"]["Δ L_20"] == "+0.500 ± 0.000"
    assert rows["better model"]["Δ annealed"] == "+0.500 ± 0.000"
    (line,) = estimators.of_inference(parts, parts[0], shared)
    assert line.startswith(
        "worse q against base, first 25 examples: L_20 -2.000 ± 0.000, annealed +0.000 ± 0.000. "
        "What lies between, +2.000 ± 0.000, is owed to q(z|x) at this K"
    )


def test_what_rests_on_the_same_q_says_nothing_of_it():
    parts, stored = _three()
    for item in stored.values():
        del item.result.estimates["annealed"]
    shared = estimators.measured(stored)
    assert shared.names == ["jackknife"]
    parts = estimators.settings(parts, stored, shared)
    assert estimators.of_inference(parts, parts[0], shared) == []
    for item in stored.values():
        del item.result.estimates["jackknife"]
    assert estimators.measured(stored) is None  # L_K alone, which the first table has


@pytest.mark.parametrize(
    ("spoil", "names", "said"),
    [
        ({"budget": 8}, ["jackknife"], "by annealed: the runs spent unlike budgets on it."),
        ({"names": ("jackknife",)}, ["jackknife"], "by annealed: there is none of a,seed=0."),
        ({"seed": 1}, [], "by annealed, jackknife: of unlike examples (25 with seed 1 in a,seed=0"),
        (None, [], "by annealed, jackknife: there is none of a,seed=0."),
    ],
)
def test_what_is_not_alike_is_left_out_and_said(spoil, names, said):
    log_marginal = np.zeros(N)
    first = _stored(log_marginal, 1.0, **(spoil or {}))
    if spoil is None:
        first.result.evidence, first.result.estimates = None, {}
    shared = estimators.measured({"a,seed=0": first, "b,seed=0": _stored(log_marginal, 1.0)})
    assert shared.names == names
    assert shared.left_out[0].startswith(f"No comparison {said}")
    assert len(shared.left_out) == 1


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two small runs on the digits, trained and evaluated with AIS on 30 examples."""
    folder = tmp_path_factory.mktemp("two")
    for name, rate in (("a", 1e-3), ("b", 3e-3)):
        finished = run_script(
            "train.py",
            "--config=configs/digits.py",
            f"--workdir={folder / name}",
            "--config.model.latent_dims=(3,)",
            "--config.model.encoder=mlp(hidden_dims=(8,))",
            "--config.training.batch_size=200",
            "--config.training.num_epochs=3",
            "--config.evaluation.num_samples=20",
            f"--config.optimizer.learning_rate={rate}",
        )
        assert finished.code == 0, finished.err
        evaluate_run.evaluate(
            folder / name,
            estimators=["importance", "annealed"],
            num_examples=30,
            overrides={"evidence.annealed.num_temperatures": 5},
            console=Console(quiet=True),
        )
    return folder


def _compare(folder, out):
    console = Console(quiet=True, markup=False)
    paths = [str(folder / "a"), str(folder / "b")]
    return compare_run.compare(paths, baseline=None, out=out, force=False, console=console)


def test_a_report_compares_by_the_estimators_that_both_runs_have(two_runs, tmp_path):
    _compare(two_runs, tmp_path / "report")
    text = (tmp_path / "report" / "comparison.md").read_text()
    assert "log p(x) by other estimators, first 30 examples" in text
    values = [
        files.read(two_runs / name / "evaluation.json").evidence_arrays["annealed/value"]
        for name in "ab"
    ]
    delta = np.asarray(values[1], np.float64) - np.asarray(values[0], np.float64)
    expected = f"{delta.mean():+.3f} ± {delta.std(ddof=1) / np.sqrt(30):.3f}"
    assert expected in text.replace("&#43;", "+")
    assert "annealed" in (tmp_path / "report" / "index.html").read_text()


def test_other_examples_are_named_and_not_compared(two_runs, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(two_runs, copy)
    console = Console(quiet=True)
    evaluate_run.evaluate(copy / "b", estimators=["importance"], num_examples=20, console=console)
    report = _compare(copy, tmp_path / "report")
    (line,) = [line for line in report.lines if line.startswith("No comparison by ")]
    assert line == (
        "No comparison by jackknife, annealed: of unlike examples (30 with seed 0 in a, 20 with "
        "seed 0 in b)."
    )
    assert "other estimators" not in (tmp_path / "report" / "comparison.md").read_text()
