"""Monotonic rational-quadratic splines of one value, after Durkan et al. (2019), section 3.1.

Inside [-4, 4] the map goes through K + 1 knots; outside it is the identity.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MOST_BINS = 256
BOUND = 4.0
_LEAST_SIZE = 1e-3  # of a bin, as a share of the interval
_LEAST_SLOPE = 1e-3
_UNIT_SLOPE = math.log(math.expm1(1.0 - _LEAST_SLOPE))  # softplus of it, and the least, is 1


def outputs(num_bins: int) -> int:
    """How many free numbers a spline has: K widths, K heights, K - 1 slopes."""
    return 3 * num_bins - 1


def _knots(free: Float[Array, "K"]) -> Float[Array, "K1"]:
    size = free.shape[0]
    share = _LEAST_SIZE + (1.0 - _LEAST_SIZE * size) * jax.nn.softmax(free)
    inner = BOUND * (2.0 * jnp.cumsum(share)[:-1] - 1.0)
    return jnp.concatenate([jnp.full(1, -BOUND, free.dtype), inner, jnp.full(1, BOUND, free.dtype)])


def _bin(numbers: Float[Array, "P"], value: Float[Array, ""], *, by_height: bool):
    """x, width, y, height of the bin that holds `value`, and the slopes at its ends."""
    num_bins = (numbers.shape[0] + 1) // 3
    x, y = _knots(numbers[:num_bins]), _knots(numbers[num_bins : 2 * num_bins])
    inner = _LEAST_SLOPE + jax.nn.softplus(numbers[2 * num_bins :] + _UNIT_SLOPE)
    one = jnp.ones(1, numbers.dtype)
    slopes = jnp.concatenate([one, inner, one])
    index = jnp.sum(value >= (y if by_height else x)[1:-1])
    # A product with a one-hot row: a gather for each value is slower, most of all backwards.
    low = jax.nn.one_hot(index, num_bins, dtype=numbers.dtype)
    at = lambda values: (low @ values[:-1], low @ values[1:])  # noqa: E731
    (x0, x1), (y0, y1), ends = at(x), at(y), at(slopes)
    return x0, x1 - x0, y0, y1 - y0, ends


def forward(
    value: Float[Array, ""], numbers: Float[Array, "P"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The value moved (eq. 4) and the log of the derivative there (eq. 5)."""
    inside = jnp.abs(value) < BOUND
    safe = jnp.where(inside, value, 0.0)
    x, width, y, height, ends = _bin(numbers, safe, by_height=False)
    share = (safe - x) / width
    moved, log_slope = _at(share, height / width, height, ends)
    return jnp.where(inside, y + moved, value), jnp.where(inside, log_slope, 0.0)


def _at(share, slope, height, ends):
    """Rise above the bin's lower knot, and log derivative, at a share of its width."""
    both = share * (1.0 - share)
    below = slope + (ends[0] + ends[1] - 2.0 * slope) * both
    moved = height * (slope * share**2 + ends[0] * both) / below
    above = ends[1] * share**2 + 2.0 * slope * both + ends[0] * (1.0 - share) ** 2
    return moved, 2.0 * jnp.log(slope) + jnp.log(above) - 2.0 * jnp.log(below)


def inverse(
    value: Float[Array, ""], numbers: Float[Array, "P"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The value that `forward` moves here (eq. 6 to 8) and the log derivative of the inverse."""
    inside = jnp.abs(value) < BOUND
    safe = jnp.where(inside, value, 0.0)
    x, width, y, height, ends = _bin(numbers, safe, by_height=True)
    slope, rise = height / width, safe - y
    bend = ends[0] + ends[1] - 2.0 * slope
    a = height * (slope - ends[0]) + rise * bend
    b = height * ends[0] - rise * bend
    c = -slope * rise
    # The root in a form without cancellation, Durkan et al., appendix A.
    root = jnp.sqrt(jnp.maximum(b**2 - 4.0 * a * c, 1e-30))
    share = 2.0 * c / (-b - root)
    _, log_slope = _at(share, slope, height, ends)
    return jnp.where(inside, x + share * width, value), jnp.where(inside, -log_slope, 0.0)
