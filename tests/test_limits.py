"""Full disks, folders without locks, second launches, many members: one line, and nothing lost."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import small_config
from rich.console import Console
from run_script import run_script, start_script

from vaejax.errors import UserError
from vaejax.explain import run as explain_run
from vaejax.runs import evaluate, files
from vaejax.sweeps import launch
from vaejax.training import runs, train

QUIET = Console(quiet=True)
FSIZE = resource.RLIMIT_FSIZE
SMALL = (
    "--config=configs/digits.py",
    "--config.model.latent_dims=(3,)",
    "--config.model.encoder=mlp(hidden_dims=(8,))",
    "--config.dataset.num_validation=37",
    "--config.training.batch_size=200",
    "--config.training.num_epochs=2",
    "--config.training.checkpoint_seconds=0",
    "--config.evaluation.num_samples=20",
)
EXPLAIN = ("--only=fixed_model", "--config.fixed_model.num_examples=20",
           "--config.fixed_model.num_latents=3", "--config.fixed_model.num_steps=40",
           "--config.fixed_model.num_records=4")  # fmt: skip


def _contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A sweep, a comparison of its members and an explanation, all finished."""
    folder = tmp_path_factory.mktemp("original") / "all"
    folder.mkdir()
    (folder / "sweep.py").write_text("get_sweep = lambda: [{'seed': 0}, {'seed': 1}]")
    for command in _commands(folder).values():
        finished = run_script(*command)
        assert finished.code == 0, finished.err
    return folder


def _commands(folder):
    """What fills `folder`, by script."""
    sweep = ("sweep.py", *SMALL, f"--sweep={folder / 'sweep.py'}", f"--workdir={folder / 'sweep'}")
    return {
        "sweep": sweep,
        "evaluate": ("evaluate.py", f"--workdir={folder / 'sweep' / 'seed=0'}"),
        "compare": ("compare.py", str(folder / "sweep"), f"--out={folder / 'report'}"),
        "explain": ("explain.py", f"--workdir={folder / 'explain'}", *EXPLAIN),
    }


def _other(script, folder):
    """A command that writes other results over those of `folder`."""
    command = _commands(folder)[script]
    if script == "sweep":
        (folder / "sweep.py").write_text("get_sweep = lambda: [{'seed': i} for i in range(3)]")
    more = {"evaluate": ["--num_samples=30"], "compare": ["--baseline=seed=1"]}
    return [*command, *more.get(script, ["--seed=1"] if script == "explain" else [])]


def _is_one_error(finished):
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert finished.code == 2, finished
    assert len(errors) == 1, finished.err
    assert "Traceback" not in finished.err
    assert "free some space" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["evaluate", "sweep", "compare", "explain"])
def test_a_file_that_does_not_fit_is_one_line_and_earlier_results_survive(
    script, original, tmp_path
):
    folder = shutil.copytree(original, tmp_path / "all")
    command = _other(script, folder)
    before = _contents(folder)
    _is_one_error(run_script(*command, limits={FSIZE: 8192}))
    after = _contents(folder)
    kept = [path for path in before if path.name != launch.GROUPS]  # which member goes where
    assert [path for path in kept if after.get(path) != before[path]] == []
    new = [path.relative_to(folder) for path in {*after} - {*before}]
    assert all("seed=2" in path.parts or path.name == ".lock" for path in new), new
    finished = run_script(*command)
    assert finished.code == 0, finished.err


@contextlib.contextmanager
def _disk(folder, size):
    """A disk of `size` bytes at `folder`; the test skips where none may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["evaluate", "sweep", "compare", "explain"])
def test_a_full_disk_is_one_line_and_leaves_whole_results(script, original, tmp_path):
    """Filled up to so many bytes: results are those of before or, together, those of after."""
    with _disk(tmp_path / "disk", 64 * 2**20) as disk:
        codes = []
        for count, free in enumerate((0, 20_000, 90_000, 300_000)):
            folder = shutil.copytree(original, disk / str(count))
            command = _other(script, folder)
            before = _contents(folder)
            _fill(disk / "filler", free)
            finished = run_script(*command)
            codes.append(finished.code)
            if finished.code:
                _is_one_error(finished)
            _are_whole(folder, before, changed=not finished.code)
            (disk / "filler").unlink()
            shutil.rmtree(folder)
        assert codes[:2] == [2, 2], codes


def _fill(path, free):
    """Writes a file that leaves `free` bytes of its disk."""
    room = os.statvfs(path.parent)
    left = max(0, room.f_bavail * room.f_frsize - free)
    path.write_bytes(bytes(left))


def _are_whole(folder, before, *, changed):
    """No half-written results, and unless all were replaced nothing is new."""
    after = _contents(folder)
    assert {*before} <= {*after}
    for member in ("seed=0", "seed=1"):
        for split in ("validation", "test"):
            assert files.read(files.path_of(folder / "sweep" / member, split)) is not None
        assert runs.load_run(folder / "sweep" / member, (8, 8, 1), console=QUIET)
    explain_run.read(folder / "explain")
    for name in ("report", "explain"):
        own = [path for path in before if (folder / name) in path.parents]
        same = {after[path] == before[path] for path in own}
        assert changed or same == {True}, [path for path in own if after[path] != before[path]]


@pytest.mark.slow
def test_two_sweeps_on_one_folder(tmp_path):
    """The second is refused on one line, and changes nothing."""
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "sweep.py").write_text("get_sweep = lambda: [{'seed': 0}, {'seed': 1}]")
    command = (*_commands(folder)["sweep"], "--config.training.num_epochs=5000")
    process = start_script(*command, folder=tmp_path)
    try:
        while not (folder / "sweep" / "seed=1" / "metrics.jsonl").exists():
            assert process.is_alive(), (tmp_path / "err").read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGSTOP)
        before = _contents(folder)
        refused = run_script(*command)
        assert _contents(folder) == before
    finally:
        process.kill()
        process.join()
    assert refused.code == 2
    assert "another trainer is running" in refused.err
    assert len(refused.err.strip().splitlines()) == 1


@pytest.fixture
def without_locks(monkeypatch):
    """A system whose folders have no file locks, as some network file systems."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.slow
def test_a_folder_without_file_locks_holds_runs_and_evaluations(without_locks, tmp_path, capsys):
    """Trained, continued, evaluated and swept; that nothing keeps a second one out is said."""
    said = Console(width=300)
    train.train(small_config(training__num_epochs=1), tmp_path / "run", console=said)
    assert "no file locks" in capsys.readouterr().out
    state = train.train(small_config(training__num_epochs=2), tmp_path / "run", console=QUIET)
    result = evaluate.evaluate(tmp_path / "run", console=QUIET)
    assert result.protocol.checkpoint_step == int(state.step)
    assert files.read(tmp_path / "run" / "evaluation.json").result == result
    config = small_config(training__num_epochs=1)
    found = launch.sweep(
        config, [{"seed": 0}, {"seed": 1}], launch.Task(tmp_path / "sweep"), console=said
    )
    assert capsys.readouterr().out.count("no file locks") == 3  # the sweep's folder and two runs
    assert [item.error for item in found] == [None, None]


def test_a_marker_left_where_there_are_no_locks_is_named(without_locks, tmp_path):
    (tmp_path / ".lock").touch()  # of a time when the folder lay on a disk with locks
    with pytest.raises(UserError, match=r"if none is, remove .*\.lock"):
        train.train(small_config(), tmp_path, console=QUIET)


@pytest.mark.slow
def test_more_members_than_256_open_files_allow(tmp_path):
    """Then not all of them are trained together, and that is said."""
    (tmp_path / "sweep.py").write_text("get_sweep = lambda: [{'seed': i} for i in range(50)]")
    finished = run_script(
        "sweep.py",
        *SMALL,
        "--config.training.num_epochs=1",
        "--config.training.batch_size=700",
        "--config.dataset.num_validation=20",
        "--config.dataset.test_split=test[:10]",
        "--config.evaluation.num_samples=5",
        f"--sweep={tmp_path / 'sweep.py'}",
        f"--workdir={tmp_path / 'sweep'}",
        limits={resource.RLIMIT_NOFILE: 256},
        timeout=900,
    )
    assert finished.code == 0, finished.err
    assert "50 members in 1 programs" in finished.out
    assert "50 members need 278 open files, 256 may be open" in finished.out
    members = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["members"]
    assert len(members) == 50
    assert all(member["error"] is None for member in members)


@pytest.mark.slow
def test_the_memory_of_evaluation_changes_no_estimate(tmp_path):
    """Chunks of 1, 7 and more than all there is: bounds, AIS and gaps agree to rounding."""
    train.train(small_config(training__num_epochs=2), tmp_path / "run", console=QUIET)
    chains = {"num_temperatures": 4, "num_chains": 5, "num_leapfrog": 2, "pilot_examples": 2}
    chains |= {"pilot_temperatures": 2, "pilot_moves": 2}
    budgets = {f"evidence.annealed.{key}": value for key, value in chains.items()}
    budgets |= {f"evidence.gaps.{k}": v for k, v in (("num_steps", 5), ("elbo_samples", 20))}
    found = []
    for chunk in (1, 7, 10**6):
        folder = shutil.copytree(tmp_path / "run", tmp_path / str(chunk))
        options = {"estimators": ("importance", "annealed"), "gaps": True, "num_examples": 4}
        evaluate.evaluate(
            folder, overrides={**budgets, "evaluation.chunk_size": chunk}, console=QUIET, **options
        )
        stored = files.read(folder / "evaluation.json")
        gaps = stored.result.gaps
        parts = (gaps.inference, gaps.approximation, gaps.amortization)
        found.append(({**stored.arrays, **stored.evidence_arrays}, np.array([*parts])))
    for arrays, gaps in found[1:]:
        np.testing.assert_allclose(gaps, found[0][1], rtol=1e-4, atol=1e-4)
        assert arrays.keys() == found[0][0].keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, found[0][0][name], rtol=1e-4, atol=1e-4, err_msg=name)
