"""The rate-distortion curve of the decoder of a run, by AIS over its temperatures."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console

from vaejax import hosts, keys
from vaejax.errors import UserError
from vaejax.evaluation import estimators, mapping, means
from vaejax.evaluation.mapping import Budget
from vaejax.evaluation.means import ExampleMean
from vaejax.evidence import annealing, rate_distortion
from vaejax.evidence.annealing import Schedule
from vaejax.runs import evidence
from vaejax.runs import settings as settings_lib
from vaejax.runs import subject as subject_lib
from vaejax.runs.settings import Request
from vaejax.storage import logging
from vaejax.types import Model


class DecoderCurve(NamedTuple):
    """Means over examples at each temperature, from the prior on.

    Attributes:
      workdir: the run.
      num_examples: the first ones of the test set.
      temperatures: b_1 .. b_T = 1.
      rate, distortion: nats per example, with data errors that hold the Monte-Carlo ones.
    """

    workdir: pathlib.Path
    num_examples: int
    temperatures: Float[np.ndarray, "T"]
    rate: list[ExampleMean]
    distortion: list[ExampleMean]


def decoder_curve(
    workdir: pathlib.Path,
    *,
    data_sha256: str,
    num_examples: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console,
) -> DecoderCurve:
    """The curve on the first test examples, with the budget evidence.annealed, from the prior.

    Args:
      workdir: the run.
      data_sha256: hash of the test set that it must have, that of what stands beside it.
      num_examples, overrides: see `settings.Request`.
      console: is told of progress.

    Raises:
      UserError: no run, other data, a bad budget, or latents without HMC.
    """
    request = Request(
        "test", ("annealed",), False, False, dict(overrides or {}), None, num_examples
    )
    subject = subject_lib.load(workdir, "test", console=console)
    if subject.held_out.sha256 != data_sha256:
        raise UserError(f"--decoder: the test set of {workdir} is not that of the runs (its hash)")
    settings = settings_lib.resolve(subject.config, request)
    if "evidence.annealed.start" in request.overrides:
        raise UserError("--config.evidence.annealed.start: the curve starts at the prior, always")
    own = dataclasses.replace(settings.evidence.annealed, start="prior")
    settings = dataclasses.replace(
        settings, evidence=dataclasses.replace(settings.evidence, annealed=own)
    )
    count = settings_lib.num_examples(settings, request, len(subject.held_out.x))
    task = evidence.make_task(subject, settings, request, count=count)
    with logging.progress(console, "decoder", done=0, total=count, unit="examples") as show:
        temperatures, found = _run(task, done=lambda number: show(number, ""))
    columns = lambda array: [means.over_examples(column) for column in array.T]  # noqa: E731
    return DecoderCurve(
        workdir, count, temperatures, columns(found.rate), columns(found.distortion)
    )


def _run(
    task: estimators.Task, *, done: estimators.Done
) -> tuple[Float[np.ndarray, "T"], rate_distortion.Curve]:
    """Pilot and scored chains, with keys of their own."""
    budget, seed = task.budgets.annealed, task.budgets.seed
    pilot = jax.jit(functools.partial(annealing.pilot, model=task.model, budget=budget))
    x = mapping.as_float(task.x)

    def tune() -> Schedule:
        key = keys.domain(seed, "rate_distortion/pilot")
        with jax.default_matmul_precision(mapping.PRECISION):
            found = pilot(task.params, key, jnp.asarray(x[: budget.pilot_examples]))
        return jax.tree.map(np.asarray, found)

    schedule = hosts.from_first(tune)
    over = _map(task.model, budget, len(x), task.budgets.rows_per_call)
    key = keys.domain(seed, "rate_distortion/scored")
    found = mapping.over_examples(over, (task.params, schedule), key, x, done=done)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
    return np.asarray(schedule.temperatures[1:], np.float64), wide


@functools.lru_cache(maxsize=8)
def _map(model: Model, budget: annealing.Budget, count: int, rows: int) -> mapping.ExampleMap:
    def one(both, key, x):
        params, schedule = both
        return rate_distortion.estimate(params, key, x, schedule, model=model, budget=budget)

    work = budget.num_chains * budget.num_temperatures * budget.num_leapfrog
    return mapping.make(
        one,
        num_examples=count,
        budget=Budget(rows=budget.num_chains, max_rows=rows, work=work),
        prepare=lambda both: (model.prepare(both[0]), both[1]),
    )
