"""Evaluating a run: from its newest checkpoint to evaluation.json, .npz and figures."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from vaejax import hosts
from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.evaluation import mapping, per_example, results, summary
from vaejax.evaluation.per_example import PerExample
from vaejax.evaluation.results import Protocol, Result
from vaejax.runs import evidence, figures, files
from vaejax.runs import rates as rates_run
from vaejax.runs import settings as settings_lib
from vaejax.runs import subject as subject_lib
from vaejax.runs.files import Stored
from vaejax.runs.settings import Request, Settings
from vaejax.runs.subject import Subject
from vaejax.storage import checkpoints, logging
from vaejax.storage import workdir as workdir_lib
from vaejax.training import runs

_MEASURED = (
    "split",
    "num_examples",
    "binarization",
    "data_sha256",
    "values",
    "num_samples",
    "params_sha256",
    "checkpoint_step",
    "trained_steps",
    "num_epochs",
    "finished",
    "seed",
    "dtype",
    "precision",
)
"""What must agree before an evaluation need not be made again."""


def evaluate(
    workdir: pathlib.Path,
    *,
    split: str = "test",
    num_samples: int | None = None,
    estimators: Sequence[str] = (),
    gaps: bool = False,
    rates: bool = False,
    num_examples: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    draw: bool = True,
    console: Console,
) -> Result:
    """Estimates all bounds of the run in `workdir`, and log p(x) by other means where asked.

    Writes evaluation.json, evaluation.npz (evidence.npz) and figures; with `rates` rates.json and
    rates.npz too, see `runs.rates`. Where estimators or rates are asked for, an evaluation of the
    same checkpoint, data, K and seed is not made again.
    Several hosts share the examples; the first one reads and writes the files.

    Args:
      workdir: folder of the run.
      split, num_samples, estimators, gaps, rates, num_examples, overrides: see `settings.Request`.
      draw: whether figures are made too; each split writes over those of the other.
      console: is told of progress and of what is odd.

    Raises:
      UserError: no run or checkpoint, a bad request, data that are not finite, full disk.
    """
    request = Request(
        split, tuple(estimators), gaps, rates, dict(overrides or {}), num_samples, num_examples
    )
    config = workdir_lib.read_config(workdir)
    settings = settings_lib.resolve(config, request)
    hosts.from_first(lambda: files.require_writable(workdir, split))
    subject = subject_lib.load(workdir, split, config=config, console=console)
    if not subject.finished:
        line = subject_lib.unfinished_line(subject)
        console.print(line, style="yellow", soft_wrap=True, markup=False)
    if rates:
        rates_run.check(subject, settings)
    if not request.wants_evidence:
        stored = _evaluated(subject, settings, reuse=rates, count=None, draw=draw, console=console)
    else:
        count = settings_lib.num_examples(settings, request, len(subject.held_out.x))
        task = evidence.make_task(subject, settings, request, count=count)
        stored = _evaluated(subject, settings, reuse=True, count=count, draw=draw, console=console)
        stored = evidence.add(subject, task, stored, gaps=gaps, console=console)
    if rates:
        rates_run.measure(subject, stored, settings, console=console)
    return stored.result


def is_evaluated(workdir: pathlib.Path, config: Config, split: str) -> bool:
    """Whether the finished run in `workdir`, as its newest checkpoint has it, was evaluated on
    `split` as `config` says; False where the files cannot be read.
    """
    try:
        stored = files.read(files.path_of(workdir, split))
        newest = checkpoints.steps(workdir / runs.CHECKPOINTS)
    except UserError:
        return False
    if stored is None or not newest:
        return False
    found, wanted = stored.result.protocol, config.evaluation
    budget = (found.num_samples, found.seed) == (wanted.num_samples, wanted.seed)
    same_run = (found.trained_steps, found.num_epochs) == (newest[0], config.training.num_epochs)
    return found.finished and budget and same_run


def read_estimates(workdir: pathlib.Path, split: str) -> dict[str, dict[str, Any]]:
    """The estimates of an evaluation as its JSON has them: {name: {"value": .., ..}}.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = files.path_of(workdir, split)
    stored = files.read(path)
    if stored is None:
        raise UserError(f"{path} is missing; evaluate the run first")
    return results.to_json(stored.result.estimates)


def evaluate_subject(
    subject: Subject, settings: Settings | None = None, *, console: Console
) -> Result:
    """Estimates all bounds anew; writes files and figures, and returns the result.

    Runs of one model share the compiled program. Raises UserError on a full disk.
    """
    settings = settings or Settings(evaluation=subject.config.evaluation)
    stored = _evaluated(subject, settings, reuse=False, count=None, draw=True, console=console)
    return stored.result


def _evaluated(
    subject: Subject,
    settings: Settings,
    *,
    reuse: bool,
    count: int | None,
    draw: bool,
    console: Console,
) -> Stored:
    """The evaluation of `subject`, with what may be kept of an earlier call's evidence."""
    path = files.path_of(subject.workdir, subject.split)
    before = hosts.from_first(lambda: _read_earlier(path, console))
    wanted = None if count is None else evidence.protocol(count, settings.evidence)
    if reuse and before is not None and _is_same(before.result.protocol, subject, settings):
        bare = Stored(evidence.without_rows(before.result), before.arrays, {})
        return evidence.carry_over(before, bare, wanted, console=console)
    if reuse and before is not None:
        console.print(
            f"{path.name} is of another checkpoint, data set, K or seed: evaluating anew",
            soft_wrap=True,
        )
    measured = _measure(subject, settings, console=console)
    protocol = subject_lib.protocol(subject, settings.evaluation)
    result = Result(
        protocol,
        summary.estimates(measured, num_dims=protocol.num_dims),
        summary.diagnostics(measured, num_samples=settings.evaluation.num_samples),
    )
    stored = Stored(result, per_example.arrays(measured), {})
    stored = evidence.carry_over(before, stored, wanted, console=console)
    stored = files.publish(path, stored)
    if draw and hosts.is_first():
        figures.write(subject, stored.result)
    return stored


def _read_earlier(path: pathlib.Path, console: Console) -> Stored | None:
    try:
        return files.read(path)
    except UserError as error:
        console.print(f"{error}: evaluating anew", soft_wrap=True, markup=False)
        return None


def _is_same(protocol: Protocol, subject: Subject, settings: Settings) -> bool:
    wanted = subject_lib.protocol(subject, settings.evaluation)
    return all(getattr(protocol, name) == getattr(wanted, name) for name in _MEASURED)


def _measure(subject: Subject, settings: Settings, *, console: Console) -> PerExample:
    x, budget = subject.held_out.x, settings.evaluation
    example_map = per_example.make(
        subject.model,
        num_examples=len(x),
        num_samples=budget.num_samples,
        chunk_size=budget.chunk_size,
    )
    key = per_example.key_of(budget.seed, subject.split)
    with logging.progress(console, "evaluate", done=0, total=len(x), unit="examples") as show:
        return mapping.over_examples(
            example_map,
            subject.params,
            key,
            x,
            done=lambda count: show(count, f"K = {budget.num_samples:,}"),
        )
