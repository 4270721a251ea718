"""Pareto k-hat and Pareto-smoothed importance weights. Maths on arrays only.

Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling"; the
generalized Pareto fit is that of Zhang and Stephens (2009).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vaejax import numerics

_GRID_SCALE = 3.0  # Zhang and Stephens' prior on the rate, in units of the first quartile
_PRIOR_COUNT = 10.0  # weight, in tail draws, of the prior guess k = 1/2


class ParetoTail(NamedTuple):
    """A generalized Pareto fit.

    Attributes:
      shape: k-hat, pulled towards 1/2 as 10 draws of that value would.
      scale: sigma.
    """

    shape: Float[Array, ""]
    scale: Float[Array, ""]


def tail_size(num_samples: int) -> int:
    """M = floor(min(S/5, 3 sqrt(S))): the number of largest weights in the tail."""
    return int(min(num_samples / 5.0, 3.0 * math.sqrt(num_samples)))


def threshold(num_samples: int) -> float:
    """min(1 - 1/log10(S), 0.7): above it k-hat says S weights are too few (eq. 16)."""
    return min(1.0 - 1.0 / math.log10(num_samples), 0.7) if num_samples > 1 else 0.0


def fit(excess: Float[Array, "M"]) -> ParetoTail:
    """Generalized Pareto fit to ascending positive excesses over a cutoff.

    Averages the rate b = -k/sigma over a grid by its profile likelihood (Zhang and
    Stephens 2009, eq. 6 to 8), then k = mean log(1 - b x).
    """
    size = excess.shape[0]
    grid_size = 30 + int(math.sqrt(size))
    steps = jnp.arange(grid_size, dtype=excess.dtype) + 0.5
    quartile = excess[int(size / 4 + 0.5) - 1]
    rates = (1.0 - jnp.sqrt(grid_size / steps)) / (_GRID_SCALE * quartile) + 1.0 / excess[-1]
    shapes = jnp.mean(jnp.log1p(-rates[:, None] * excess[None, :]), axis=1)
    profile = size * (jnp.log(-rates / shapes) - shapes - 1.0)
    rate = jnp.sum(jax.nn.softmax(profile) * rates)
    shape = jnp.mean(jnp.log1p(-rate * excess))
    shrunk = (size * shape + 0.5 * _PRIOR_COUNT) / (size + _PRIOR_COUNT)
    return ParetoTail(shrunk, -shape / rate)


def _tail(log_weights: Float[Array, "S"]) -> tuple[Float[Array, "M"], Float[Array, ""]]:
    """The M largest weights relative to the largest, ascending, and the cutoff below them."""
    # A partial sort of M + 1: ten times as fast on a CPU as sorting all S.
    largest, _ = jax.lax.top_k(log_weights, tail_size(log_weights.shape[0]) + 1)
    relative = jnp.exp(largest[::-1] - largest[0])
    return relative[1:], relative[0]


def k_hat(log_weights: Float[Array, "S"]) -> Float[Array, ""]:
    """Tail shape of the weights: they have about 1/k finite moments.

    NaN where it cannot be known: fewer than 25 weights (a tail below five), or a tail
    that is constant. Constant weights need no tail: minus infinity.
    """
    if tail_size(log_weights.shape[0]) < 5:
        return jnp.full((), jnp.nan, log_weights.dtype)
    tail, cutoff = _tail(log_weights)
    shape = fit(tail - cutoff).shape
    return jnp.where(jnp.max(log_weights) == jnp.min(log_weights), -jnp.inf, shape)


def smooth(log_weights: Float[Array, "S"]) -> Float[Array, "S"]:
    """Normalised log weights whose tail is replaced by the fitted tail's quantiles.

    Vehtari et al. (2024), section 3: quantiles at (j - 1/2)/M, cut at the largest weight;
    at least 25 weights. The logs sum, exponentiated, to one.
    """
    order, (tail, cutoff) = jnp.argsort(log_weights), _tail(log_weights)
    fitted = fit(tail - cutoff)
    quantile = (jnp.arange(tail.shape[0]) + 0.5) / tail.shape[0]
    growth = -jnp.log1p(-quantile)
    near_zero = jnp.abs(fitted.shape) < 1e-7
    shape = jnp.where(near_zero, 1.0, fitted.shape)
    excess = jnp.where(near_zero, growth, jnp.expm1(shape * growth) / shape)
    smoothed = jnp.minimum(jnp.log(cutoff + fitted.scale * excess), 0.0)
    shifted = log_weights - jnp.max(log_weights)
    replaced = shifted.at[order[-tail.shape[0] :]].set(smoothed.astype(shifted.dtype))
    return replaced - numerics.logmeanexp(replaced) - math.log(replaced.shape[0])
