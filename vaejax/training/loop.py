"""The one training loop, with all its I/O: for a run alone, and for runs trained as one program.

Each run keeps the folder, files and results of a run of its own. One that is done, or has
diverged, is frozen: the others cannot change it, nor it them. The end state does not depend on
how often a run was killed and started again.
"""

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from vaejax import hosts, meshes
from vaejax.errors import UserError
from vaejax.storage import checkpoints, logging
from vaejax.storage.checkpoints import Saver
from vaejax.training import calls, programs, records, runs, standing
from vaejax.training.calls import Call, Stepper
from vaejax.training.programs import Group
from vaejax.training.standing import Outcome, Run, Surroundings, Tally
from vaejax.training.step import TrainState


def train_together(members: Sequence[Run], around: Surroundings) -> list[Outcome]:
    """Trains, or resumes, runs of one static config as one program.

    Where they do not fit the memory, or the limit on open files, together: some at a time.

    Raises:
      UserError: bad data, a full disk, a single run that does not fit the memory.
    """
    begun = time.monotonic()
    most = standing.runs_with_open_files(len(members), around.console)
    if most < len(members):
        return _in_parts(members, around, most)
    setup = programs.set_up(members[0].config)
    with contextlib.ExitStack() as stack:
        refused = standing.claim(members, stack, around.console)
        kept = [run for run in members if run.name not in refused]
        outcomes = {name: Outcome(None, error) for name, error in refused.items()}
        if kept:
            configs = [run.config for run in kept]
            try:
                group = programs.make_group(configs, setup, around.layout)
                found = _train_group(group, kept, around, stack, begun)
            except UserError:
                standing.forget_unstarted(kept)
                raise
            if isinstance(found, int):
                stack.close()
                return _in_parts(members, around, found)
            outcomes |= {run.name: outcome for run, outcome in zip(kept, found, strict=True)}
    return [outcomes[run.name] for run in members]


def _in_parts(members: Sequence[Run], around: Surroundings, size: int) -> list[Outcome]:
    parts = [members[first : first + size] for first in range(0, len(members), size)]
    return [outcome for part in parts for outcome in train_together(part, around)]


def _train_group(
    group: Group,
    members: Sequence[Run],
    around: Surroundings,
    stack: contextlib.ExitStack,
    begun: float,
) -> list[Outcome] | int:
    """What became of the runs, or how many of them fit the memory at a time."""
    configs = programs.stacked_configs(group)
    states = standing.first_states(group, configs, members, around.console)
    tally = standing.make_tally(group, members, states)
    if not tally.active.any():
        for run, state in zip(members, states, strict=True):
            around.console.print(
                f"{run.workdir}: already finished at step {int(state.step):,}",
                soft_wrap=True,
                markup=False,
            )
        return [Outcome(state) for state in states]
    standing.warn_of_lost_moments(members, states, around.console)
    images = programs.place(group, group.setup.data.images, shared=True)
    stacked = programs.stack(group, states)
    program = programs.compile_call(group, configs, stacked, images)
    size = standing.runs_that_fit(group, program, around)
    if size < len(members):
        return size
    stepper = calls.make_stepper(group, program, configs, images)
    files = _open_files(group, members, tally, around.loggers, stack)
    stacked = _loop(group, members, stepper, stacked, tally, files, around, begun)
    last = meshes.fetch(stacked)
    return [
        Outcome(programs.pick(group, last, i), tally.errors.get(i), i in tally.errors)
        for i in range(len(members))
    ]


class _Files(NamedTuple):
    """Open files of the runs that are trained, by index."""

    writers: dict[int, logging.MetricsWriter]
    savers: dict[int, Saver]


def _open_files(
    group: Group,
    members: Sequence[Run],
    tally: Tally,
    loggers: Sequence[str],
    stack: contextlib.ExitStack,
) -> _Files:
    pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="checkpoints"))
    writers, savers = {}, {}
    for index in map(int, np.flatnonzero(tally.active)):
        run = members[index]
        keep = run.config.training.checkpoints_to_keep
        folder = run.workdir / runs.CHECKPOINTS
        savers[index] = stack.enter_context(checkpoints.open_saver(folder, keep=keep, pool=pool))
        step = int(tally.step[index])
        opened = logging.metrics_writer(run.workdir, step=step, loggers=loggers)
        writers[index] = stack.enter_context(opened)
    return _Files(writers, savers)


def _loop(
    group: Group,
    members: Sequence[Run],
    stepper: Stepper,
    states: TrainState,
    tally: Tally,
    files: _Files,
    around: Surroundings,
    begun: float,
) -> TrainState:
    """Calls the program until no run is active; every run's rows, pictures and checkpoints."""
    saved_at, waiting = time.monotonic(), []
    pause, ask = group.setup.config.training.checkpoint_seconds, hosts.consensus(2)

    def settle(call: Call) -> tuple[dict[int, calls.Row], Any]:
        nonlocal begun
        found = calls.settle(group, members, call, tally)
        tally.seconds[call.active] += (time.monotonic() - begun) / call.active.sum()
        begun = time.monotonic()
        calls.write_rows(members, call, found[0], tally, files.writers, around.report)
        return found

    while tally.active.any():
        due_here = hosts.is_first() and time.monotonic() - saved_at >= pause
        stopped, save_due = ask([around.stopped(), due_here])
        if stopped:
            break
        states, call = calls.start(group, stepper, states, tally)
        waiting.append(call)
        now = save_due or calls.needs_states(group, call)
        while len(waiting) > 1:
            settle(waiting.pop(0))
        if not now:
            continue
        rows, values = settle(waiting.pop())
        if values is not None and states.best is not None:
            states = calls.update_best(group, stepper, states, call, values, tally)
        _write_pictures(group, call, states, rows, files)
        ended = [i for i in rows if standing.finished(group, tally.step[i], tally.stale[i])]
        tally.active[ended] = False
        saving = time.monotonic()
        _save(group, tally, states, files, [*rows] if save_due else ended)
        if save_due:
            saved_at = time.monotonic()
            # Saving many runs may take a twentieth of the time, unless each call is wanted.
            pause = pause and max(pause, 20 * (saved_at - saving))
        _end(group, members, states, files, ended)
    for call in waiting:
        settle(call)
    _save(group, tally, states, files, np.flatnonzero(tally.active))
    return states


def _write_pictures(
    group: Group, call: Call, states: TrainState, rows: dict[int, calls.Row], files: _Files
) -> None:
    wanted = [
        index
        for index in rows
        if call.due[index] and records.pictures_due(group.setup, int(call.step[index]))
    ]
    host = meshes.fetch(states) if wanted else None
    for index in wanted:
        state = programs.pick(group, host, index)
        records.write_pictures(group.setup, state, files.writers[index])


def _save(
    group: Group, tally: Tally, states: TrainState, files: _Files, indices: Sequence[int]
) -> None:
    host = meshes.fetch(states) if len(indices) else None
    for index in map(int, indices):
        files.savers[index].save(programs.pick(group, host, index))
        tally.saved[index] = tally.step[index]


def _end(
    group: Group, members: Sequence[Run], states: TrainState, files: _Files, ended: Sequence[int]
) -> None:
    """What a run leaves at its end, its last checkpoint on the disk first."""
    host = meshes.fetch(states) if ended else None
    for index in ended:
        files.savers[index].wait()
        state = programs.pick(group, host, index)
        records.write_training_figures(group.setup, members[index].workdir, state)
