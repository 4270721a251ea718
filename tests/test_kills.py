"""Twenty SIGKILLs at random moments of a run, and of a sweep, change nothing of what comes out."""

import json
import random
import signal
import time

import jax
import numpy as np
import pytest
from rich.console import Console
from run_script import run_script, start_script

from vaejax.training import runs

KILLS = 20
SMALL = (
    "--config=configs/digits.py",
    "--config.model.latent_dims=(3,)",
    "--config.model.encoder=mlp(hidden_dims=(8,))",
    "--config.dataset.num_validation=37",
    "--config.training.batch_size=200",
    "--config.training.checkpoint_seconds=0",
    "--config.training.ema_decay=0.9",
    "--config.evaluation.num_samples=300",
)
RUN = (*SMALL, "--config.training.num_epochs=300", "--config.training.patience=100")
SWEEP = """
def get_sweep():
    rates = [{"optimizer.learning_rate": rate} for rate in (1e-3, 3e-3)]
    return [*rates, {"name": "k2", "objective.num_samples": 2}]
"""


def _progress(workdir):
    """What is on the disk for good: steps saved and evaluations published; it only grows."""
    steps = {}
    for path in (*workdir.glob("checkpoints/*"), *workdir.glob("*/checkpoints/*")):
        if path.name.isdecimal():
            steps[path.parent] = max(steps.get(path.parent, 0), int(path.name))
    return sum(steps.values()) + len([*workdir.glob("*/evaluation*.json")])


def _killed(command, workdir, folder, moment, *, longest):
    """Starts `command` and kills it at a random moment; False: it ended before.

    A quarter of the moments lie anywhere in the first seconds, start-up included; the others
    up to `longest` seconds after something was saved, so that the work gets on even on a slow
    machine.
    """
    before, anywhere = _progress(workdir), moment.random() < 0.25
    pause = moment.uniform(0.1, 3.0) if anywhere else moment.uniform(0.0, longest)
    process = start_script(*command, folder=folder)
    while not anywhere and process.is_alive() and _progress(workdir) <= before:
        time.sleep(0.01)
    process.join(pause)
    process.kill()
    process.join(60)
    code = process.exitcode
    assert code in (0, -signal.SIGKILL), (code, (folder / "err").read_text())
    return code != 0


def _leaves(workdir):
    state = runs.load_run(workdir, (8, 8, 1), console=Console(quiet=True))[2]
    return int(state.step), [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def _metrics(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_bit_for_bit_like_one_that_never_was(tmp_path):
    workdir, whole, moment = tmp_path / "run", tmp_path / "whole", random.Random(0)
    assert run_script("train.py", *RUN, f"--workdir={whole}", timeout=600).code == 0
    command = ("train.py", *RUN, f"--workdir={workdir}")
    for count in range(KILLS):
        assert _killed(command, workdir, tmp_path, moment, longest=0.15), (
            f"ended before kill {count}"
        )
    finished = run_script(*command, timeout=600)
    assert finished.code == 0, finished.err
    assert "resuming from step" in finished.out
    assert _leaves(workdir) == _leaves(whole)
    assert _metrics(workdir) == _metrics(whole)
    left = [path for path in workdir.rglob("*") if path.name.endswith(".tmp")]
    assert not [path for path in left if path.stat().st_size > 10**6], left


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_ends_in_the_same_table(tmp_path):
    """Two programs of two members and one, killed in training, evaluation and saving.

    A launch that ends before it is killed does not count: an evaluation is removed, and the
    next one has it to do.
    """
    (tmp_path / "sweep.py").write_text(SWEEP)
    flags = (*SMALL, "--config.training.num_epochs=3", f"--sweep={tmp_path / 'sweep.py'}")
    workdir, whole, moment = tmp_path / "sweep", tmp_path / "whole", random.Random(1)
    assert run_script("sweep.py", *flags, f"--workdir={whole}", timeout=600).code == 0
    command, kills, between = ("sweep.py", *flags, f"--workdir={workdir}"), 0, 0
    while kills < KILLS:
        kills += _killed(command, workdir, tmp_path, moment, longest=0.4)
        found = sorted(workdir.glob("*/evaluation*.json"))
        between += 0 < len(found) < 6
        if (workdir / "sweep.csv").exists():
            for path in (moment.choice(found), workdir / "sweep.csv"):
                path.unlink()
    assert between >= 3  # some came between the evaluations
    finished = run_script(*command, timeout=600)
    assert finished.code == 0, finished.err
    assert (workdir / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()
