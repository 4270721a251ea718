"""Searches: spaces, what is proposed, which trials go on, and one that was killed."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, small_config
from ray_script import start_sweep
from rich.console import Console
from run_script import run_script, start_script

from vaejax.errors import UserError
from vaejax.experiment import searching
from vaejax.sweeps import launch, members, samplers, search, spaces
from vaejax.sweeps.results import Result
from vaejax.sweeps.samplers import Told
from vaejax.sweeps.search import Request, Trial
from vaejax.sweeps.spaces import Choice, Uniform

QUIET = Console(quiet=True)
RATE, BETA = "optimizer.learning_rate", "objective.beta"
SPACE = {
    RATE: Uniform(1e-4, 1e-2, log=True),
    BETA: Uniform(0.5, 2.0),
    "optimizer.b2": Choice((0.9, 0.999)),
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "spaces").glob("*.py")), ids=str)
def test_spaces_that_come_with_vaejax_are_sound(path):
    spaces.check(small_config(), spaces.load(str(path)))


def test_options_of_a_bound_are_one_program_too():
    bound = {"objective.bound": Choice(("renyi(alpha=0.2)", "renyi(alpha=0.7)"))}
    spaces.check(small_config(objective__num_samples=4), bound)
    spaces.check(small_config(), {"optimizer.weight_decay": Uniform(0.0, 1.0)})


BAD_SPACES = {
    "nothing": ({}, "must return a dict of at least one path"),
    "a list": ([{RATE: 0.1}], "must return a dict of at least one path"),
    "unknown key": ({"optimizer.learning_rat": Uniform(0.1, 1.0)}, "did you mean"),
    "no text": ({1: Uniform(0.1, 1.0)}, "keys are dotted paths"),
    "no range": ({RATE: (0.1, 1.0)}, "needs sweeps.spaces.Uniform(low, high) or Choice"),
    "empty range": ({RATE: Uniform(1.0, 1.0)}, "needs numbers low < high, got 1.0, 1.0"),
    "no number": ({RATE: Uniform("a", 1.0)}, "needs numbers low < high, got 'a', 1.0"),
    "huge": ({RATE: Uniform(1.0, 10**400)}, "needs numbers low < high, got 1.0, a huge number"),
    "no end": ({RATE: Uniform(1.0, math.inf)}, "needs numbers low < high"),
    "log of 0": ({RATE: Uniform(0.0, 1.0, log=True)}, "log=True needs 0 < low, got 0.0"),
    "log of text": ({RATE: Uniform(0.1, 1.0, log="no")}, "log is true or false, got 'no'"),
    "out of range": ({RATE: Uniform(-1.0, 1.0)}, "must be finite and >= 0.0, got -1.0"),
    "no choice": ({RATE: Choice((0.1,))}, "needs at least two values, got (0.1,)"),
    "text": ({RATE: Choice("0.1")}, "needs at least two values, got '0.1'"),
    "a tuple": ({"model.latent_dims": Choice(((2,), (3,)))}, "a value is a number or text"),
    "twice": ({RATE: Choice((0.1, 0.1))}, "are the same run"),
    "width": ({"objective.num_samples": Choice((1, 5))}, "changes shapes or code"),
    "code": ({"objective.bound": Choice(("elbo", "iwae"))}, "changes shapes or code"),
    "seed": ({"seed": Choice((0, 1))}, "the luckiest seed is no better setting"),
    "data": ({"dataset.binarization_seed": Choice((0, 1))}, "must be the same for all members"),
}


@pytest.mark.parametrize("case", BAD_SPACES)
def test_bad_spaces_are_refused(case):
    space, sentence = BAD_SPACES[case]
    with pytest.raises(UserError) as error:
        spaces.check(small_config(), space)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_all_problems_of_a_space_are_listed():
    with pytest.raises(UserError) as error:
        spaces.check(small_config(), {RATE: Uniform(2.0, 1.0), "sed": Uniform(0.0, 1.0)})
    for sentence in ("--sweep: 2 problems", "got 2.0, 1.0", "'sed'", "nothing was started"):
        assert sentence in str(error.value)
    for once in ("problems", "nothing was started", "unknown 'sed'"):
        assert str(error.value).count(once) == 1


def test_a_list_is_not_searched_and_a_space_is_not_swept(tmp_path):
    one, other = "def get_space(): return {}\n", "def get_sweep(): return []\n"
    path = tmp_path / "file.py"
    for load, text, sentence in (
        (members.load, one, "defines get_space, not get_sweep; a space is searched: add --search"),
        (spaces.load, other, "defines get_sweep, not get_space; a list of members is no space"),
        (members.load, one + other, "keep one of them"),
        (spaces.load, one + other, "keep one of them"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            load(str(path))
    path.write_text(one)
    assert spaces.load(str(path)) == {}


BAD_REQUESTS = {
    "unknown": ("optima", {"trials": 4}, "--search: unknown 'optima'; did you mean 'optuna'"),
    "no trials": ("random", {}, "--trials: a search needs a number"),
    "none": ("random", {"trials": 0}, "--trials: must be in 1..100,000, got 0"),
    "no batch": ("random", {"trials": 4, "batch": 0}, "--batch: must be in 1..10,000, got 0"),
    "no rung": ("random", {"trials": 4, "rungs": 0}, "--rungs: must be in 1..10, got 0"),
    "seed": ("random", {"trials": 4, "search_seed": -1}, "--search_seed: must be in 0.."),
    "seeds": ("random", {"trials": 4, "seeds": 0}, "--seeds: must be in 1.."),
    "alone": (None, {"trials": 4}, "--trials: has an effect with --search alone"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_are_refused(case):
    name, given, sentence = BAD_REQUESTS[case]
    with pytest.raises(UserError) as error:
        searching.request(name, given)
    assert sentence in str(error.value)


def test_flags_are_a_request():
    given = {"trials": 6, "batch": 2, "rungs": 2, "search_seed": 5, "seeds": 3}
    assert searching.request("random", given) == Request("random", 6, 2, 2, 5, 3)
    assert searching.request("random", {"trials": 6, "batch": None}) == Request("random", 6)
    assert searching.request(None, {"seeds": 3, "trials": None}) is None


def test_random_draws_are_of_the_space_and_do_not_depend_on_the_batches():
    drawn = samplers.random(SPACE, [], 300, seed=3, first=0)
    parts = [samplers.random(SPACE, [], 150, seed=3, first=first) for first in (0, 150)]
    assert drawn == [*parts[0], *parts[1]]
    assert drawn != samplers.random(SPACE, [], 300, seed=4, first=0)
    rates, betas = (np.array([item[path] for item in drawn]) for path in (RATE, BETA))
    assert 1e-4 <= rates.min() < rates.max() <= 1e-2
    assert 0.5 <= betas.min() < betas.max() <= 2.0
    # The mean of a uniform variable is the middle, within 4 standard errors: of the logarithm
    # of the one, of the other itself.
    for values, width, middle in ((np.log(rates), np.log(100), np.log(1e-3)), (betas, 1.5, 1.25)):
        assert abs(values.mean() - middle) < 4 * width / np.sqrt(12 * 300)
    chosen = [item["optimizer.b2"] for item in drawn]
    assert abs(chosen.count(0.9) - 150) < 4 * np.sqrt(300) / 2


def test_numbers_of_a_narrow_range_are_told_apart():
    drawn = samplers.random({"optimizer.b2": Uniform(0.999, 0.9999)}, [], 100, seed=0, first=0)
    assert len({item["optimizer.b2"] for item in drawn}) == 100
    assert all(0.999 <= item["optimizer.b2"] <= 0.9999 for item in drawn)
    assert spaces.rounded({RATE: Uniform(1.00004, 2.0)}, {RATE: 1.000041}) == {RATE: 1.00004}


def test_optuna_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[optuna\]', or use --search=random"):
        samplers.optuna(SPACE, [], 2, seed=0, first=0)


def _score(params):
    """A bowl with its top at rate 1e-3, beta 1, in units of the ranges; b2 = 0.9 is 0.1 worse."""
    rate, beta = math.log10(params[RATE] / 1e-3) / 2, (params[BETA] - 1.0) / 1.5
    return -(rate**2) - beta**2 - 0.1 * (params["optimizer.b2"] == 0.9)


def _searched(sampler, trials, seed):
    """Best score of a search on the bowl, eight trials at a time."""
    told = []
    while len(told) < trials:
        for params in sampler(SPACE, told, 8, seed=seed, first=len(told)):
            told.append(Told(params, _score(params), 1, False))
    return max(trial.score for trial in told)


@pytest.mark.slow
def test_optuna_learns_from_what_it_is_told():
    pytest.importorskip("optuna")
    worst = lambda sampler: min(_searched(sampler, 48, seed) for seed in range(6))
    assert 5 * -worst(samplers.optuna) < -worst(samplers.random)  # distance from the top, 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["failed", "pruned"])
def test_optuna_keeps_away_from_what_failed_or_was_pruned(kind):
    """All trials with a small beta are whole; the others failed, or scored better but earlier."""
    pytest.importorskip("optuna")
    told = [
        Told(params, -1.0, 9, False)
        if params[BETA] < 1.0
        else Told(params, math.nan if kind == "failed" else 5.0, 3, kind == "pruned")
        for params in samplers.random(SPACE, [], 40, seed=0, first=0)
    ]
    call = lambda told: samplers.optuna(SPACE, told, 8, seed=1, first=40)
    assert call(told) == call(told)
    near = [params[BETA] < 1.0 for params in call(told)]
    assert sum(near) >= 7
    whole = [t._replace(score=t.params[BETA], pruned=False, epochs=9) for t in told]
    assert sum(params[BETA] < 1.0 for params in call(whole)) <= 1


def test_rungs_are_thirds_of_the_epochs():
    config = small_config(training__num_epochs=27)
    assert search.rungs_of(config, Request("random", 4)) == [27]
    assert search.rungs_of(config, Request("random", 4, rungs=3)) == [3, 9, 27]
    with pytest.raises(
        UserError, match=r"need at least 81 epochs, got config\.training.num_epochs"
    ):
        search.rungs_of(config, Request("random", 4, rungs=5))
    cosine = small_config(training__num_epochs=27, optimizer__schedule="cosine")
    assert search.rungs_of(cosine, Request("random", 4)) == [27]
    with pytest.raises(UserError, match=r"--rungs: .* got 'cosine'"):
        search.rungs_of(cosine, Request("random", 4, rungs=2))


def _epochs(batches):
    return [[trial.epochs for trial in batch] for batch in batches]


def test_the_best_third_of_a_batch_goes_on_and_then_a_new_one_comes():
    request, rungs = Request("random", 9, batch=5), [1, 3, 9]
    advance = lambda batches, known: search.advanced(batches, known, SPACE, request, rungs)
    batches = advance([], {})
    assert _epochs(batches) == [[1] * 5]
    known = {"trial-000": -3.0, "trial-001": -1.0, "trial-002": math.nan, "trial-003": -2.0}
    batches = advance(batches, known)
    assert _epochs(batches) == [[1, 3, 1, 3, 1]]  # 5 / 3, rounded up
    batches = advance(batches, known | {"trial-001": -0.9, "trial-003": -0.5})
    assert _epochs(batches) == [[1, 3, 1, 9, 1]]
    batches = advance(batches, known | {"trial-003": -0.1})
    assert _epochs(batches) == [[1, 3, 1, 9, 1], [1] * 4]
    assert [trial.name for trial in batches[1]] == [f"trial-{i:03d}" for i in range(5, 9)]
    assert advance(batches, {}) == batches  # all of the last batch failed, and there is no other


def test_a_trial_that_is_proposed_twice_is_trained_once():
    batches = [[Trial("a", {RATE: 0.1}, 1), Trial("b", {RATE: 0.1}, 1), Trial("c", {RATE: 1.0}, 1)]]
    request, known = Request("random", 3), {"a": -1.0, "b": 0.0, "c": -2.0}
    assert _epochs(search.advanced(batches, known, SPACE, request, [1, 3])) == [[3, 1, 1]]
    assert [item["name"] for item in search._items(batches, request, [1])] == ["a", "c"]


def test_a_trial_is_judged_by_the_mean_of_its_seeds_where_none_failed():
    batches = [[Trial("a", {RATE: 0.1}, 1), Trial("b", {RATE: 1.0}, 1)]]
    items = search._items(batches, Request("random", 2, seeds=2), [1])
    assert [item["name"] for item in items] == ["a,seed=0", "a,seed=1", "b,seed=0", "b,seed=1"]
    values, found = [-1.0, -2.0, -3.0, None], []
    for member, value in zip(members.members(small_config(), items), values, strict=True):
        row = {split: {"iwae_20": {"value": value}} for split in ("validation", "test")}
        missing = value is None
        found.append(Result(member, None if missing else row, "diverged" if missing else None))
    assert search.scores(found) == {"a": -1.5}
    assert search.scores([]) == {}


@pytest.mark.parametrize(
    "trial",
    [
        {"name": "a", "params": {RATE: 0.2}, "epochs": 3},
        {"name": "a", "params": {RATE: "0.2"}, "epochs": 3},
        {"name": "a", "params": {BETA: 0.2}, "epochs": 3},
        {"name": "a", "params": {RATE: 0.01}, "epochs": 2},
        None,
    ],
)
def test_a_record_that_was_changed_by_hand_is_refused(tmp_path, trial):
    request, space = Request("random", 4), {RATE: Uniform(0.001, 0.1)}
    settings = search._settings(space, request, [3])
    batches = [[] if trial is None else [trial]]
    (tmp_path / "search.json").write_text(json.dumps({**settings, "batches": batches}))
    with pytest.raises(UserError, match=r"search\.json: holds trials that no search proposed"):
        search.search(small_config(), space, request, launch.Task(tmp_path), console=QUIET)


def _search(workdir, trials, **options):
    request = Request("random", trials, batch=2, **options)
    return search.search(small_config(), SPACE, request, launch.Task(workdir), console=QUIET)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Two trials, then two more: one compiled program for all."""
    workdir = tmp_path_factory.mktemp("searched") / "search"
    return workdir, _search(workdir, 2), _search(workdir, 4)


@pytest.mark.slow
def test_a_search_goes_on_for_more_trials_and_its_runs_are_a_sweep(searched):
    workdir, first, second = searched
    assert [result.member.name for result in second] == [f"trial-{i:03d}" for i in range(4)]
    assert second[:2] == first
    drawn = samplers.random(SPACE, [], 4, seed=0, first=0)
    assert [result.member.overrides for result in second] == drawn
    rows = list(csv.DictReader((workdir / "sweep.csv").read_text().splitlines()))
    values = [float(row["validation/iwae_20"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert search.scores(second) == {row["name"]: v for row, v in zip(rows, values, strict=True)}
    assert len(json.loads((workdir / "groups.json").read_text())) == 2  # programs, one a batch


@pytest.mark.slow
def test_another_search_in_the_folder_is_refused(searched):
    workdir = searched[0]
    before = (workdir / "search.json").read_bytes()
    with pytest.raises(UserError, match=r"--trials: .* has 4 already, got 1"):
        _search(workdir, 1)
    with pytest.raises(UserError, match=r"another search .*: search_seed: 1 != 0; choose another"):
        _search(workdir, 4, seed=1)
    with pytest.raises(UserError, match=r"another search .*: epochs: \[1, 3\] != \[3\]"):
        _search(workdir, 4, rungs=2)
    assert (workdir / "search.json").read_bytes() == before


@pytest.mark.slow
def test_trials_that_diverge_are_learnt_from_and_other_failures_stop(tmp_path, monkeypatch):
    space = {RATE: Choice((1e-3, 1e30))}
    request, config = Request("random", 6, batch=6), small_config(training__num_epochs=1)
    call = lambda folder, config: search.search(
        config, space, request, launch.Task(folder), console=QUIET
    )
    found = call(tmp_path / "a", config)  # six proposals of two values
    assert sorted(result.error is None for result in found) == [False, True]
    assert len(search.scores(found)) == 1
    with pytest.raises(UserError, match="at most the 1400 training images"):
        call(tmp_path / "b", small_config(training__batch_size=5000))
    assert not (tmp_path / "b" / "search.json").exists()
    full = lambda members, **options: {member.name: "disk full" for member in members}
    monkeypatch.setattr(launch, "run_group", full)
    with pytest.raises(UserError, match=r"2 of 2 members failed: .*disk full"):
        call(tmp_path / "c", config)


def _flags(folder, workdir, *more, sampler="optuna"):
    space = "from vaejax.sweeps.spaces import Uniform\ndef get_space():\n"
    space += f"    return {{'{RATE}': Uniform(1e-4, 1e-2, log=True)}}\n"
    (folder / "space.py").write_text(space)
    return [
        "--config=configs/digits.py",
        "--config.model.latent_dims=(3,)",
        "--config.model.encoder=mlp(hidden_dims=(8,))",
        "--config.training.batch_size=200",
        "--config.training.num_epochs=12",
        "--config.training.checkpoint_seconds=0",
        "--config.evaluation.num_samples=20",
        f"--sweep={folder / 'space.py'}",
        f"--workdir={workdir}",
        f"--search={sampler}",
        "--trials=4",
        "--batch=2",
        "--rungs=2",
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search by optuna of two batches with two rungs, from the command line."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("whole")
    finished = run_script("sweep.py", *_flags(folder, folder / "search"), timeout=500)
    assert finished.code == 0, finished.err
    for line in ("trials 1..2 of 4: 2 of them to epoch 4", "best by validation: trial-00"):
        assert line in finished.out
    return folder / "search"


def _trials(workdir):
    batches = json.loads((workdir / "search.json").read_text())["batches"]
    return [Trial(**trial) for batch in batches for trial in batch]


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_end(whole, tmp_path):
    """Killed again and again, in each of its programs."""
    workdir, seen = tmp_path / "killed", 0
    (tmp_path / "out").mkdir()
    done = lambda: len([*workdir.glob("*/evaluation*.json"), *workdir.glob("*/checkpoints/[0-9]*")])
    while True:
        process = start_script("sweep.py", *_flags(tmp_path, workdir), folder=tmp_path / "out")
        while process.is_alive() and done() < seen + 8:
            process.join(0.01)
        seen = done()
        if not process.is_alive():
            break
        process.kill()
        process.join()
    assert process.exitcode == 0
    for name in ("search.json", "sweep.csv"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(trial.epochs for trial in _trials(workdir)) == [4, 4, 12, 12]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["optuna", "random"])
def test_a_search_whose_programs_are_tasks_of_ray(sampler, whole, tmp_path):
    """It proposes what a search without Ray does, and its trials reach the same bounds."""
    pytest.importorskip("ray")
    flags = _flags(tmp_path, tmp_path / "search", sampler=sampler)
    process = start_sweep(*flags, stdout=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "trials 3..4 of 4: 2 of them to epoch 4" in said
    trials = _trials(tmp_path / "search")
    if sampler == "random":
        space = spaces.load(str(tmp_path / "space.py"))
        assert [t.params for t in trials] == samplers.random(space, [], 4, seed=0, first=0)
        assert sorted(trial.epochs for trial in trials) == [4, 4, 12, 12]
        return
    assert trials == _trials(whole)
    found, expected = (
        {m["name"]: m["estimates"]["test"]["elbo"]["value"] for m in table["members"]}
        for table in (
            json.loads((folder / "sweep.json").read_text())
            for folder in (tmp_path / "search", whole)
        )
    )
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--trials=0", "--trials: must be in 1..100,000, got 0"),
        ("--search=optina", "--search: unknown 'optina'; did you mean 'optuna'"),
        ("--config.optimizer.schedule=cosine", "must not depend on the number of epochs"),
        ("--config.dataset.num_validation=0", "trials are chosen on validation"),
        ("--sweep=configs/sweeps/bounds.py", "defines get_sweep, not get_space"),
    ],
)
def test_bad_launches_take_one_line_and_write_nothing(tmp_path, flag, sentence):
    given = [f for f in _flags(tmp_path, tmp_path / "w") if f.split("=")[0] != flag.split("=")[0]]
    finished = run_script("sweep.py", *given, flag)
    assert finished.code == 2
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not (tmp_path / "w").exists() or not list((tmp_path / "w").glob("*.json"))
