"""Launching a sweep: check everything, train and evaluate what is missing, write the tables."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from rich.console import Console

from vaejax import config as config_lib
from vaejax import consistency, meshes
from vaejax.config import Config
from vaejax.data import splits
from vaejax.errors import Stopped, UserError, counted
from vaejax.runs import evaluate
from vaejax.storage import files, json_files, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps import members as sweeps
from vaejax.sweeps import ray_launcher, results
from vaejax.sweeps.members import Member
from vaejax.sweeps.results import Result
from vaejax.training import loop, programs, train
from vaejax.training.standing import Outcome, Report, Run, Surroundings

SWEEP, TABLE, GROUPS, FAILED = "sweep.json", "sweep.csv", "groups.json", "failed.json"
LAUNCHERS = ("local", "ray")
Failures = dict[str, str]
"""Member -> why it failed."""


class Task(NamedTuple):
    """What every group of a sweep must know.

    Attributes:
      workdir: folder of the sweep.
      memory: bytes of one device to use; None: what is sensible.
      layout: the mesh of devices that is asked for.
      loggers: where the members' numbers go, of `logging.LOGGERS`.
    """

    workdir: pathlib.Path
    memory: int | None = None
    layout: meshes.Layout = meshes.BY_ITSELF
    loggers: tuple[str, ...] = logging.DEFAULT


def sweep(
    config: Config,
    items: Sequence[sweeps.Overrides],
    task: Task,
    *,
    console: Console,
    launcher: str = "local",
    address: str | None = None,
) -> list[Result]:
    """Trains and evaluates all members that `items` make of `config`, and writes the tables.

    What was finished by an earlier launch is not done again; the results do not depend on
    how often the sweep was killed. Results come in the order of `items`.

    Raises:
      UserError: every problem with the members, found before any is started; a workdir in
        use; Ray missing or not reachable.
      Stopped: SIGTERM or SIGINT came first; what was done is saved.
    """
    members, workdir = sweeps.members(config, items), task.workdir
    check(members, workdir)
    for warning in dict.fromkeys(w for m in members for w in consistency.warnings(m.config)):
        logging.warn(console, f"config.{warning}")
    if launcher == "ray":
        ray_launcher.connect(address)
    with workdir_lib.lock(workdir) as warning, train.stop_signal() as signal_came:
        if warning:
            logging.warn(console, warning)
        files.require_writable(workdir, (SWEEP, TABLE, GROUPS))
        groups = _groups(members, workdir)
        missing = [group for group in groups if not all(is_done(m, workdir) for m in group)]
        console.print(
            f"{len(members)} members in {len(groups)} programs; {len(missing)} programs to run"
        )
        stopped = lambda: signal_came() is not None  # noqa: E731
        with _progress(missing, console) as report:
            if launcher == "ray" and missing:
                failures = ray_launcher.run_groups(
                    functools.partial(run_group, task=task._replace(workdir=workdir.absolute())),
                    missing,
                    workdir,
                    address=address,
                    num_devices=task.layout.num_devices,
                    stopped=stopped,
                    report=report,
                )
            else:
                failures = _run_here(missing, task, Surroundings(console, stopped, report))
        if stopped():
            console.print("stopped; run the same command again to resume")
            raise Stopped(signal_came())
        found = [_result(member, workdir, failures.get(member.name)) for member in members]
        _write_tables(workdir, found)
    return found


def _write_tables(workdir: pathlib.Path, found: Sequence[Result]) -> None:
    table = results.csv_text(found).encode()
    summary = files.json_text(results.summary(found)).encode()
    writers = {SWEEP: lambda file: file.write(summary), TABLE: lambda file: file.write(table)}
    files.publish(workdir, writers)


def failure_line(found: Sequence[Result]) -> str | None:
    """One line naming the members that failed and why, or None."""
    failed = [f"{r.member.name}: {r.error}" for r in found if r.error is not None]
    if not failed:
        return None
    return f"{len(failed)} of {len(found)} members failed: {'; '.join(failed)}"


def check(members: Sequence[Member], workdir: pathlib.Path) -> None:
    """Checks data, models and folders of all members. Raises UserError naming all problems."""
    problems = []
    splits.held_out(members[0].config, "test")
    for group in sweeps.groups(members):
        try:
            programs.set_up(group[0].config)
        except UserError as error:
            problems.append(f"member {group[0].name!r}: {error}")
    for member in members:
        folder = workdir / member.name
        if (folder / workdir_lib.CONFIG).is_file():
            found = config_lib.differences(member.config, workdir_lib.read_config(folder))
            if found:
                problems.append(
                    f"member {member.name!r}: {folder} holds a run with another config (given != "
                    f"there): {', '.join(found)}; choose another workdir or the same values"
                )
    if problems:
        raise UserError(f"--sweep: {counted(problems)}; nothing was started")


def _groups(members: Sequence[Member], workdir: pathlib.Path) -> list[list[Member]]:
    """Members by program, as an earlier launch had them together, so that resuming computes
    the very same numbers; members new to the sweep make programs of their own.
    """
    path, by_name = workdir / GROUPS, {member.name: member for member in members}
    recorded = json_files.read_json(path, json_files.GROUPS) if path.is_file() else []
    known = {name for names in recorded for name in names}
    earlier = [[by_name[name] for name in names if name in by_name] for names in recorded]
    together = [part for group in earlier for part in sweeps.groups(group)]
    fresh = sweeps.groups([member for member in members if member.name not in known])
    names = recorded + [[member.name for member in group] for group in fresh]
    workdir_lib.write_json(path, names, root=workdir)
    return together + fresh


def _num_steps(member: Member) -> int:
    return programs.set_up(member.config).plan.num_steps


def is_done(member: Member, workdir: pathlib.Path) -> bool:
    """Whether nothing is left to do: its evaluations are there, or the run diverged."""
    folder = workdir / member.name
    if (folder / FAILED).is_file():
        return True
    wanted = results.splits_of(member.config)
    return all(evaluate.is_evaluated(folder, member.config, split) for split in wanted)


def _result(member: Member, workdir: pathlib.Path, error: str | None) -> Result:
    folder = workdir / member.name
    if (folder / FAILED).is_file():
        error = json_files.read_json(folder / FAILED, json_files.FAILED)["error"]
    if error is not None or not is_done(member, workdir):
        return Result(member, None, error or "was not finished")
    read = lambda split: evaluate.read_estimates(folder, split)  # noqa: E731
    return Result(member, {split: read(split) for split in results.splits_of(member.config)}, None)


@contextlib.contextmanager
def _progress(groups: Sequence[Sequence[Member]], console: Console) -> Iterator[Report]:
    """A bar over the examples of all members; yields the loop's `Report`."""
    done: dict[str, int] = {}
    sizes = [_num_steps(m) * m.config.training.batch_size for group in groups for m in group]
    total = sum(sizes) or 1
    with logging.progress(console, "sweep", done=0, total=total, unit="examples") as show:

        def report(name: str, examples: int, text: str) -> None:
            done[name] = examples
            show(sum(done.values()), f"{name} {text}")

        yield report


def _run_here(groups: Sequence[Sequence[Member]], task: Task, around: Surroundings) -> Failures:
    failures: Failures = {}
    for group in groups:
        if not around.stopped():
            failures |= run_group(
                group,
                task=task,
                console=around.console,
                stopped=around.stopped,
                report=around.report,
            )
    return failures


def run_group(
    members: Sequence[Member],
    *,
    task: Task,
    console: Console,
    stopped: Callable[[], bool],
    report: Report,
) -> Failures:
    """Trains and evaluates the members of one program; returns those that failed, and why.

    An error of the whole group fails its members and nobody else.
    """
    workdir = task.workdir
    around = Surroundings(console, stopped, report, task.memory, task.layout, task.loggers)
    diverged = [m for m in members if (workdir / m.name / FAILED).is_file()]
    left = [member for member in members if member not in diverged]
    failures = {m.name: "it diverged before" for m in diverged}
    try:
        runs = [Run(member.name, workdir / member.name, member.config) for member in left]
        outcomes = loop.train_together(runs, around) if runs else []
        for run, outcome in zip(runs, outcomes, strict=True):
            if outcome.error is not None:
                failures[run.name] = outcome.error
            if outcome.diverged:
                _record_failure(run.workdir, outcome)
        if not stopped():
            _evaluate([m for m in left if m.name not in failures], workdir, stopped, report)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        text = " ".join(str(error).split())
        failures |= {m.name: text for m in left if not is_done(m, workdir)}
    return failures


def _record_failure(folder: pathlib.Path, outcome: Outcome) -> None:
    """Notes that the run in `folder` diverged: it would again, so it is not tried again."""
    advice = f"remove {FAILED} to train it again"
    step = int(outcome.state.step)
    values = {"step": step, "error": outcome.error, "retry": advice}
    workdir_lib.write_json(folder / FAILED, values, root=folder)


def _evaluate(
    members: Sequence[Member], workdir: pathlib.Path, stopped: Callable[[], bool], report: Report
) -> None:
    """Evaluates every member that is trained and has no evaluation yet, on each split."""
    quiet = Console(quiet=True)
    for split in results.SPLITS:
        for member in members:
            folder = workdir / member.name
            if stopped():
                return
            if split not in results.splits_of(member.config):
                continue
            if evaluate.is_evaluated(folder, member.config, split):
                continue
            done = _num_steps(member) * member.config.training.batch_size
            report(member.name, done, f"evaluating on {split}")
            last = split == results.SPLITS[-1]  # whose figures would replace those before
            evaluate.evaluate(folder, split=split, draw=last, console=quiet)
