"""Where the layers of a hierarchy stand: on maps [height, width, channels], or as vectors.

Latents are held as vectors, whatever networks see: so every prior and every posterior serves.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vaejax.errors import UserError
from vaejax.models.networks import Shape
from vaejax.models.posteriors import Family

_WIDEST = 2**20


class Place(NamedTuple):
    """Shapes of one layer, [height, width, channels] on a map, else [channels].

    Attributes:
      latents: as networks see z_l.
      state: of d_l and h_l.
    """

    latents: Shape
    state: Shape


def _grids(shape: Shape, count: int, downsampling: tuple[int, ...]) -> list[Shape]:
    factors = downsampling * count if len(downsampling) == 1 else downsampling
    if len(factors) != count:
        raise UserError(
            f"downsampling: needs one number for each stochastic layer ({count}), or one for "
            f"all, got {downsampling}"
        )
    # A vector, 0, is coarser than any map.
    coarseness = [factor or max(shape) + 1 for factor in factors]
    if min(factors) < 0 or sorted(coarseness) != coarseness:
        raise UserError(
            f"downsampling: must not fall from the data upwards (0: no map, last), got {factors}"
        )
    if any(factors) and len(shape) != 3:
        raise UserError(f"downsampling: needs images [height, width, channels], x is {shape}")
    return [tuple(-(-n // factor) for n in shape[:2]) if factor else () for factor in factors]


def on_grid(make: Callable[[int], Family], latents: Shape) -> Family:
    """The family that `make` makes of all values of a map, its numbers beside their place.

    The network gives [h, w, k c]: number j of the latent [row, column, channel] stands at
    [row, column, j c + channel].

    Raises:
      UserError: a family that wants something else than k numbers for each latent.
    """
    if len(latents) == 1:
        return make(latents[0])
    *grid, channels = latents
    even = 2 * channels
    some = make(even)
    per_latent, rest = divmod(math.prod(some.outputs), even)
    if rest:
        raise UserError(
            "downsampling: this posterior does not want the same numbers for each latent, as a "
            "map has them; use posterior=normal, or downsampling=0"
        )
    if some.support.values == "one_of":
        raise UserError(
            "downsampling: a choice of one of several classes has no place on a map; use "
            "posterior=bernoulli, or downsampling=0"
        )
    family = make(math.prod(latents))

    def distribution(params, output):
        by_latent = output.reshape(*grid, per_latent, channels)
        flat = jnp.moveaxis(by_latent, 2, 0).reshape(family.outputs)
        return family.distribution(params, flat)

    return family._replace(outputs=(*grid, per_latent * channels), distribution=distribution)


def joined(*shapes: Shape) -> Shape:
    """The shape of arrays of these shapes side by side in their channels."""
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def resized(state: Float[Array, "..."], shape: Shape) -> Float[Array, "..."]:
    """A state on another grid, by linear interpolation; a vector is a map of one place."""
    if state.shape == shape:
        return state
    grid = (*((1, 1) if len(shape) == 1 else shape[:2]), shape[-1])
    source = state.reshape(*((1, 1) if state.ndim == 1 else state.shape[:2]), -1)
    return jax.image.resize(source, grid, "linear").reshape(shape)


def places(
    shape: Shape, latent_dims: tuple[int, ...], features: int, downsampling: tuple[int, ...]
) -> list[Place]:
    """The place of each layer over data of `shape`, see `top_down.build`.

    Raises:
      UserError: widths or factors that are not legal.
    """
    if not 1 <= features <= _WIDEST:
        raise UserError(f"features: must be in 1..{_WIDEST}, got {features}")
    grids = _grids(shape, len(latent_dims), downsampling)
    each = zip(grids, latent_dims, strict=True)
    return [Place((*grid, channels), (*grid, features)) for grid, channels in each]
