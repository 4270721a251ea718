"""Training one run in memory: the loop of `loop`, without a folder, files or signals."""

from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from vaejax import meshes
from vaejax.config import Config
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.training import calls, memory, programs, records, runs
from vaejax.training import step as training
from vaejax.training.calls import Stepper
from vaejax.training.programs import Group, Setup
from vaejax.training.standing import Tally
from vaejax.training.step import TrainState

Row = dict[str, Any]


class Finished(NamedTuple):
    """A run at its end.

    Attributes:
      setup: config, data, model and plan.
      state: the last state, on the host.
      rows: what metrics.jsonl would hold, without `seconds`.
    """

    setup: Setup
    state: TrainState
    rows: list[Row]


def train(config: Config, *, given: splits.Sources | None = None) -> Finished:
    """Trains the run of `config` from its first step to its last.

    The end state is, bit for bit, that of `train.train` with the same config on one device.

    Args:
      config: a validated config.
      given: splits by name instead of those of `dataset.name`, of `sources.from_arrays`.

    Raises:
      UserError: bad data, a model that does not fit them or the memory, or a loss that is no
        longer finite.
    """
    setup = programs.set_up(config, given=given)
    group = programs.make_group([config], setup)
    configs = programs.stacked_configs(group)
    start = runs.start_params(config, setup.data.spec, console=Console(quiet=True))
    state = training.started_from(programs.initial_states(group, configs)[0], start)
    images = programs.place(group, setup.data.images, shared=True)
    states = programs.stack(group, [jax.device_get(state)])
    program = programs.compile_call(group, configs, states, images)
    memory.check_training(program, config, limit=memory.device_bytes(jax.devices()[0]))
    states, rows = _loop(group, calls.make_stepper(group, program, configs, images), states)
    return Finished(setup, meshes.fetch(states), rows)


def _loop(group: Group, stepper: Stepper, states: TrainState) -> tuple[TrainState, list[Row]]:
    rows, setup = [], group.setup
    zeros = lambda kind: np.zeros(1, kind)  # noqa: E731
    tally = Tally(zeros(int), zeros(int), zeros(int), ~zeros(bool), zeros(float), {})
    while tally.active.all():
        states, call = calls.start(group, stepper, states, tally)
        metrics, step = meshes.fetch(call.metrics), int(call.step[0])
        problem = records.divergence(metrics, step=step)
        if problem is not None:
            raise UserError(problem)
        values = {} if call.values is None else call.values()
        if values and states.best is not None:
            states = calls.update_best(group, stepper, states, call, values, tally)
        row = records.metrics_row(setup.plan, metrics, step=step)
        rows.append({"step": step, **row, **{k: float(v) for k, v in values.items()}})
        tally.active[0] = not training.is_finished(
            setup.config, setup.plan, step=step, stale=int(tally.stale[0])
        )
    return states, rows
