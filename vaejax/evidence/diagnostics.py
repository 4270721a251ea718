"""How far a set of log importance weights can be trusted. Maths on arrays, in their dtype."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vaejax.objectives import bounds


class Watched(NamedTuple):
    """What an estimator's diagnostics say over all examples.

    Attributes:
      counts: what went wrong, and how often in all ("divergent_moves": 3).
      numbers: means over examples: a number each, or a list along the chain.
    """

    counts: dict[str, int]
    numbers: dict[str, float | list[float]]


def effective_sample_size(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """ESS = 1 / sum_k w~_k^2 with w~ = softmax(log w): between 1 and K samples.

    Kong (1992).
    """
    return 1.0 / jnp.sum(jnp.square(jax.nn.softmax(log_weights)))


def log_mean_variance(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """Delta-method variance of log((1/K) sum_k w_k): 1/ESS - 1/K, in nats squared.

    Trust it where the ESS is above about 100; below, it is too small (its nominal 95%
    interval covered 84% at ESS 21 in a simulation, and 62% at ESS 6).
    """
    variance = 1.0 / effective_sample_size(log_weights) - 1.0 / log_weights.shape[0]
    return jnp.maximum(variance, 0.0)


def mean_variance(values: Float[Array, "K"]) -> Float[Array, ""]:
    """Variance of the mean of K independent values, s^2 / K (NaN for K = 1: unknown)."""
    num_values = values.shape[0]
    if num_values == 1:
        return jnp.full((), jnp.nan, values.dtype)
    return jnp.var(values, ddof=1) / num_values


def grouped_iwae(
    log_weights: Float[Array, "K"], *, group_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_k from K >= k weights: mean over floor(K/k) disjoint groups of logmeanexp.

    Returns:
      The unbiased estimate of L_k in nats, and the variance of its Monte-Carlo error:
      between groups, or by the delta method where there is only one group (NaN, unknown,
      for one sample).

    Raises:
      ValueError: `group_size` is not between 1 and K.
    """
    num_samples = log_weights.shape[0]
    if not 1 <= group_size <= num_samples:
        raise ValueError(f"group_size must be in 1..{num_samples}, got {group_size}")
    num_groups = num_samples // group_size
    groups = log_weights[: num_groups * group_size].reshape(num_groups, group_size)
    values = jax.vmap(bounds.iwae)(groups)
    if num_groups == 1 and num_samples > 1:
        return values[0], log_mean_variance(groups[0])
    return jnp.mean(values), mean_variance(values)


def mean_moments(
    means: Float[Array, "S U"],
) -> tuple[Float[Array, "U"], Float[Array, "U"]]:
    """Average over S samples and the variance of that average (0 for S = 1), per unit."""
    num_samples = means.shape[0]
    noise = jnp.var(means, axis=0, ddof=1) / num_samples if num_samples > 1 else 0.0
    return jnp.mean(means, axis=0), jnp.zeros(means.shape[1:], means.dtype) + noise
