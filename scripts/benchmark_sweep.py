"""Digits members (seeds x learning rates) as one program against one after another.

python scripts/benchmark_sweep.py [--members=16] [--epochs=300] [--alone=2]

Prints JSON. Both ways train the same runs with all their files, compilations included, each
in a process of its own; `--alone` members are timed one after another and scaled up.
`seconds` is wall time, `cpu_seconds` that of all threads, which other work on the machine
disturbs less.
"""

import concurrent.futures
import json
import multiprocessing
import pathlib
import tempfile
import time

from absl import flags
from rich.console import Console

from vaejax import cli, sweep_group, sweep_train, sweeps, train_run
from vaejax import config as config_lib

MEMBERS = flags.DEFINE_integer("members", 16, "runs in the sweep, an even number")
EPOCHS = flags.DEFINE_integer("epochs", 300, "epochs of each run")
ALONE = flags.DEFINE_integer("alone", 2, "runs timed one after another")


def _timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def _alone(members):
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        return [
            _timed(
                lambda m=m: train_run.train(m.config, pathlib.Path(folder, m.name), console=quiet)
            )
            for m in members
        ]


def _together(members):
    sweep_group.use_all_cores()
    options = {"stopped": lambda: False, "report": lambda *_: None, "console": Console(quiet=True)}
    with tempfile.TemporaryDirectory() as folder:
        return _timed(lambda: sweep_train.train(members, pathlib.Path(folder), **options))


def _in_a_new_process(function, argument):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, argument).result()


def main(console):
    """Times both ways and prints the ratio."""
    config = config_lib.load("configs/digits.py")
    config = config_lib.override(config, "training.num_epochs", EPOCHS.value)
    rates = sweeps.log_uniform("optimizer.learning_rate", 1e-4, 3e-3, n=MEMBERS.value // 2, seed=0)
    members = sweeps.members(config, sweeps.with_seeds(rates, 2))
    single = _in_a_new_process(_alone, members[: ALONE.value])
    together = _in_a_new_process(_together, members)
    alone = {k: len(members) * sum(run[k] for run in single) / len(single) for k in together}
    result = {
        "members": len(members),
        "epochs": EPOCHS.value,
        "one_after_another": alone,
        "one_program": together,
        "ratio": {k: alone[k] / together[k] for k in together},
    }
    console.print_json(json.dumps(result))


if __name__ == "__main__":
    cli.run(main)
