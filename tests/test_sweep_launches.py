"""Sweeps from the command line: killed, resumed, launched twice, spread by Ray."""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, small_config
from ray_script import start_sweep
from rich.console import Console
from run_script import run_script

from vaejax.errors import UserError
from vaejax.runs import evaluate
from vaejax.sweeps import launch as sweep_run
from vaejax.sweeps import members as sweeps
from vaejax.sweeps import ray_launcher as sweep_ray
from vaejax.sweeps import results as sweep_results
from vaejax.sweeps.launch import Task
from vaejax.training import loop, runs
from vaejax.training.standing import Run, Surroundings

QUIET = Console(quiet=True)
RATE = "optimizer.learning_rate"


SWEEP = """
from vaejax.sweeps import members as sweeps
get_sweep = lambda: sweeps.values('seed', [0, 1])
"""
TWO_PROGRAMS = SWEEP.rstrip() + " + [{'name': 'k2', 'objective.num_samples': 2}]"


def _flags(folder, workdir, *more, sweep=SWEEP):
    (folder / "sweep.py").write_text(sweep)
    return [
        "--config=configs/digits.py",
        "--config.model.latent_dims=(3,)",
        "--config.model.encoder=mlp(hidden_dims=(8,))",
        "--config.dataset.num_validation=37",
        "--config.training.batch_size=200",
        "--config.training.num_epochs=25",
        "--config.training.checkpoint_seconds=1",
        "--config.evaluation.num_samples=20",
        f"--sweep={folder / 'sweep.py'}",
        f"--workdir={workdir}",
        *more,
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    finished = run_script("sweep.py", *_flags(folder, folder / "sweep"), timeout=300.0)
    assert finished.code == 0, finished.err
    assert "2 members in 1 programs" in finished.out
    return folder / "sweep"


def _rows(workdir):
    return sum(len(path.read_bytes().splitlines()) for path in workdir.glob("*/metrics.jsonl"))


def _start(folder, workdir, *more):
    arguments = [sys.executable, "scripts/sweep.py", *_flags(folder, workdir, *more)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL)


def _wait_for_rows(workdir, count, process):
    deadline = time.monotonic() + 240
    while _rows(workdir) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_sweep_ends_in_the_same_table(swept, tmp_path):
    workdir = tmp_path / "sweep"
    process = _start(tmp_path, workdir)
    _wait_for_rows(workdir, 26, process)
    process.kill()
    process.wait()
    assert not (workdir / "sweep.csv").exists()
    finished = run_script("sweep.py", *_flags(tmp_path, workdir))
    assert finished.code == 0, finished.err
    assert (workdir / "sweep.csv").read_bytes() == (swept / "sweep.csv").read_bytes()


def test_a_second_launch_does_only_what_is_missing(swept, tmp_path):
    workdir = shutil.copytree(swept, tmp_path / "sweep")
    (workdir / "seed=1" / "evaluation.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*/checkpoints/*")}
    finished = run_script("sweep.py", *_flags(tmp_path, workdir))
    assert "1 programs to run" in finished.out
    assert (workdir / "sweep.csv").read_bytes() == (swept / "sweep.csv").read_bytes()
    assert before == {path: path.stat().st_mtime_ns for path in workdir.glob("*/checkpoints/*")}


@pytest.mark.slow
def test_members_are_ordinary_runs(swept, tmp_path):
    """`train.py` finds it finished; alone, on one device, it gets to the same bound."""
    name = "seed=1"
    own = [flag for flag in _flags(tmp_path, "") if flag.startswith("--config")]
    own += ["--config.seed=1"]
    before = json.loads((swept / name / "evaluation.json").read_text())["estimates"]
    copied = shutil.copytree(swept / name, tmp_path / "run")
    finished = run_script("train.py", *own, f"--workdir={copied}")
    assert finished.code == 0, finished.err
    assert "already finished" in " ".join(finished.out.split())
    alone = tmp_path / "alone"
    assert run_script("train.py", *own, f"--workdir={alone}").code == 0
    assert run_script("evaluate.py", f"--workdir={alone}").code == 0
    after = json.loads((alone / "evaluation.json").read_text())["estimates"]
    assert after.keys() == before.keys()
    for bound in after:
        assert after[bound]["value"] == pytest.approx(before[bound]["value"], abs=1e-3)


@pytest.mark.slow
def test_a_half_trained_run_with_patience_is_not_done_though_it_is_evaluated(tmp_path):
    """Evaluations of an earlier state lie in its folder; the sweep trains it to its end."""
    config = small_config(training__num_epochs=6, training__patience=6)
    (member,) = sweeps.members(config, [{"name": "a"}])
    calls = iter(range(100))
    around = Surroundings(QUIET, lambda: next(calls) >= 2, lambda *_: None)
    folder = tmp_path / "a"
    (half,) = loop.train_together([Run("a", folder, member.config)], around)
    assert 0 < int(half.state.step) < 42
    for split in sweep_results.SPLITS:
        evaluate.evaluate(folder, split=split, console=QUIET)
        assert not evaluate.is_evaluated(folder, member.config, split)
    assert not sweep_run.is_done(member, tmp_path)
    (result,) = sweep_run.sweep(config, [{"name": "a"}], Task(tmp_path), console=QUIET)
    assert result.error is None
    assert int(runs.load_run(folder, (8, 8, 1), console=QUIET)[2].step) == 42
    assert sweep_run.is_done(member, tmp_path)


def test_without_validation_images_nothing_is_ranked(tmp_path):
    """The table has the order of the sweep, though another member is better on test images."""
    config = small_config(dataset__num_validation=0)
    items = [{"name": "one", "training.num_epochs": 1}, {"name": "nine", "training.num_epochs": 9}]
    found = sweep_run.sweep(config, items, Task(tmp_path), console=QUIET)
    one, nine = (result.estimates["test"]["iwae_20"]["value"] for result in found)
    assert nine > one
    table = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["name"] for row in table] == ["one", "nine"]
    assert [row["best"] for row in table] == ["", ""]
    assert not [column for column in table[0] if "validation" in column]
    summary = json.loads((tmp_path / "sweep.json").read_text())
    assert summary["best"] is summary["ranked_by"] is None
    assert list(summary["members"][0]["estimates"]) == ["test"]
    assert sweep_results.best_line(found, tmp_path).startswith("best: not chosen")
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(sweep_results.table(found))
    shown = console.export_text()
    assert "in the order of the sweep" in shown
    assert f"{one:.3f}" in shown
    assert "validation ELBO" not in shown


def test_a_failing_member_is_reported_and_the_others_are_ranked(tmp_path):
    items = [*sweeps.values("seed", [0, 1]), {RATE: 1e30}]
    config = small_config(training__num_epochs=1)
    results = sweep_run.sweep(config, items, Task(tmp_path), console=QUIET)
    assert "1 of 3 members failed: learning_rate=1e+30" in sweep_run.failure_line(results)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["seeds"] for row in rows] == ["2", "0"]
    said = sweep_run.sweep(config, items, Task(tmp_path), console=QUIET)
    assert sweep_run.failure_line(said) == sweep_run.failure_line(results)


def _contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--sweep=/nowhere.py", "--sweep"),
        ("--seeds=0", "--seeds: must be in 1.."),
        ("--launcher=slurm", "--launcher: unknown 'slurm'"),
        ("--memory=0", "--memory: must be in 2**-30"),
        ("--config.objective.beta=2", "objective.beta: 2.0 != 1.0"),
        ("--config.training.batch_size=5000", "at most the 1400 training images"),
        ("--config.optimizer.learning_rat=1", "did you mean"),
    ],
)
def test_bad_launches_take_one_line_and_lose_nothing(swept, tmp_path, flag, sentence):
    workdir = shutil.copytree(swept, tmp_path / "sweep")
    before = _contents(workdir)
    finished = run_script("sweep.py", *_flags(tmp_path, workdir), flag)
    assert finished.code == 2
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
    assert _contents(workdir) == before


def test_ray_that_is_not_installed_or_does_not_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[ray\]'"):
        sweep_ray.connect(None)
    monkeypatch.undo()
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        sweep_ray.connect("127.0.0.1:1")


def _ray_workers(driver):
    """Process ids of Ray's workers that run a task of the session of `driver`."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::_run") and f"VAEJAX_TEST={driver}".encode() in environment:
            found.append(int(folder.name))
    return found


def _wait_for_a_save(workdir, process):
    """Until a checkpoint is half written: Orbax's folder of another name is there."""
    deadline = time.monotonic() + 120
    while not [*workdir.glob("*/checkpoints/*orbax-checkpoint-tmp*")]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "saving"])
def test_ray_survives_the_loss_of_a_worker(swept, tmp_path, moment):
    """Two tasks on a local cluster of two workers, or of one with a mesh of two; one is killed."""
    pytest.importorskip("ray")
    workdir, mark = tmp_path / "sweep", str(tmp_path)
    mesh = "--mesh=data:2" if moment == "saving" else "--mesh=data:1"
    flags = _flags(tmp_path, workdir, mesh, sweep=TWO_PROGRAMS)
    # Without the cache of the tests: workers keep their own.
    process = start_sweep(*flags, VAEJAX_TEST=mark, JAX_COMPILATION_CACHE_DIR=None)
    try:
        _wait_for_rows(workdir, 8, process)
        workers = _ray_workers(mark)
        if moment == "saving":
            _wait_for_a_save(workdir, process)
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(timeout=180) == 0
    finally:
        process.kill()
    ours, theirs = (
        {m["name"]: m for m in json.loads((folder / "sweep.json").read_text())["members"]}
        for folder in (workdir, swept)
    )
    assert {*ours} == {*theirs, "k2"}
    assert all(member["error"] is None for member in ours.values())
    (cache,) = workdir.parent.glob(".compilation-cache/*")
    assert [*cache.iterdir()]
    result = json.loads((workdir / "k2" / "evaluation.json").read_text())
    assert result["protocol"]["device"].startswith("2 x" if moment == "saving" else "1 x")
    for name, member in theirs.items():
        ours_value, value = (m["estimates"]["test"]["elbo"]["value"] for m in (ours[name], member))
        assert ours_value == pytest.approx(value, abs=1e-3)


def test_a_mesh_that_no_machine_of_the_cluster_holds_is_refused_not_waited_for():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    sweep_ray._check_devices(nodes, "CPU", 4)
    message = "--mesh: needs 2 devices of one machine, the largest of the Ray cluster has 1 GPUs"
    with pytest.raises(UserError, match=message):
        sweep_ray._check_devices(nodes, "GPU", 2)


@pytest.mark.slow
def test_a_sweep_draws_the_figures_of_a_member_once_of_the_test_split(tmp_path, monkeypatch):
    drawn = []
    keep = lambda subject, result: drawn.append(result.protocol.split)
    monkeypatch.setattr(evaluate.figures, "write", keep)
    config = small_config(training__num_epochs=1)
    (found,) = sweep_run.sweep(config, [{"seed": 0}], Task(tmp_path), console=QUIET)
    assert found.error is None
    assert (tmp_path / "seed=0" / "evaluation-validation.json").exists()
    assert drawn == ["test"]
