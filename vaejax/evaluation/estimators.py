"""Running estimators of log p(x), and the gap analysis, over examples: no files, no printing."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PyTree

from vaejax import hosts, keys
from vaejax.errors import UserError, unknown
from vaejax.evaluation import mapping
from vaejax.evaluation.mapping import Budget
from vaejax.evidence import budgets
from vaejax.evidence import estimators as evidence
from vaejax.evidence import gaps as gap_analysis
from vaejax.models import latents
from vaejax.types import Estimator, Evidence, Model, Params

Done = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked for.

    Attributes:
      budgets: what it may cost.
      model: the run's model.
      params: its parameters.
      x: the examples that estimators use, [N, ...].
      num_samples: K of the evaluation.
      names: of `evidence.ESTIMATORS`.
    """

    budgets: budgets.Evidence
    model: Model
    params: Params
    x: Num[np.ndarray, "N ..."]
    num_samples: int
    names: tuple[str, ...]


def check_names(names: tuple[str, ...]) -> None:
    """Raises UserError for a name that is no estimator."""
    for name in names:
        if name not in evidence.ESTIMATORS:
            raise unknown("--estimators", name, evidence.ESTIMATORS)


def check(task: Task) -> None:
    """Raises UserError for data that is not finite and for estimators that cannot run."""
    flat = task.x.reshape(len(task.x), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if len(bad):
        raise UserError(
            f"the data: {len(bad)} examples hold values that are not finite, the first is "
            f"number {bad[0]}; clean the data"
        )
    num_latents, _ = latents.unraveller(task.params, model=task.model)
    found = [
        problem
        for name in task.names
        for problem in evidence.ESTIMATORS[name].problems(
            getattr(task.budgets, name),
            model=task.model,
            num_latents=num_latents,
            num_samples=task.num_samples,
        )
    ]
    if found:
        raise UserError(f"--estimators: {'; '.join(found)}")


@functools.lru_cache(maxsize=16)
def _compiled(name: str, config: Any, model: Model, num_examples: int, max_rows: int):
    """The estimator, its pilot, and its map over examples of (params, tuning)."""
    estimator: Estimator = evidence.ESTIMATORS[name].build(config, model=model)

    def example(both, key, x):
        params, tuning = both
        return estimator.estimate(params, key, x, tuning)

    count = num_examples if estimator.num_examples is None else estimator.num_examples
    budget = Budget(rows=estimator.rows, max_rows=max_rows, work=estimator.work)
    example_map = mapping.make(
        example,
        num_examples=count,
        budget=budget,
        prepare=lambda both: (model.prepare(both[0]), both[1]),
    )
    return estimator, jax.jit(estimator.pilot), example_map, count


def run(
    name: str, task: Task, *, done: Done = lambda count: None
) -> tuple[dict[str, Evidence], PyTree]:
    """Per-example results of one estimator over the task's examples, and its tuning.

    Pilot and scored run have keys of their own; neither depends on which others run. `done`
    hears how many examples are finished.
    """
    estimator, pilot, example_map, count = _compiled(
        name,
        getattr(task.budgets, name),
        task.model,
        len(task.x),
        task.budgets.rows_per_call,
    )
    x, seed = mapping.as_float(task.x), task.budgets.seed
    pilot_key = keys.domain(seed, f"evidence/{name}/pilot")

    def tune() -> PyTree:
        with jax.default_matmul_precision(mapping.PRECISION):
            found = pilot(task.params, pilot_key, jnp.asarray(x[: estimator.pilot_examples]))
        return jax.tree.map(np.asarray, found)

    tuning = hosts.from_first(tune)
    if estimator.num_examples is not None:
        x = np.zeros((count, *x.shape[1:]), x.dtype)
    key = keys.domain(seed, f"evidence/{name}/scored")
    results = mapping.over_examples(example_map, (task.params, tuning), key, x, done=done)
    return results, tuning


def cost(name: str, task: Task) -> int:
    """How many examples `run` goes through."""
    module = evidence.ESTIMATORS[name]
    own = module.build(getattr(task.budgets, name), model=task.model).num_examples
    return len(task.x) if own is None else own


@functools.lru_cache(maxsize=16)
def _gap_map(config: gap_analysis.Config, model: Model, num_examples: int, max_rows: int):
    def example(params: Params, key: Array, x: Array) -> gap_analysis.Elbos:
        return gap_analysis.elbos(params, key, x, model=model, config=config)

    fitted = len(gap_analysis.FAMILIES) * config.num_steps * config.num_samples
    work = fitted + (1 + len(gap_analysis.FAMILIES)) * config.elbo_samples
    budget = Budget(rows=config.num_samples, max_rows=max_rows, work=work)
    return mapping.make(example, num_examples=num_examples, budget=budget, prepare=model.prepare)


@functools.lru_cache(maxsize=16)
def _encoder_map(
    config: gap_analysis.Config, model: Model, size: int, num_examples: int, max_rows: int
):
    def example(params: Params, key: Array, x: Array) -> Array:
        return gap_analysis.encoder_family(params, key, x, model=model, config=config)

    # phi, its gradient and Adam's two moments, of each example: in rows of the size of x.
    phi = jax.eval_shape(model.init, jax.random.key(0))["inference"]
    held = 4 * sum(leaf.size for leaf in jax.tree.leaves(phi)) // size
    work = config.num_steps * config.num_samples + config.elbo_samples
    budget = Budget(rows=config.num_samples + held, max_rows=max_rows, work=work)
    return mapping.make(example, num_examples=num_examples, budget=budget, prepare=model.prepare)


def encoder_family_elbos(
    task: Task, *, done: Done = lambda count: None
) -> Float[np.ndarray, "N 2"]:
    """`gaps.encoder_family` for every example: ELBO in nats and variance of its error, [N, 2]."""
    settings = task.budgets
    size, count = math.prod(task.x.shape[1:]), len(task.x)
    example_map = _encoder_map(settings.gaps, task.model, size, count, settings.rows_per_call)
    key = keys.domain(settings.seed, "gaps/encoder_family")
    return mapping.over_examples(example_map, task.params, key, task.x, done=done)


def elbos(task: Task, *, done: Done = lambda count: None) -> gap_analysis.Elbos:
    """The ELBOs of the encoder's q and of the best normals, for every example."""
    settings = task.budgets
    example_map = _gap_map(settings.gaps, task.model, len(task.x), settings.rows_per_call)
    key = keys.domain(settings.seed, "gaps")
    return mapping.over_examples(example_map, task.params, key, task.x, done=done)
