"""Running estimators of log p(x) over examples, in fixed memory, with a progress bar."""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray, PyTree
from rich.console import Console

from vaejax.evidence import diagnostics
from vaejax.evidence import estimators as evidence
from vaejax.models import latents
from vaejax.storage import logging
from vaejax.evidence import gaps as gap_analysis
from vaejax.config import Config
from vaejax.errors import UserError
from vaejax.types import Estimator, Evidence, Model, Params

_ACTIVITY_SAMPLES = 64
_ACTIVITY_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked for, checked.

    Attributes:
      config: the run's, with the budgets asked for.
      model: the run's model.
      params: its parameters.
      x: the examples that estimators use, [N, D].
      estimators: names of `evidence.ESTIMATORS`.
    """

    config: Config
    model: Model
    params: Params
    x: np.ndarray
    estimators: tuple[str, ...]


def check(task: Task) -> None:
    """Raises UserError for data that is not finite and for estimators that cannot run."""
    bad = np.flatnonzero(~np.isfinite(task.x).all(axis=1))
    if len(bad):
        raise UserError(
            f"dataset {task.config.dataset.name!r}: {len(bad)} examples hold values that are "
            f"not finite, the first is number {bad[0]}; clean the data"
        )
    num_latents, _ = latents.unraveller(task.params, model=task.model)
    found = [
        problem
        for name in task.estimators
        for problem in evidence.ESTIMATORS[name].problems(
            getattr(task.config.evidence, name), model=task.model, num_latents=num_latents
        )
    ]
    if found:
        raise UserError(f"--estimators: {'; '.join(found)}")


def name_key(seed: int, name: str) -> PRNGKeyArray:
    """The key of one estimator: independent of which others run."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def map_examples(
    function: Any,
    x: Float[np.ndarray, "N D"],
    key: PRNGKeyArray,
    *,
    batch: int,
    console: Console,
    title: str,
) -> PyTree:
    """`function(key_i, x_i)` for every example, `batch` at a time, stacked on the host.

    Example i uses fold_in(key, i), so a result does not depend on the batch.
    """
    size = -(-len(x) // -(-len(x) // batch))

    @jax.jit
    def call(indices, rows):
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
        return jax.vmap(function)(keys, rows)

    parts = []
    with logging.progress(console, title, done=0, total=len(x), unit="examples") as show:
        for start in range(0, len(x), size):
            rows = x[start : start + size]
            padded = np.pad(rows, ((0, size - len(rows)), (0, 0)), mode="edge")
            out = call(jnp.arange(start, start + size), jnp.asarray(padded))
            parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], out))  # noqa: B023
            show(min(start + size, len(x)), "")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def estimate(name: str, task: Task, *, console: Console) -> tuple[dict[str, Evidence], PyTree]:
    """Per-example results of one estimator over the task's examples, and its tuning.

    Pilot and scored run have keys of their own. Importance sampling uses the evaluation's
    key, and so its very samples.
    """
    settings = task.config.evidence
    estimator: Estimator = evidence.ESTIMATORS[name].build(
        getattr(settings, name), model=task.model
    )
    pilot_key, key = jax.random.split(name_key(settings.seed, name))
    if name == "importance":
        key = jax.random.key(task.config.evaluation.seed)
    params = task.params
    budget = getattr(settings, name)
    pilot_x = jnp.asarray(task.x[: getattr(budget, "pilot_examples", 1)])
    tuning = jax.jit(estimator.pilot)(params, pilot_key, pilot_x)
    x = task.x
    if estimator.num_examples is not None:
        x = np.zeros((estimator.num_examples, x.shape[1]), np.float32)
    results = map_examples(
        lambda key, row: estimator.estimate(params, key, row, tuning),
        x,
        key,
        batch=max(1, settings.rows_per_call // estimator.rows),
        console=console,
        title=name,
    )
    return results, jax.tree.map(np.asarray, tuning)


def elbos(task: Task, *, console: Console) -> gap_analysis.Elbos:
    """The ELBOs that the gaps need, for every example."""
    settings = task.config.evidence.gaps

    def one(key, x):
        return gap_analysis.elbos(task.params, key, x, model=task.model, config=settings)

    return map_examples(
        one,
        task.x,
        name_key(task.config.evidence.seed, "gaps"),
        batch=max(1, task.config.evidence.rows_per_call // settings.num_samples),
        console=console,
        title="gaps",
    )


def unit_activity(params: Params, x: np.ndarray, *, model: Model) -> list[np.ndarray]:
    """Var_x(E_q[u]) per unit and layer; a deeper layer's mean averages 64 samples below it."""

    def moments(row):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), row[0]), _ACTIVITY_SAMPLES)
        means = jax.vmap(lambda key: model.posterior_mean(params, key, row[1]))(keys)
        return [diagnostics.mean_moments(layer) for layer in jax.tree.leaves(means)]

    rows = (jnp.arange(len(x)), jnp.asarray(x, jnp.float32))
    layers = jax.jit(lambda rows: jax.lax.map(moments, rows, batch_size=_ACTIVITY_BATCH))(rows)
    return [
        np.asarray(diagnostics.unit_activity(np.asarray(means, np.float64), np.asarray(noise)))
        for means, noise in layers
    ]
