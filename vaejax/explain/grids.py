"""Densities on grids of x: integrals, entropy, KL, and a VAE's density by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vaejax.explain.densities import Density

_TINY = 1e-300


def axis(limit: float, num_points: int) -> Float[np.ndarray, "G"]:
    """G equally spaced points from -limit to limit."""
    return np.linspace(-limit, limit, num_points)


def points(line: Float[np.ndarray, "G"], size: int) -> Float[np.ndarray, "P D"]:
    """The grid line^D as P = G^D rows, the last axis fastest."""
    return np.stack([side.ravel() for side in np.meshgrid(*[line] * size, indexing="ij")], axis=1)


def integral(values: Float[np.ndarray, "P"], line: Float[np.ndarray, "G"], size: int) -> float:
    """The integral over the grid line^D: each point times its cell (trapezoids, with values
    that vanish at the border)."""
    return float(np.sum(np.asarray(values, np.float64)) * (line[1] - line[0]) ** size)


def log_prob_grid(density: Density, line: Float[np.ndarray, "G"]) -> Float[np.ndarray, "P"]:
    """log p at every point of line^D, nats, float64."""
    grid = jnp.asarray(points(line, density.size), jnp.float32)
    return np.asarray(jax.jit(jax.vmap(density.log_prob))(grid), np.float64)


def entropy(log_prob: Float[np.ndarray, "P"], line: Float[np.ndarray, "G"], size: int) -> float:
    """-E log p by the sum over the grid, nats."""
    return -integral(np.exp(log_prob) * log_prob, line, size)


@jax.jit
def _node_mixture(loc, weights, scale, line):
    noise = (line[None, None, :] - loc.T[:, :, None]) / scale
    sides = jnp.exp(-0.5 * noise**2) / (scale * jnp.sqrt(2.0 * jnp.pi))
    if len(sides) == 1:
        return weights @ sides[0]
    return ((sides[0] * weights[:, None]).T @ sides[1]).ravel()


def node_mixture(
    loc: Float[np.ndarray, "M D"],
    weights: Float[np.ndarray, "M"],
    scale: float,
    line: Float[np.ndarray, "G"],
) -> Float[np.ndarray, "P"]:
    """sum_m w_m N(x; loc_m, scale^2 I) on the grid line^D, D at most 2, float64.

    The normals are products over axes, so the sum over m is a product of matrices.
    """
    # JAX's product of matrices, not numpy's: the threads of the latter fight over busy cores.
    with jax.enable_x64(True):
        return np.asarray(_node_mixture(loc, weights, np.float64(scale), line))


def kl_on_grid(
    log_prob: Float[np.ndarray, "P"],
    model: Float[np.ndarray, "P"],
    line: Float[np.ndarray, "G"],
    size: int,
) -> float:
    """KL(p || p_theta) by the sum over the grid, nats; p_theta below 1e-300 counts as that."""
    difference = log_prob - np.log(np.maximum(model, _TINY))
    return integral(np.exp(log_prob) * difference, line, size)


def unresolved(loc: Float[np.ndarray, "M D"], weights: np.ndarray, scale: float) -> float:
    """Prior mass of nodes one of whose next neighbours has its mean over `scale` away."""
    side = round(len(loc) ** 0.5)
    square = loc.reshape(side, side, -1)
    far = np.zeros((side, side), bool)
    far[:-1] |= np.linalg.norm(np.diff(square, axis=0), axis=-1) > scale
    far[:, :-1] |= np.linalg.norm(np.diff(square, axis=1), axis=-1) > scale
    return float(weights[far.ravel()].sum())
