"""Calls of the compiled training program: started ahead, read while the next one runs.

A call is started before the results of the one before are read, so that a device never waits
for the host. What a call gave is read at once only where the states it left are needed: they
are donated to the next one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from vaejax import hosts, meshes
from vaejax.config import Config
from vaejax.evaluation import validation
from vaejax.storage import logging
from vaejax.training import programs, records
from vaejax.training import step as training
from vaejax.training.programs import Group
from vaejax.training.standing import Report, Run, Tally
from vaejax.training.step import TrainState

Row = dict[str, float]


class Stepper(NamedTuple):
    """Compiled programs with the arguments that stay.

    Attributes:
      program: `programs.compile_call`.
      configs, images: its arguments.
      validate: starts the validation of all runs; None where there are no images for it.
      update_best: `programs.make_best_updater`.
    """

    program: Callable
    configs: Config
    images: Array
    validate: validation.Validator | None
    update_best: Callable


class Call(NamedTuple):
    """A call that was started; [M] each, the padding included.

    Attributes:
      step: of each run after it.
      active: whether a run takes part.
      due: whether it is validated after it.
      metrics: on the devices.
      values: waits for the validation; None: no run is due.
    """

    step: np.ndarray
    active: np.ndarray
    due: np.ndarray
    metrics: training.Metrics
    values: Callable[[], validation.Values] | None


def make_stepper(group: Group, program: Callable, configs: Config, images: Array) -> Stepper:
    """The programs of a group."""
    setup, validate = group.setup, None
    if setup.data.validation is not None:
        validate = validation.make(
            setup.config,
            setup.model,
            setup.data.validation.x,
            num_runs=group.rows if group.stacked else None,
            mesh=group.mesh if group.stacked or hosts.several() else None,
        )
    return Stepper(program, configs, images, validate, programs.make_best_updater(group))


def start(
    group: Group, stepper: Stepper, states: TrainState, tally: Tally
) -> tuple[TrainState, Call]:
    """Starts one call, and the validation of the states it leaves, for the runs that are active."""
    active = programs.place_per_run(group, tally.active.copy())
    states, metrics = stepper.program(stepper.configs, states, stepper.images, active)
    tally.step[tally.active] += group.setup.plan.steps_per_call
    due = np.zeros(group.rows, bool)
    for index in np.flatnonzero(tally.active) if stepper.validate else ():
        due[index] = records.validation_due(group.setup, int(tally.step[index]))
    values = stepper.validate(training.averaged_params(states)) if due.any() else None
    return states, Call(tally.step.copy(), tally.active.copy(), due, metrics, values)


def needs_states(group: Group, call: Call) -> bool:
    """Whether the states that a call leaves are wanted: by early stopping, pictures, or the end."""
    setup = group.setup
    if setup.config.training.patience is not None:
        return True
    steps = call.step[call.active]
    pictured = call.step[call.due]
    return bool(
        (steps >= setup.plan.num_steps).any()
        or any(records.pictures_due(setup, int(step)) for step in pictured)
    )


def settle(
    group: Group, members: Sequence[Run], call: Call, tally: Tally
) -> tuple[dict[int, Row], validation.Values | None]:
    """Waits for a call: each active run's row, and the validation's values where any was due.

    A run that diverged is frozen, and has no row.
    """
    rows, host = {}, meshes.fetch(call.metrics)
    values = call.values() if call.values is not None else None
    for index in map(int, np.flatnonzero(call.active & tally.active)):
        own, step = programs.pick(group, host, index), int(call.step[index])
        problem = records.divergence(own, step=step)
        if problem is None:
            rows[index] = records.metrics_row(group.setup.plan, own, step=step)
            continue
        tally.active[index] = False
        kept = int(tally.saved[index])
        last = f"the last good checkpoint is of step {kept}" if kept else "no checkpoint yet"
        tally.errors[index] = f"{problem} ({last} in {members[index].workdir})"
    for index in rows:
        if call.due[index]:
            for name, value in values.items():
                rows[index][name] = float(programs.per_run(group, value)[index])
    return rows, values


def update_best(
    group: Group,
    stepper: Stepper,
    states: TrainState,
    call: Call,
    values: validation.Values,
    tally: Tally,
) -> TrainState:
    """`states` with the best of each run that was due; counts those that got no better."""
    scores = np.asarray(values["validation/iwae"], np.float32)
    scores = programs.per_run(group, scores)
    due = call.due & tally.active
    states = stepper.update_best(
        stepper.configs,
        states,
        programs.place_per_run(group, scores),
        programs.place_per_run(group, due),
    )
    tally.stale = programs.per_run(group, meshes.fetch(states.best.stale)).copy()
    return states


def write_rows(
    members: Sequence[Run],
    call: Call,
    rows: dict[int, Row],
    tally: Tally,
    writers: dict[int, logging.MetricsWriter],
    report: Report,
) -> None:
    """Every active run's row into its own metrics, and its progress to the reader."""
    for index, row in rows.items():
        row["seconds"] = round(tally.seconds[index], 3)
        writers[index].scalars(int(call.step[index]), row)
        shown = "validation/iwae" if "validation/iwae" in row else "train/elbo"
        done = int(call.step[index]) * members[index].config.training.batch_size
        report(members[index].name, done, f"{shown} {row[shown]:.2f}")
