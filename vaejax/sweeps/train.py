"""Training a group of members to the end: the loop around the program of `sweep_group`."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from rich.console import Console

from vaejax.errors import UserError
from vaejax.storage import checkpoints, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps import group as sweep_group
from vaejax.sweeps.group import Group, Report
from vaejax.sweeps.members import Member
from vaejax.training import loop as train_run
from vaejax.training import memory as memory_lib
from vaejax.training.step import TrainState

Failures = dict[str, str]
"""Member -> why it failed."""


@dataclasses.dataclass
class Tally:
    """Where each member stands, on the host; [M] each, the padding included.

    Attributes:
      step, stale: of its state.
      saved: step of its newest checkpoint.
      active: whether it is still trained.
      seconds: its share of the time spent.
    """

    step: np.ndarray
    stale: np.ndarray
    saved: np.ndarray
    active: np.ndarray
    seconds: np.ndarray


def train(
    members: Sequence[Member],
    workdir: pathlib.Path,
    *,
    console: Console,
    stopped: Callable[[], bool],
    report: Report,
    memory: int | None = None,
) -> Failures:
    """Trains, or resumes, members of one static config as one program.

    Args:
      members: they differ in traced numbers alone.
      workdir: folder of the sweep; member "m" lives in its subfolder "m".
      console: where warnings, and a split for want of memory, are said.
      stopped: tells when to save and return.
      report: called for every member after every scan.
      memory: bytes of one device to use; None: `memory.device_bytes`.

    Raises:
      UserError: bad data, a full disk, or a member that does not fit the memory.
    """
    begun = time.monotonic()
    group = sweep_group.make_group(members, workdir, console=console)
    numbers = sweep_group.member_numbers(group)
    with contextlib.ExitStack() as stack:
        failures = _claim(group, stack)
        states = sweep_group.first_states(group, numbers)
        tally = _tally(group, states, failures)
        if not tally.active.any():
            return failures
        images = sweep_group.training_images(group)
        program = sweep_group.compile_program(group, numbers, images)
        size = _members_that_fit(group, program, memory)
        if size == len(members):
            run = lambda states, active: program(numbers, states, images, active)  # noqa: E731
            writers = {
                int(index): stack.enter_context(_writer(group, tally, index))
                for index in np.flatnonzero(tally.active)
            }
            _loop(group, run, states, tally, writers, failures, stopped, report, begun)
            return failures
    options = {"console": console, "stopped": stopped, "report": report, "memory": memory}
    for first in range(0, len(members), size):
        failures |= train(members[first : first + size], workdir, **options)
    return failures


def _device_bytes(group: Group) -> int:
    return memory_lib.device_bytes(group.mesh.devices[0], sharers=group.mesh.size)


def _members_that_fit(group: Group, program, memory: int | None) -> int:
    """How many members to train at a time; says so where it is not all of them."""
    members, needed = len(group.members), memory_lib.program_bytes(program)
    limit = memory or _device_bytes(group)
    if members == 1:
        memory_lib.check_training(program, group.members[0].config, limit=_device_bytes(group))
    if needed <= limit or members == 1:
        return members
    size = min(max(1, int(members * limit / needed)), members - 1)
    group.console.print(
        f"{members} members need {needed / 2**30:.2g} GiB of a device, {limit / 2**30:.2g} may "
        f"be used: training {size} at a time",
        soft_wrap=True,
    )
    return size


def _writer(group: Group, tally: Tally, index: int):
    folder = group.workdir / group.members[index].name
    return logging.metrics_writer(folder, step=int(tally.step[index]))


def _claim(group: Group, stack: contextlib.ExitStack) -> Failures:
    """Locks every member's folder; those that cannot be had, or diverged before, fail."""
    failures: Failures = {}
    for member in group.members:
        folder = group.workdir / member.name
        try:
            stack.enter_context(workdir_lib.lock(folder))
            workdir_lib.claim(folder, member.config)
        except UserError as error:
            failures[member.name] = str(error)
        if (folder / sweep_group.FAILED).is_file():
            failures[member.name] = workdir_lib.read_json(folder / sweep_group.FAILED)["error"]
    return failures


def _tally(group: Group, states: list[TrainState], failures: Failures) -> Tally:
    padding = [0] * (group.rows - len(states))
    step = np.array([int(state.step) for state in states] + padding)
    stale = np.array([0 if s.best is None else int(s.best.stale) for s in states] + padding)
    tally = Tally(step, stale, step.copy(), np.zeros(group.rows, bool), np.zeros(group.rows))
    for index, member in enumerate(group.members):
        tally.active[index] = member.name not in failures and not _finished(group, tally, index)
        folder = group.workdir / member.name
        tally.seconds[index] = sweep_group.seconds_spent(folder, int(step[index]))
    return tally


def _finished(group: Group, tally: Tally, index: int) -> bool:
    session = sweep_group.session(group, index)
    return train_run.is_finished(session, int(tally.step[index]), int(tally.stale[index]))


def _loop(group, program, states, tally, writers, failures, stopped, report, begun) -> None:
    """Scans until no member is active; every member's rows, pictures and checkpoints."""
    judge = _make_judge(group)
    states, saved_at = sweep_group.stack(group, states), time.monotonic()
    pause = group.members[0].config.training.checkpoint_seconds
    while tally.active.any() and not stopped():
        was_active = tally.active.copy()
        states, metrics = program(states, sweep_group.spread(group, tally.active))
        tally.step[tally.active] += group.plan.steps_per_call
        rows = _rows(group, tally, jax.device_get(metrics), failures)
        due = _due(group, tally, rows)
        states = judge(states, tally, rows, due)
        _write_pictures(group, tally, states, due, writers)
        tally.seconds[was_active] += (time.monotonic() - begun) / was_active.sum()
        begun = time.monotonic()
        _write_rows(group, tally, rows, writers, report)
        ended = [index for index in rows if _finished(group, tally, index)]
        tally.active[ended] = False
        if time.monotonic() - saved_at >= pause:
            saving = time.monotonic()
            _save(group, tally, states, [*rows])
            saved_at = time.monotonic()
            # Saving many members may take a twentieth of the time, unless each call is wanted.
            pause = pause and max(pause, 20 * (saved_at - saving))
        elif ended:
            _save(group, tally, states, ended)
        for index in ended:
            state = sweep_group.member_state(jax.device_get(states), index)
            train_run.write_training_figures(sweep_group.session(group, index), state)
    _save(group, tally, states, np.flatnonzero(tally.active))


def _make_judge(group: Group) -> Callable[..., TrainState]:
    """A function that validates members that are due: into their rows, their best, the tally."""
    validate = sweep_group.make_validator(group)
    update_best = sweep_group.make_best_updater(group)

    def judge(states: TrainState, tally: Tally, rows: dict[int, dict], due: np.ndarray):
        if not due.any():
            return states
        values = validate(states)
        for index in np.flatnonzero(due):
            rows[index] |= {name: float(value[index]) for name, value in values.items()}
        if states.best is None:
            return states
        scores = sweep_group.spread(group, values["validation/iwae"].astype(np.float32))
        states = update_best(states, scores, sweep_group.spread(group, due))
        tally.stale = np.array(states.best.stale)
        return states

    return judge


def _write_rows(group: Group, tally: Tally, rows: dict[int, dict], writers, report: Report):
    """Every active member's row into its own metrics, and its progress to the reader."""
    batch_size = group.members[0].config.training.batch_size
    for index, row in rows.items():
        row["seconds"] = round(tally.seconds[index], 3)
        writers[index].scalars(int(tally.step[index]), row)
        shown = "validation/iwae" if "validation/iwae" in row else "train/elbo"
        done = int(tally.step[index]) * batch_size
        report(group.members[index].name, done, f"{shown} {row[shown]:.2f}")


def _rows(group: Group, tally: Tally, metrics: dict, failures: Failures) -> dict[int, dict]:
    """Each active member's means over the scan; one that diverged fails and is frozen."""
    rows = {}
    for index in map(int, np.flatnonzero(tally.active)):
        session, step = sweep_group.session(group, index), int(tally.step[index])
        own = {name: values[index] for name, values in metrics.items()}
        try:
            rows[index] = train_run.metrics_row(session, step, own, int(tally.saved[index]))
        except UserError as error:
            failures[group.members[index].name] = str(error)
            sweep_group.record_failure(session.workdir, step=step, error=error)
            tally.active[index] = False
    return rows


def _due(group: Group, tally: Tally, rows: dict[int, dict]) -> np.ndarray:
    """Which members are validated now, [M]; none where there are no validation images."""
    due = np.zeros(group.rows, bool)
    for index in rows if group.data.validation is not None else ():
        session = sweep_group.session(group, index)
        due[index] = train_run.validation_due(session, int(tally.step[index]))
    return due


def _write_pictures(group, tally, states, due, writers) -> None:
    wanted = [
        index
        for index in np.flatnonzero(due)
        if train_run.pictures_due(sweep_group.session(group, index), int(tally.step[index]))
    ]
    host = jax.device_get(states) if wanted else None
    for index in wanted:
        state = sweep_group.member_state(host, index)
        train_run.write_pictures(sweep_group.session(group, index), state, writers[index])


def _save(group: Group, tally: Tally, states: TrainState, indices: Sequence[int]) -> None:
    keep = group.members[0].config.training.checkpoints_to_keep
    host = jax.device_get(states) if len(indices) else None
    for index in indices:
        folder = group.workdir / group.members[index].name / "checkpoints"
        checkpoints.save(folder, sweep_group.member_state(host, index), keep=keep)
        tally.saved[index] = tally.step[index]
