"""Means and their standard errors, over examples and over seeds, in float64. Pure functions.

NaN stands for "not known" in Python and becomes None in JSON, in `number` alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class ExampleMean(NamedTuple):
    """A mean over N examples, in the unit of its values (nats, where nothing else is said).

    Attributes:
      value: sum_i v_i / N.
      mc_se: sqrt(sum_i var_i) / N, the error left by finite K; NaN where it is not known.
      data_se: sd_i / sqrt(N), the error from the finite set of examples (it holds the
        Monte-Carlo error too); NaN below two examples.
    """

    value: float
    mc_se: float
    data_se: float


class SeedMean(NamedTuple):
    """A mean over S training seeds.

    Attributes:
      value: the mean; NaN without seeds.
      error: sd / sqrt(S); NaN below two seeds.
    """

    value: float
    error: float


def standard_error(values: Float[np.ndarray, "N"]) -> float:
    """sd / sqrt(N) with N - 1 degrees of freedom; NaN below two values or if one is not finite."""
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def over_examples(
    values: Float[np.ndarray, "N"], variances: Float[np.ndarray, "N"] | None = None
) -> ExampleMean:
    """Mean of per-example values; `variances` are those of their Monte-Carlo errors."""
    values = np.asarray(values, np.float64)
    return ExampleMean(_mean(values), monte_carlo_error(variances), standard_error(values))


def monte_carlo_error(variances: Float[np.ndarray, "N"] | None) -> float:
    """sqrt(sum_i var_i) / N; NaN where a variance is not known, not finite or negative."""
    if variances is None or len(variances) == 0:
        return math.nan
    variances = np.asarray(variances, np.float64)
    if not np.isfinite(variances).all() or variances.sum() < 0.0:
        return math.nan
    return math.sqrt(variances.sum()) / len(variances)


def over_seeds(values: Sequence[float]) -> SeedMean:
    """Mean of one number per seed."""
    numbers = np.asarray(values, np.float64)
    return SeedMean(_mean(numbers), standard_error(numbers))


def _mean(values: np.ndarray) -> float:
    """The mean; without values, and with +inf and -inf together, NaN and no warning."""
    with np.errstate(invalid="ignore"):
        return float(values.mean()) if len(values) else math.nan


def bits_per_dim(nats: float, num_dims: int) -> float:
    """-nats / (D log 2): what coding one of the D whole numbers of an example costs."""
    return -nats / (num_dims * math.log(2.0))


def number(value: float | None) -> float | None:
    """A float for JSON and CSV: None, "not known", where it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(mean: ExampleMean | SeedMean) -> dict[str, float | None]:
    """A mean for JSON: its fields by name, what is not finite as None."""
    return {name: number(value) for name, value in mean._asdict().items()}
