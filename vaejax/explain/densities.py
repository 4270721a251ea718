"""Known densities in one and two dimensions: exact log p(x), exact samples, true entropy."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax import numerics


class Density(NamedTuple):
    """A density whose value is known everywhere; for one example.

    Attributes:
      size: D, 1 or 2.
      log_prob: `(x [D]) -> []`, normalised, nats.
      sample: `(key) -> x [D]`.
      extent: nearly all of its mass lies in [-extent, extent]^D.
    """

    size: int
    log_prob: Callable[[Float[Array, "D"]], Float[Array, ""]]
    sample: Callable[[PRNGKeyArray], Float[Array, "D"]]
    extent: float


def normal_mixture(
    weights: Float[np.ndarray, "C"],
    locs: Float[np.ndarray, "C D"],
    scales: Float[np.ndarray, "C D"],
    *,
    extent: float,
) -> Density:
    """sum_c w_c N(x; m_c, diag(s_c^2))."""
    log_weights = np.log(weights)

    def log_prob(x):
        parts = dist.Normal(jnp.asarray(locs), jnp.asarray(scales)).log_prob(x[None])
        return jax.nn.logsumexp(jnp.asarray(log_weights) + jnp.sum(parts, axis=-1))

    def sample(key):
        part_key, noise_key = jax.random.split(key)
        part = jax.random.categorical(part_key, jnp.asarray(log_weights))
        noise = jax.random.normal(noise_key, (locs.shape[1],))
        return jnp.asarray(locs)[part] + jnp.asarray(scales)[part] * noise

    return Density(locs.shape[1], log_prob, sample, extent)


def mixture() -> Density:
    """Three normals on the line, of different weight and width."""
    locs, scales = np.array([[-2.0], [0.2], [2.2]]), np.array([[0.35], [0.6], [0.25]])
    return normal_mixture(np.array([0.35, 0.4, 0.25]), locs, scales, extent=3.5)


def moons() -> Density:
    """Two interleaved half circles of normal noise: 2 x 48 equal normals along the arcs.

    Neighbours are a third of a standard deviation apart, so no single one can be seen.
    """
    angles = (np.arange(48) + 0.5) * np.pi / 48
    arc = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shift = np.array([0.75, -0.375])
    locs = np.concatenate([arc - shift, -arc + shift])
    count = len(locs)
    return normal_mixture(np.full(count, 1 / count), locs, np.full((count, 2), 0.25), extent=3.5)


def pinwheel(*, num_arms: int = 5, turn: float = 0.7) -> Density:
    """Long normals around the origin, twisted: the point at radius r turns by `turn` r.

    The twist keeps areas, so the density is that of the normals at the point untwisted.
    """
    angles = 2.0 * np.pi * np.arange(num_arms) / num_arms
    radius, along, across = 1.7, 0.5, 0.2

    def rotate(x, angle):
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([cosine * x[0] - sine * x[1], sine * x[0] + cosine * x[1]])

    def log_prob(x):
        straight = rotate(x, -turn * jnp.sqrt(jnp.sum(x**2)))

        def arm(angle):
            u = rotate(straight, -angle)
            log_along = dist.Normal(radius, along).log_prob(u[0])
            return log_along + dist.Normal(0.0, across).log_prob(u[1])

        return numerics.logmeanexp(jax.vmap(arm)(jnp.asarray(angles)))

    def sample(key):
        arm_key, noise_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (2,))
        u = jnp.stack([radius + along * noise[0], across * noise[1]])
        straight = rotate(u, jax.random.choice(arm_key, jnp.asarray(angles)))
        return rotate(straight, turn * jnp.sqrt(jnp.sum(u**2)))

    return Density(2, log_prob, sample, 3.8)


def checkerboard(*, cell: float = 1.2, blur: float = 0.12) -> Density:
    """Uniform on the 8 dark cells of a 4 x 4 board, edges blurred by normal noise.

    Per axis the density of a cell is [Phi((x - a)/blur) - Phi((x - b)/blur)] / cell.
    """
    corners = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])
    lows = cell * (corners - 2.0)

    def log_prob(x):
        # A cell is even about its middle, and on its left neither Phi is near one.
        distance = jnp.abs(x[None] - jnp.asarray(lows + 0.5 * cell))
        larger = jax.scipy.stats.norm.logcdf((0.5 * cell - distance) / blur)
        smaller = jax.scipy.stats.norm.logcdf((-0.5 * cell - distance) / blur)
        log_sides = larger + jnp.log1p(-jnp.exp(smaller - larger)) - math.log(cell)
        return numerics.logmeanexp(jnp.sum(log_sides, axis=-1))

    def sample(key):
        cell_key, place_key, noise_key = jax.random.split(key, 3)
        low = jnp.asarray(lows)[jax.random.randint(cell_key, (), 0, len(lows))]
        place = cell * jax.random.uniform(place_key, (2,))
        return low + place + blur * jax.random.normal(noise_key, (2,))

    return Density(2, log_prob, sample, 3.2)


DENSITIES: dict[str, Callable[[], Density]] = {
    "mixture": mixture,
    "moons": moons,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
}
