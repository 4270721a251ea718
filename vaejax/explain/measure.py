"""Measurements of many models on the same examples, with the library's map and estimators."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from vaejax import keys
from vaejax.config import Config, Dataset
from vaejax.data import splits
from vaejax.evaluation import estimators, mapping, per_example
from vaejax.evaluation.estimators import Task
from vaejax.evidence import budgets
from vaejax.explain import plane
from vaejax.types import Evidence, Model, Params

_MAX_ROWS = 2**20
_ROWS = 2000


def stacked(found: Sequence[PyTree]) -> PyTree:
    """Results of B variants with a leading axis [B]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def grey_digits(split: str, **dataset) -> Float[np.ndarray, "N H W C"]:
    """The grey values of the digits of a split, in [0, 1]; `dataset` as in `config.Dataset`."""
    settings = Config(dataset=Dataset(binarization="none", **dataset))
    return splits.held_out(settings, split).x.astype(np.float64)


def in_float64(params: PyTree) -> PyTree:
    """The parameters of a model that was trained in float32, for quadrature."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def each(
    function: mapping.ExampleFunction,
    variants: Sequence[PyTree],
    x: Float[np.ndarray, "N ..."],
    *,
    rows: int,
) -> PyTree:
    """`function(params, key, x)` of every variant and example, [B, N, ...] each, on the host.

    One compiled program serves all variants. For functions that draw nothing; `rows` is how
    many nodes of z one example needs.
    """
    budget = mapping.Budget(rows=rows, max_rows=_MAX_ROWS, work=rows)
    mapped = mapping.make(function, num_examples=len(x), budget=budget)
    unused = jax.random.key(0)
    return stacked([mapping.over_examples(mapped, params, unused, x) for params in variants])


def half_widths(
    variants: Sequence[Params], x: Float[np.ndarray, "N ..."], *, model: Model
) -> Float[np.ndarray, "B"]:
    """Half the side of a square that holds 8 standard deviations of prior and every q."""
    reach = lambda params, key, x: plane.reach(params, x, model=model)  # noqa: E731
    return each(reach, variants, x, rows=1).max(axis=1)


def bounds(
    variants: Sequence[Params],
    x: Float[np.ndarray, "N ..."],
    *,
    model: Model,
    seed: int,
    num_samples: int,
) -> dict[str, Float[np.ndarray, "B N"]]:
    """ "elbo", "reconstruction", "kl" and "iwae_k" per example, as `evidence.weights` has them."""
    example_map = per_example.make(
        model, num_examples=len(x), num_samples=num_samples, chunk_size=_ROWS
    )
    key = keys.domain(seed, "explain/bounds")
    found = [mapping.over_examples(example_map, params, key, x) for params in variants]
    return stacked([one.weights.values for one in found])


def tasks(
    variants: Sequence[Params], x: Float[np.ndarray, "N ..."], *, model: Model, **settings
) -> list[Task]:
    """What `evaluation.estimators` is asked for, once per variant; `settings` are budgets."""
    budget = budgets.Evidence(rows_per_call=_ROWS, **settings)
    return [Task(budget, model, params, x, num_samples=1, names=()) for params in variants]


def annealed(of: Sequence[Task]) -> Evidence:
    """log p(x) by annealed importance sampling, [B, N]; each variant has a pilot of its own."""
    return stacked([estimators.run("annealed", task)[0]["annealed"] for task in of])


class Marginals(NamedTuple):
    """log p(x) of B variants by annealed importance sampling, and what the best normal q reach.

    Attributes:
      log_marginal: log p(x), nats, [B, N].
      variance: of its Monte-Carlo error, [B, N].
      best: ELBO of the best diagonal normal q for each example, [B, N].
      best_full: the same with any normal q, [B, N].
    """

    log_marginal: Float[np.ndarray, "B N"]
    variance: Float[np.ndarray, "B N"]
    best: Float[np.ndarray, "B N"]
    best_full: Float[np.ndarray, "B N"]


def marginals(of: Sequence[Task]) -> Marginals:
    """Of every variant, from the same keys."""
    evidence = annealed(of)
    best = {
        name: value[..., 0] for name, value in stacked([*map(estimators.elbos, of)]).best.items()
    }
    return Marginals(evidence.value, evidence.variance, best["diagonal"], best["full_covariance"])
