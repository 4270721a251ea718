"""Several hosts: who takes part, what they agree on, how they end; two processes stand for two."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import ROOT
from rich.console import Console
from run_script import run_script

from vaejax import hosts, meshes
from vaejax.errors import UserError
from vaejax.experiment import cluster, roll_call
from vaejax.experiment.roll_call import Place
from vaejax.storage import checkpoints
from vaejax.training import runs


def _free_port():
    with socket.create_server(("", 0)) as door:
        return door.getsockname()[1]


def _meet(numbers, counts, *, to_reach=5.0, to_come=5.0):
    """What each of several processes, here threads, hears at the roll call; None: go on."""
    port, heard = _free_port(), [None] * len(numbers)

    def process(index):
        place = Place("127.0.0.1", port, counts[index], numbers[index])
        try:
            roll_call.meet(place, to_reach=to_reach, to_come=to_come)
        except UserError as error:
            heard[index] = str(error)

    threads = [threading.Thread(target=process, args=(i,)) for i in range(len(numbers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return heard


def test_all_that_are_expected_meet_and_leave_the_port_free():
    assert _meet([2, 0, 1], [3, 3, 3]) == [None] * 3


@pytest.mark.parametrize(
    ("numbers", "counts", "said"),
    [
        ([0, 1, 1], [3, 3, 3], "--process_id: 1 is used twice"),
        ([0, 0], [2, 2], "--process_id: 0 is used twice"),
        ([0, 1], [2, 3], "--num_processes: is 2 on process 0 and 3 on process 1"),
    ],
)
def test_who_is_wrong_is_said_to_everybody(numbers, counts, said):
    heard = _meet(numbers, counts)
    assert all(text is not None and text.startswith(said) for text in heard), heard


def test_who_does_not_come_is_named_to_those_that_did():
    heard = _meet([0, 2], [4, 4], to_come=0.3)
    assert heard == ["--num_processes: process 1, 3 did not come within 0 s"] * 2


def test_a_coordinator_that_is_not_there_is_given_up():
    begun = time.monotonic()
    (heard,) = _meet([1], [2], to_reach=0.5)
    assert "cannot be reached within" in heard
    assert time.monotonic() - begun < 3


def test_a_port_that_somebody_else_uses_is_said():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

        def other():
            visitor, _ = door.accept()
            visitor.sendall(b"HTTP/1.1 400 Bad Request\n")
            visitor.close()

        threading.Thread(target=other, daemon=True).start()
        with pytest.raises(UserError, match="is in use"):
            roll_call.meet(Place("127.0.0.1", port, 2, 1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("node1:1234", None, None), "--num_processes, --process_id: missing"),
        ((None, None, 1), "--coordinator, --num_processes: missing"),
        (("node1", 2, 0), "needs HOST:PORT"),
        (("node1:0", 2, 0), "needs HOST:PORT"),
        (("node1:99999", 2, 0), "needs HOST:PORT"),
        ((":1234", 2, 0), "needs HOST:PORT"),
        (("node1:1234", 0, 0), "--num_processes: must be in 1"),
        (("node1:1234", 2, 2), r"--process_id: must be in 0\.\.1, got 2"),
        (("node1:1234", 2, -1), r"--process_id: must be in 0\.\.1"),
        (("auto", 2, None), "--num_processes: --coordinator=auto finds it"),
    ],
)
def test_wrong_flags_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        cluster.place(*given)


def test_flags_are_read():
    assert cluster.place("[::1]:1234", 2, 1) == Place("::1", 1234, 2, 1)
    assert cluster.place("auto", None, None) is None


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (meshes.BY_ITSELF, "batch_size=97 cannot be shared evenly by 2 hosts; .* is 96"),
        (meshes.Layout(1, 1), "--mesh: 1 x 1 devices cannot be shared evenly by 2 hosts"),
    ],
)
def test_what_hosts_cannot_share_evenly_is_refused(monkeypatch, layout, said):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=said):
        meshes.choose(layout, num_members=1, batch_size=97)


def test_one_host_agrees_with_itself_at_once():
    assert hosts.consensus(2)([0, 15]).tolist() == [0, 15]
    assert hosts.from_first(lambda: "x") == "x"
    assert hosts.gather("x") == ["x"]


def test_a_sweep_is_not_shared_this_way(tmp_path):
    found = run_script(
        "sweep.py",
        f"--config={ROOT}/configs/digits.py",
        f"--sweep={ROOT}/configs/sweeps/bounds.py",
        f"--workdir={tmp_path / 'sweep'}",
        "--coordinator=auto",
    )
    assert found.code == 2
    assert found.err == (
        "error: --coordinator: hosts share a sweep with --launcher=ray; leave it out\n"
    )


# From here on with two processes of two CPU devices each, which compute together.

SMALL = (
    f"--config={ROOT}/configs/digits.py",
    "--config.model.latent_dims=(4,)",
    "--config.model.encoder=mlp(hidden_dims=(16,))",
    "--config.dataset.num_validation=37",
    "--config.training.batch_size=100",
    "--config.training.validation_samples=5",
    "--config.training.num_epochs=4",
)
"""56 steps."""


class Ended(NamedTuple):
    """A process that came to its end."""

    code: int
    out: str
    err: str


def _start(script, *arguments, devices):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _start_two(script, *arguments, differing=((), ())):
    address = f"--coordinator=127.0.0.1:{_free_port()}"
    return [
        _start(
            script,
            *arguments,
            *differing[number],
            address,
            "--num_processes=2",
            f"--process_id={number}",
            devices=2,
        )
        for number in range(2)
    ]


def _ends(processes):
    found = [(process, *process.communicate(timeout=240)) for process in processes]
    return [Ended(process.returncode, out, err) for process, out, err in found]


def _together(script, *arguments, differing=((), ())):
    return _ends(_start_two(script, *arguments, differing=differing))


def _alone(script, *arguments):
    (found,) = _ends([_start(script, *arguments, devices=4)])
    assert found.code == 0, found
    return found


def _params(workdir):
    state = runs.load_run(workdir, (8, 8, 1), console=Console(quiet=True)).state
    assert int(state.step) == 56
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]


def _distance(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


def _wait_for_checkpoint(workdir, processes, *, after=0):
    deadline = time.monotonic() + 200
    while max(checkpoints.steps(workdir / "checkpoints"), default=0) <= after:
        assert all(process.poll() is None for process in processes), _ends(processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with four devices, and its evaluation."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    _alone("train.py", *SMALL, f"--workdir={workdir}", "--mesh=data:4")
    _alone("evaluate.py", f"--workdir={workdir}", "--num_samples=50")
    return workdir


def _values(workdir):
    found = json.loads((workdir / "evaluation.json").read_text())["estimates"]
    return {name: row["value"] for name, row in found.items()}


@pytest.mark.slow
def test_two_hosts_give_what_one_does(alone, tmp_path):
    workdir = tmp_path / "run"
    for found in _together("train.py", *SMALL, f"--workdir={workdir}"):
        assert (found.code, found.err) == (0, "")
    assert _distance(_params(workdir), _params(alone)) < 1e-6
    ours, theirs = ((w / "metrics.jsonl").read_text().splitlines() for w in (workdir, alone))
    assert len(ours) == len(theirs) == 4
    budget = ("--estimators=importance,annealed", "--num_examples=5", "--gaps")
    small = (
        "--config.evidence.annealed.num_temperatures=5",
        "--config.evidence.gaps.num_steps=5",
        "--config.evidence.gaps.elbo_samples=20",
    )
    first, second = _together(
        "evaluate.py", f"--workdir={workdir}", "--num_samples=50", *budget, *small
    )
    assert (first.code, first.err) == (0, "")
    assert (second.code, second.err) == (0, "")
    assert "elbo" in first.out
    assert "elbo" not in second.out  # the first one speaks
    found, wanted = _values(workdir), _values(alone)
    assert {"annealed", "jackknife"} <= {*found}
    for name, value in wanted.items():
        assert abs(found[name] - value) < 1e-4, name


BY_STEP = (
    *SMALL,
    "--config.training.max_steps_per_call=1",
    "--config.training.checkpoint_seconds=0",
)
"""A checkpoint after each step, so that there is time to stop it."""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_host_ends_the_other_and_the_run_goes_on_later(alone, tmp_path, victim):
    """Killed after its first checkpoint; one process with four devices ends what two began."""
    flags = (*BY_STEP, f"--workdir={tmp_path / 'run'}")
    processes = _start_two("train.py", *flags)
    _wait_for_checkpoint(tmp_path / "run", processes)
    processes[victim].kill()
    begun = time.monotonic()
    left = _ends(processes)[1 - victim]
    assert left.code == 1, left
    assert left.err.startswith("error: another host of this run, or the connection to it, was lost")
    assert left.err.count("\n") == 1, left.err
    assert time.monotonic() - begun < 60
    assert _no_child_is_left(processes[victim].pid)
    assert "resuming from step" in _alone("train.py", *flags, "--mesh=data:4").out
    assert _distance(_params(tmp_path / "run"), _params(alone)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_host_saves_and_stops_all(alone, tmp_path, told):
    """Begun by one process with four devices, stopped and ended by two."""
    flags, workdir = (*BY_STEP, f"--workdir={tmp_path / 'run'}"), tmp_path / "run"
    begun = [_start("train.py", *flags, "--mesh=data:4", devices=4)]
    _wait_for_checkpoint(workdir, begun)
    begun[0].terminate()
    assert _ends(begun)[0].code == 128 + signal.SIGTERM
    before = max(checkpoints.steps(workdir / "checkpoints"))
    processes = _start_two("train.py", *flags)
    _wait_for_checkpoint(workdir, processes, after=before)
    processes[told].terminate()
    first, second = _ends(processes)
    assert (first.code, first.err) == (128 + signal.SIGTERM, "")
    assert (second.code, second.err) == (128 + signal.SIGTERM, "")
    stopped = max(checkpoints.steps(workdir / "checkpoints"))
    assert before < stopped < 56
    assert f"stopped at step {stopped}; run again to resume" in first.out
    for found in _together("train.py", *flags):
        assert found.code == 0, found
    assert _distance(_params(workdir), _params(alone)) < 1e-6


@pytest.mark.slow
def test_what_is_wrong_is_one_line_on_every_host(alone, tmp_path):
    flags = (*SMALL, f"--workdir={tmp_path / 'run'}")
    cases = {
        "error: hosts disagree (process 0 != process 1): config.seed (0 != 3)": (
            (flags, ((), ("--config.seed=3",)))
        ),
        "error: config.training.batch_size=97 cannot be shared evenly by 2 hosts": (
            ((*flags, "--config.training.batch_size=97"), ((), ()))
        ),
        f"error: {alone} holds a run with another config": (
            ((*SMALL, f"--workdir={alone}", "--config.seed=3"), ((), ()))
        ),
    }
    for said, (arguments, differing) in cases.items():
        for found in _together("train.py", *arguments, differing=differing):
            assert found.code == 2, found
            assert found.err.startswith(said), found
            assert found.err.count("\n") == 1, found
    assert not (tmp_path / "run").exists()


def _no_child_is_left(pid):
    """Whether the process that computed for `pid`, which was killed, has ended too."""
    for _ in range(100):
        if not any(f" {pid} " in _status(path) for path in pathlib.Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.1)
    return False


def _status(path):
    try:
        return (path / "stat").read_text()
    except OSError:
        return ""
