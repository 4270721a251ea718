"""ELBO and L_K on the validation set: what a run watches while it trains."""

import functools
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num, PRNGKeyArray, PyTree

from vaejax.config import Config
from vaejax.evaluation import mapping, per_example
from vaejax.evaluation.mapping import Budget, ExampleMap
from vaejax.objectives import bounds, importance
from vaejax.types import Model, Params

Values = dict[str, float | Float[np.ndarray, "M"]]
Validator = Callable[[PyTree], Callable[[], Values]]
"""Starts the computation, and returns what waits for its values."""


def bounds_of_example(
    params: Params,
    key: PRNGKeyArray,
    x: Float[Array, "..."],
    *,
    model: Model,
    num_samples: int,
    chunk_size: int,
) -> dict[str, Float[Array, ""]]:
    """ELBO and L_K of one example, nats: those that `per_example.evaluate` gives."""
    terms = importance.chunked_log_terms(
        params, key, x, model=model, num_samples=num_samples, chunk_size=chunk_size
    )
    log_weights = importance.log_weights(terms)
    return {"elbo": bounds.elbo(log_weights), "iwae": bounds.iwae(log_weights)}


@functools.lru_cache(maxsize=32)
def _program(
    model: Model,
    *,
    num_examples: int,
    num_samples: int,
    chunk_size: int,
    num_runs: int | None,
    mesh: Mesh | None,
) -> ExampleMap:
    """Compiled once for all runs of a model; `chunk_size` is shared by those of one call."""
    count = num_runs or 1
    share = max(1, chunk_size // count)
    one = functools.partial(
        bounds_of_example, model=model, num_samples=num_samples, chunk_size=share
    )
    rows = min(share, num_samples)
    budget = Budget(rows=rows, max_rows=max(rows, share), work=num_samples * count)
    return mapping.make(
        one,
        num_examples=num_examples,
        budget=budget,
        mesh=mesh,
        prepare=model.prepare,
        over_members=num_runs is not None,
    )


def make(
    config: Config,
    model: Model,
    x: Num[np.ndarray, "N ..."],
    *,
    num_runs: int | None = None,
    mesh: Mesh | None = None,
) -> Validator:
    """From parameters to the means over x of the ELBO and of L_K, K = `validation_samples`.

    Its samples are those of an evaluation of the validation split with the same seed.

    Args:
      config: of the run, or of any of the runs.
      model: of all of them.
      x: the validation set.
      num_runs: M, the length of the parameters' leading axis; None: they have none.
      mesh: the devices, whose members axis the leading axis is spread over; None: all.

    Returns:
      `(params) -> () -> {"validation/elbo": .., "validation/iwae": ..}`, nats: a number each,
      or [M] for M runs. The first call starts the computation and returns at once.
    """
    program = _program(
        model,
        num_examples=len(x),
        num_samples=config.training.validation_samples,
        chunk_size=config.evaluation.chunk_size,
        num_runs=num_runs,
        mesh=mesh,
    )
    key = per_example.key_of(config.evaluation.seed, "validation")

    def validate(params: PyTree) -> Callable[[], Values]:
        started = list(mapping.start(program, params, key, x))
        return lambda: _means([read() for read in started], stacked=num_runs is not None)

    return validate


def _means(parts: list[PyTree], *, stacked: bool) -> Values:
    values = mapping.concatenate(parts)
    means = {name: np.mean(v, axis=0, dtype=np.float64) for name, v in values.items()}
    return {f"validation/{k}": mean if stacked else float(mean) for k, mean in means.items()}
