"""Sweeps: their files and tables, and groups of members trained as one program."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import ROOT, small_config
from rich.console import Console

from vaejax.errors import UserError
from vaejax.sweeps import members as sweeps
from vaejax.sweeps import results as sweep_results
from vaejax.training import loop, runs, train
from vaejax.training.standing import Run, Surroundings

QUIET = Console(quiet=True)
RATE = "optimizer.learning_rate"


def test_helpers_make_lists_of_overrides():
    rates, seeds = sweeps.values(RATE, [0.1, 0.2]), sweeps.values("seed", [0, 1])
    assert sweeps.product(rates, seeds) == [
        {RATE: rate, "seed": seed} for rate in (0.1, 0.2) for seed in (0, 1)
    ]
    assert sweeps.zip(rates, seeds) == [{RATE: 0.1, "seed": 0}, {RATE: 0.2, "seed": 1}]
    assert sweeps.chain(rates, seeds) == rates + seeds
    drawn = sweeps.log_uniform(RATE, 1e-4, 1e-2, n=200, seed=3)
    logs = np.log([item[RATE] for item in drawn])
    assert drawn == sweeps.log_uniform(RATE, 1e-4, 1e-2, n=200, seed=3)
    assert np.log(1e-4) <= logs.min() < np.log(1.2e-4)
    assert np.log(0.8e-2) < logs.max() <= np.log(1e-2)
    # Uniform in the logarithm: the mean is the middle, within 4 standard errors.
    assert abs(logs.mean() - np.log(1e-3)) < 4 * np.log(100) / np.sqrt(12 * 200)


def test_names_say_what_differs():
    named = [{"name": "five", "objective.num_samples": 5}]
    items = sweeps.with_seeds(sweeps.product(named, sweeps.values(RATE, [0.1])), 2)
    assert [sweeps.label(item) for item in items] == [
        "five,learning_rate=0.1,seed=0",
        "five,learning_rate=0.1,seed=1",
    ]
    widths = {"model.latent_dims": (8, 4), "seed": 2}
    assert sweeps.label(widths) == "latent_dims=8-4,seed=2"
    assert sweeps.label({}) == "base"
    members = sweeps.members(small_config(), items)
    assert {sweep_results.setting_of(m)[1] for m in members} == {"five,learning_rate=0.1"}


BAD_SWEEPS = {
    "unknown key": ([{"optimizer.learning_rat": 1.0}], "did you mean 'optimizer.learning_rate'"),
    "bad value": ([{RATE: -1.0}], "must be finite and >= 0.0, got -1.0"),
    "bad type": ([{RATE: "fast"}], "needs a number, got 'fast'"),
    "between fields": (
        [{"objective.bound": "iwae", "objective.gradient": "closed_form_kl"}],
        "closed_form_kl is a form of the elbo alone",
    ),
    "empty": ([], "is empty"),
    "same folder": ([{"name": "A", "seed": 0}, {"name": "a", "seed": 1}], "capital letters alone"),
    "same name": ([{"name": "a", "seed": 0}, {"name": "a", "seed": 1}], "two members are called"),
    "same run": ([{"name": "a"}, {"name": "b"}], "'a' and 'b' are the same run"),
    "same parameters": (
        [{"name": "a"}, {"name": "b", "training.checkpoint_seconds": 1.0}],
        "differ in nothing that changes its parameters",
    ),
    "name of a file": ([{"name": "sweep.json", "seed": 1}], "is that of a file of the sweep"),
    "text for a number": ([{"seed": "1"}], "needs a whole number, got '1'"),
    "no folder name": ([{"name": "../a", "seed": 1}], "a name needs letters"),
    "not rankable": ([{"evaluation.num_samples": 5}], "must be the same for all members"),
}


@pytest.mark.parametrize("case", BAD_SWEEPS)
def test_bad_sweeps_are_refused(case):
    items, sentence = BAD_SWEEPS[case]
    with pytest.raises(UserError) as error:
        sweeps.members(small_config(), items)
    assert sentence in str(error.value)


def test_all_problems_of_all_members_are_listed():
    items = [{"sed": 1, RATE: -1.0}, {"name": "b", "seed": 1.5}, {"name": "b"}]
    with pytest.raises(UserError) as error:
        sweeps.members(small_config(), items)
    for sentence in ("4 problems", "'sed'", "got -1.0", "got 1.5", "two members are called 'b'"):
        assert sentence in str(error.value)


def test_of_many_problems_as_many_are_told_as_one_can_read():
    items = [{"name": f"m{number}", "x" * 200: 1} for number in range(40)]
    with pytest.raises(UserError) as error:
        sweeps.members(small_config(), items)
    text = str(error.value)
    assert len(text) < 4500
    assert "40 problems: member 'm0': config: unknown" in text
    told = text.count("config: unknown")
    assert f"; and {40 - told} more; nothing was started" in text
    assert 1 < told < 40


def test_bad_helpers_and_files_are_refused(tmp_path):
    seeds = sweeps.values("seed", [0, 1])
    for call in (
        lambda: sweeps.zip(seeds, seeds[:1]),
        lambda: sweeps.product(seeds, seeds),
        lambda: sweeps.with_seeds(seeds, 2),
        lambda: sweeps.with_seeds([{}], 0),
        lambda: sweeps.log_uniform(RATE, 0.0, 1.0, n=1, seed=0),
        lambda: sweeps.load(str(tmp_path / "absent.py")),
    ):
        with pytest.raises(UserError):
            call()
    for text in (
        "get_sweep = lambda: 1",
        "1 / 0",
        "def get_sweep(): return [1]",
        "x = 1",
        "def get_sweep(): return [{1: 2}]",
        "raise SystemExit(0)",
    ):
        (tmp_path / "sweep.py").write_text(text)
        with pytest.raises(UserError, match="--sweep"):
            sweeps.load(str(tmp_path / "sweep.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.py")), ids=str)
def test_sweep_files_are_sound(path):
    kinds = ("posterior", "prior") if path.stem == "discrete" else ()
    parts = {f"model__{kind}": "bernoulli" for kind in kinds}
    config = small_config(objective__num_samples=4, **parts)
    assert sweeps.members(config, sweeps.with_seeds(sweeps.load(str(path)), 2))


def test_members_that_differ_in_numbers_share_a_program():
    items = sweeps.chain(
        sweeps.product(sweeps.values(RATE, [0.1, 0.2]), sweeps.values("seed", [0, 1])),
        sweeps.values("objective.beta", [0.5]),
        sweeps.values("objective.num_samples", [2]),
        sweeps.values("training.ema_decay", [0.9, 0.99]),
    )
    groups = sweeps.groups(sweeps.members(small_config(), items))
    assert [len(group) for group in groups] == [5, 1, 2]
    renyi = [{"objective.bound": f"renyi(alpha={a})"} for a in (0.2, 0.5, 0.9)]
    items = sweeps.product(renyi, sweeps.values(RATE, [0.1, 0.2]), [{"objective.num_samples": 4}])
    assert len(sweeps.groups(sweeps.members(small_config(), items))) == 1


def _results(scores):
    """Results from {(setting, seed): (validation, test)}; None for a member that failed."""
    found = []
    for (rate, seed), values in scores.items():
        config = small_config(seed=seed, optimizer__learning_rate=rate)
        overrides = {RATE: rate, "seed": seed}
        member = sweeps.Member(sweeps.label(overrides), overrides, config)
        estimates = values and {
            split: {name: {"value": value} for name in ("elbo", "iwae_20")}
            for split, value in zip(("validation", "test"), values, strict=True)
        }
        found.append(sweep_results.Result(member, estimates, None if values else "diverged"))
    return found


def test_seeds_are_aggregated_and_the_best_is_chosen_on_validation():
    results = _results(
        {
            (0.1, 0): (-3.0, -1.0),
            (0.1, 1): (-5.0, -1.0),
            (0.2, 0): (-3.5, -9.0),
            (0.2, 1): (-3.9, -9.0),
            (0.2, 2): (-3.7, -9.0),
            (0.3, 0): None,
        }
    )
    rows = list(csv.DictReader(sweep_results.csv_text(results).splitlines()))
    assert [row["name"] for row in rows] == [f"learning_rate={r}" for r in (0.2, 0.1, 0.3)]
    assert [row["best"] for row in rows] == ["yes", "", ""]
    assert [(row["seeds"], row["failed"]) for row in rows] == [("3", "0"), ("2", "0"), ("0", "1")]
    assert float(rows[0]["validation/iwae_20"]) == pytest.approx(-3.7)
    assert float(rows[0]["validation/iwae_20 se"]) == pytest.approx(0.2 / np.sqrt(3))
    assert float(rows[1]["validation/elbo se"]) == pytest.approx(1.0)
    assert sweep_results.summary(results)["best"] == "learning_rate=0.2"


def _train(members, workdir, *, console=QUIET, memory=None):
    """What became of the members, by name."""
    around = Surroundings(console, lambda: False, lambda *_: None, memory)
    members_ = [Run(member.name, workdir / member.name, member.config) for member in members]
    outcomes = loop.train_together(members_, around)
    return {run.name: outcome for run, outcome in zip(members_, outcomes, strict=True)}


def _state(folder):
    return runs.load_run(folder, (8, 8, 1), console=QUIET)[2]


def _gap(left, right):
    """Largest difference between two states, relative to 1 + size."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.max(np.abs(a - b) / (1 + np.abs(b)))) for a, b in pairs)


# A large eps: else Adam turns the rounding of a vanishing gradient into whole steps.
EARLY = {
    "training__patience": 1,
    "training__num_epochs": 12,
    "training__ema_decay": 0.5,
    "optimizer__eps": 1e-3,
}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Four members, two of which stop early, one that warms up all along, and one that diverges."""
    workdir = tmp_path_factory.mktemp("together")
    items = sweeps.product(sweeps.values(RATE, [0.003, 0.05]), sweeps.values("seed", [0, 1]))
    items.append({RATE: 0.05, "objective.warmup_epochs": 12.0})
    items.append({RATE: 1e30})
    members = sweeps.members(small_config(**EARLY), items)
    assert len(sweeps.groups(members)) == 1
    return members, workdir, _train(members, workdir)


def test_members_end_as_they_would_alone(together, tmp_path):
    """The member that stopped first, long before the program did."""
    members, workdir, outcomes = together
    trained = {m.name: m for m in members if outcomes[m.name].error is None}
    states = {name: _state(workdir / name) for name in trained}
    assert len({int(state.step) for state in states.values()}) > 1
    first = min(states, key=lambda name: int(states[name].step))
    member = trained[first]
    alone = train.train(member.config, tmp_path / "alone", console=QUIET)
    assert int(alone.step) == int(states[first].step)
    assert _gap(alone, states[first]) < 1e-4
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "alone", workdir / member.name)
    ]
    assert [sorted(row) for row in rows[0]] == [sorted(row) for row in rows[1]]
    assert rows[0][-1]["validation/iwae"] == pytest.approx(rows[1][-1]["validation/iwae"], 1e-5)


def test_patience_waits_for_the_warm_up_of_each_member(together):
    """The same seed and rate stop early without one."""
    members, workdir, _ = together
    last = []
    for member in (members[2], members[4]):
        rows = (workdir / member.name / "metrics.jsonl").read_text().splitlines()
        last.append(json.loads(rows[-1])["epoch"])
    assert members[2].config.seed == members[4].config.seed
    assert last[0] < 12
    assert last[1] == 12


def test_one_that_diverges_stops_nobody(together):
    members, workdir, outcomes = together
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.error is not None}
    assert [*failed] == [members[-1].name]
    assert "not finite at step" in failed[members[-1].name].error
    assert failed[members[-1].name].diverged
    assert (workdir / members[0].name / "figures" / "training.png").is_file()


@pytest.mark.slow
def test_a_sweep_over_an_option_of_a_bound_trains_each_member_on_its_own(tmp_path):
    """One program, and every member ends where it would alone with its own alpha."""
    items = [
        {"objective.bound": f"renyi(alpha={alpha})", "objective.num_samples": 4}
        for alpha in (0.1, 0.9)
    ]
    config = small_config(training__num_epochs=2, optimizer__eps=1e-3)
    members = sweeps.members(config, items)
    assert len(sweeps.groups(members)) == 1
    outcomes = _train(members, tmp_path)
    losses = []
    for index, member in enumerate(members):
        alone = train.train(member.config, tmp_path / f"alone-{index}", console=QUIET)
        assert _gap(alone, outcomes[member.name].state) < 1e-4
        losses.append(_gap(alone.params, outcomes[members[0].name].state.params))
    assert losses[1] > 1e-3 > losses[0]


@pytest.mark.slow
def test_a_group_too_large_for_memory_is_split_and_that_is_said(tmp_path, capsys):
    config = small_config(training__num_epochs=1, dataset__num_validation=0)
    members = [
        sweeps.Member(name, {}, dataclasses.replace(config, seed=seed))
        for seed, name in enumerate("ab")
    ]
    _train(members, tmp_path, memory=1, console=Console(width=200))
    assert "training 1 at a time" in capsys.readouterr().out
    assert {int(_state(tmp_path / name).step) for name in "ab"} == {7}


def test_table_differentiates_few_samples_of_iwae_50_and_all_where_asked():
    path = f"{ROOT}/configs/sweeps/iwae_table1.py"
    every = {m["name"]: m["objective.gradient"] for m in sweeps.load(path)}
    assert every.pop("iwae-50") == "resampled(num_backward=8)"
    assert set(every.values()) == {"pathwise"}
    vae, iwae = sweeps.load(f"{path}:k=50,pathwise")
    assert vae["objective.gradient"] == iwae["objective.gradient"] == "pathwise"
    assert len(sweeps.load(f"{path}:pathwise")) == 5
    with pytest.raises(UserError, match="--sweep argument"):
        sweeps.load(f"{path}:k=7")
