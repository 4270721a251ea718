"""Russian roulette: how long a sum without an end goes on, and what that makes of log p(x).

    SUMO = L_m + sum_{j=1}^kappa (L_{m+j} - L_{m+j-1}) / P(kappa >= j),    E[SUMO] = log p(x)

with L_k of the first k of m + kappa samples of q(z|x): Luo et al. (2020), eq. 5 to 7, who take
m = 1. P(kappa >= j) = 1/j as far as `steady`, then it falls by `tail` a sample, which keeps the
expected number of samples finite and makes the rare long sums heavy.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vaejax import numerics

EXTRA = (1, 4, 16, 64, 128, 512)
"""Samples behind the first m that a program may be compiled for; the last is the longest sum."""
_SMALLEST_UNIFORM = 2.0**-24  # half a step of float32's uniform numbers: kappa is finite


class Tail(NamedTuple):
    """Attributes:

    steady: P(kappa >= j) = 1/j up to this j.
    tail: beyond it P falls by this factor a sample, in (0, 1).
    """

    steady: int
    tail: float | Float[Array, ""]


def refusal(tail: float) -> str | None:
    """Why a tail cannot be; None: it can."""
    if 0.0 < tail < 1.0:
        return None
    if tail == 0.0:
        return "cuts every sum off, which biases it"
    return "has no bound on the expected number of samples"


def expected_length(rule: Tail) -> float:
    """E[kappa]."""
    harmonic = math.fsum(1.0 / j for j in range(1, rule.steady + 1))
    return harmonic + float(rule.tail) / (1.0 - float(rule.tail)) / rule.steady


def survival(j: Int[Array, "*J"], rule: Tail) -> Float[Array, "*J"]:
    """P(kappa >= j) for j >= 1: 1/j, from `steady` on times tail^(j - steady)."""
    beyond = jnp.maximum(j - rule.steady, 0)
    return rule.tail**beyond / jnp.minimum(j, rule.steady)


def lengths(key: PRNGKeyArray, shape: tuple[int, ...], rule: Tail) -> Int[Array, "..."]:
    """kappas: the largest j with P(kappa >= j) >= u, u uniform in (0, 1)."""
    u = jax.random.uniform(key, shape, minval=_SMALLEST_UNIFORM)
    beyond = jnp.floor(jnp.log(u * rule.steady) / jnp.log(rule.tail))
    short = u * rule.steady >= 1.0
    return jnp.where(short, jnp.floor(1.0 / u), rule.steady + beyond).astype(int)


def longest(rule: Tail) -> int:
    """The largest kappa that `lengths` can give."""
    return rule.steady + math.floor(math.log(_SMALLEST_UNIFORM * rule.steady) / math.log(rule.tail))


def _log_sums(log_weights: Float[Array, "K"]) -> Float[Array, "K"]:
    """log S_k of the first k weights, for every k; a loop, which compiles fast where
    `jax.lax.cumlogsumexp` is unrolled."""

    def add(log_sum, log_weight):
        log_sum = jnp.logaddexp(log_sum, log_weight)
        return log_sum, log_sum

    _, behind = jax.lax.scan(add, log_weights[0], log_weights[1:])
    return jnp.concatenate([log_weights[:1], behind])


def estimate(
    log_weights: Float[Array, "K"], length: Int[Array, ""], rule: Tail, *, first: int
) -> Float[Array, ""]:
    """SUMO with kappa = `length` and m = `first`, in nats; weights behind m + kappa are not used.

    L_{k+1} - L_k = log(1 + w/S_k) - log(1 + 1/k) with S_k the sum of k weights: no digits are lost
    to the difference of two logs, which is divided by a small probability.
    """
    sums = _log_sums(log_weights)
    value = sums[first - 1] - math.log(first)
    k = jnp.arange(first, log_weights.shape[0])
    steps = numerics.softplus(log_weights[first:] - sums[first - 1 : -1]) - jnp.log1p(1.0 / k)
    j = k - first + 1
    return value + jnp.sum(jnp.where(j <= length, steps / survival(j, rule), 0.0))
