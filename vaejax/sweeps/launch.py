"""Launching a sweep: check everything, train and evaluate what is missing, write the tables."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
from rich.console import Console

from vaejax import config as config_lib
from vaejax.config import Config
from vaejax.data import splits
from vaejax.errors import UserError
from vaejax.runs import evaluate as evaluate_run
from vaejax.storage import logging
from vaejax.storage import workdir as workdir_lib
from vaejax.sweeps import group as sweep_group
from vaejax.sweeps import members as sweeps
from vaejax.sweeps import ray_launcher as sweep_ray
from vaejax.sweeps import results as sweep_results
from vaejax.sweeps import train as sweep_train
from vaejax.sweeps.members import Member
from vaejax.sweeps.results import Result
from vaejax.sweeps.train import Failures
from vaejax.training import loop as train_run
from vaejax.training import runs
from vaejax.training import step as training
from vaejax.types import DataSpec

SWEEP, TABLE, GROUPS = "sweep.json", "sweep.csv", "groups.json"
LAUNCHERS = ("local", "ray")


def sweep(
    config: Config,
    items: Sequence[sweeps.Overrides],
    workdir: pathlib.Path,
    *,
    console: Console,
    launcher: str = "local",
    address: str | None = None,
    memory: int | None = None,
) -> list[Result] | None:
    """Trains and evaluates all members that `items` make of `config`, and writes the tables.

    What was finished by an earlier launch is not done again; the results do not depend on
    how often the sweep was killed.

    Returns:
      The results, in the order of `items`; None where SIGTERM came first.

    Raises:
      UserError: every problem with the members, found before any is started; a workdir in
        use; Ray missing or not reachable.
    """
    members = sweeps.members(config, items)
    num_images = _check(members, workdir)
    if launcher == "ray":
        sweep_ray.connect(address)
    with workdir_lib.lock(workdir):
        groups = _groups(members, workdir)
        missing = [g for g in groups if not all(is_done(m, workdir, num_images) for m in g)]
        console.print(
            f"{len(members)} members in {len(groups)} programs; {len(missing)} programs to run"
        )
        task = functools.partial(
            run_group, workdir=workdir.absolute(), num_images=num_images, memory=memory
        )
        failures, stopped = _launch(
            task, missing, workdir, num_images, console=console, launcher=launcher, address=address
        )
        if stopped:
            console.print("stopped; run the same command again to resume")
            return None
        results = [
            _result(member, workdir, num_images, failures.get(member.name)) for member in members
        ]
        workdir_lib.write_json(workdir / SWEEP, sweep_results.summary(results))
        text = sweep_results.csv_text(results)
        workdir_lib.write_atomically(workdir / TABLE, lambda file: file.write(text.encode()))
    return results


def failure_line(results: Sequence[Result]) -> str | None:
    """One line naming the members that failed and why, or None."""
    failed = [f"{r.member.name}: {r.error}" for r in results if r.error is not None]
    if not failed:
        return None
    return f"{len(failed)} of {len(results)} members failed: {'; '.join(failed)}"


def _check(members: Sequence[Member], workdir: pathlib.Path) -> int:
    """Checks data, batch sizes and folders of all members; returns the number of images.

    Raises:
      UserError: naming all problems.
    """
    problems = []
    images = splits.training_data(members[0].config).images
    splits.held_out(members[0].config, "test")
    for member in members:
        batch_size, folder = member.config.training.batch_size, workdir / member.name
        if batch_size > len(images):
            problems.append(
                f"member {member.name!r}: config.training.batch_size: at most the {len(images)} "
                f"training images, got {batch_size}"
            )
        if (folder / workdir_lib.CONFIG).is_file():
            found = config_lib.differences(member.config, workdir_lib.read_config(folder))
            if found:
                problems.append(
                    f"member {member.name!r}: {folder} holds a run with another config (given != "
                    f"there): {', '.join(found)}; choose another workdir or the same values"
                )
    if problems:
        counted = f"{len(problems)} problems: " if len(problems) > 1 else ""
        raise UserError(f"--sweep: {counted}{'; '.join(problems)}; nothing was started")
    return len(images)


def _groups(members: Sequence[Member], workdir: pathlib.Path) -> list[list[Member]]:
    """Members by program, as an earlier launch had them together, so that resuming computes
    the very same numbers; members new to the sweep make programs of their own.
    """
    path, by_name = workdir / GROUPS, {member.name: member for member in members}
    recorded = workdir_lib.read_json(path) if path.is_file() else []
    known = {name for names in recorded for name in names}
    earlier = [[by_name[name] for name in names if name in by_name] for names in recorded]
    fresh = sweeps.groups([member for member in members if member.name not in known])
    groups = [group for group in earlier if group] + fresh
    names = recorded + [[member.name for member in group] for group in fresh]
    workdir_lib.write_json(path, names)
    return groups


def evaluation_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Where the evaluation of a run on `split` lies."""
    return folder / ("evaluation.json" if split == "test" else f"evaluation-{split}.json")


def _num_steps(member: Member, num_images: int) -> int:
    return training.make_plan(member.config, num_images).num_steps


def _is_evaluated(member: Member, workdir: pathlib.Path, split: str, num_images: int) -> bool:
    """Whether the finished run, not an earlier state of it, was evaluated as configured."""
    path = evaluation_path(workdir / member.name, split)
    if not path.is_file() or not path.with_suffix(".npz").is_file():
        return False
    protocol = workdir_lib.read_json(path)["protocol"]
    early = member.config.training.patience is not None
    last = early or protocol["checkpoint_step"] == _num_steps(member, num_images)
    return last and protocol["num_samples"] == member.config.evaluation.num_samples


def is_done(member: Member, workdir: pathlib.Path, num_images: int) -> bool:
    """Whether nothing is left to do: both evaluations are there, or the run diverged."""
    if (workdir / member.name / sweep_group.FAILED).is_file():
        return True
    return all(_is_evaluated(member, workdir, s, num_images) for s in sweep_results.SPLITS)


def _result(member: Member, workdir: pathlib.Path, num_images: int, error: str | None) -> Result:
    folder = workdir / member.name
    if (folder / sweep_group.FAILED).is_file():
        error = workdir_lib.read_json(folder / sweep_group.FAILED)["error"]
    if error is not None or not is_done(member, workdir, num_images):
        return Result(member, None, error or "was not finished")
    read = lambda split: workdir_lib.read_json(evaluation_path(folder, split))  # noqa: E731
    return Result(member, {s: read(s)["estimates"] for s in sweep_results.SPLITS}, None)


def _launch(
    task: Callable[..., Failures],
    groups: list[list[Member]],
    workdir: pathlib.Path,
    num_images: int,
    *,
    console: Console,
    launcher: str,
    address: str | None,
) -> tuple[Failures, bool]:
    """Runs the groups; returns failures and whether a signal stopped it."""
    done: dict[str, int] = {}
    failures: Failures = {}
    total = sum(
        _num_steps(m, num_images) * m.config.training.batch_size for group in groups for m in group
    )
    with (
        train_run.stop_signal() as stopped,
        logging.progress(console, "sweep", done=0, total=total or 1, unit="examples") as show,
    ):

        def report(name: str, examples: int, text: str) -> None:
            done[name] = examples
            show(sum(done.values()), f"{name} {text}")

        if launcher == "ray" and groups:
            return sweep_ray.run_groups(
                task, groups, workdir, address=address, stopped=stopped, report=report
            )
        for group in groups:
            if not stopped():
                failures |= task(group, console=console, stopped=stopped, report=report)
    return failures, stopped()


def run_group(
    members: Sequence[Member],
    *,
    workdir: pathlib.Path,
    num_images: int,
    memory: int | None,
    console: Console,
    stopped: Callable[[], bool],
    report: sweep_group.Report,
) -> Failures:
    """Trains and evaluates the members of one program; returns those that failed, and why.

    An error of the whole group fails its members and nobody else.
    """
    try:
        failures = sweep_train.train(
            members, workdir, console=console, stopped=stopped, report=report, memory=memory
        )
        if not stopped():
            _evaluate(members, workdir, num_images, failures, stopped, report)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        text = " ".join(str(error).split())
        return {m.name: text for m in members if not is_done(m, workdir, num_images)}
    return failures


def _evaluate(members, workdir, num_images, failures, stopped, report) -> None:
    """Evaluates every member that is trained and has no evaluation yet, on both splits."""
    config, quiet = members[0].config, Console(quiet=True)
    model = None
    for split in sweep_results.SPLITS:
        left = [m for m in members if m.name not in failures]
        left = [m for m in left if not _is_evaluated(m, workdir, split, num_images)]
        if not left:
            continue
        held_out = splits.held_out(config, split)
        model = model or runs.build_model(config, DataSpec(held_out.shape, None))
        like = jax.eval_shape(functools.partial(training.init_state, config, model=model))
        evaluator = evaluate_run.make_evaluator(config, model, held_out)
        for member in left:
            if stopped():
                return
            folder = workdir / member.name
            state, _ = runs.restore(folder, like, console=quiet)
            done = int(state.step) * config.training.batch_size
            report(member.name, done, f"evaluating on {split}")
            result = evaluate_run.evaluate_state(
                folder,
                member.config,
                state,
                held_out,
                split=split,
                evaluator=evaluator,
                console=quiet,
            )
            if split == "test":
                evaluate_run.write_figures(folder, model, state, held_out, result)
