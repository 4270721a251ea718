"""Digits members (seeds x learning rates) as one program against one after another."""

import concurrent.futures
import multiprocessing
import pathlib
import tempfile
import time
from typing import Any

from rich.console import Console

from vaejax import config as config_lib
from vaejax.experiment import devices
from vaejax.sweeps import members as sweeps
from vaejax.training import loop
from vaejax.training import train as train_run
from vaejax.training.standing import Run, Surroundings


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
    devices.use_all_cores()
    around = Surroundings(Console(quiet=True), lambda: False, lambda *_: None)
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run(m.name, pathlib.Path(folder, m.name), m.config) for m in members]
        return _timed(lambda: loop.train_together(runs, around))


def _in_a_new_process(function, argument):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, argument).result()


def compare(config: config_lib.Config, *, num_members: int, num_alone: int) -> dict[str, Any]:
    """Seconds, wall and CPU, of `num_members` runs both ways, and their ratio.

    Both ways train the same runs with all their files, compilations included, each in a
    process of its own; `num_alone` members are timed one after another and scaled up. CPU
    seconds are those of all threads, which other work on the machine disturbs less.
    """
    rates = sweeps.log_uniform("optimizer.learning_rate", 1e-4, 3e-3, n=num_members // 2, seed=0)
    members = sweeps.members(config, sweeps.with_seeds(rates, 2))
    single = _in_a_new_process(_alone, members[:num_alone])
    together = _in_a_new_process(_together, members)
    alone = {k: len(members) * sum(run[k] for run in single) / len(single) for k in together}
    return {
        "members": len(members),
        "epochs": config.training.num_epochs,
        "one_after_another": alone,
        "one_program": together,
        "ratio": {k: alone[k] / together[k] for k in together},
    }
