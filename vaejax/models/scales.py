"""Where the scales of a likelihood's pixels come from. To add one, name it in `SCALES`."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import unknown
from vaejax.types import unchanged

_LOG_SCALE_LIMIT = 10.0  # a decoder's outputs have no bounds, exp has


class Scale(NamedTuple):
    """Where the log_scale of each pixel comes from, beside its loc.

    Attributes:
      outputs: shape of the decoder's output.
      init: `(key) -> params` of its own.
      split: `(params, output) -> (loc [D], log_scale [D] or [])`.
      bias: `(loc) -> outputs` that gives this loc, and the log_scale at which it starts.
      shared: whether one scale serves all pixels of all x.
    """

    outputs: tuple[int, ...]
    init: Callable[[PRNGKeyArray], PyTree]
    split: Callable[[PyTree, Float[Array, "..."]], tuple[Float[Array, "D"], Float[Array, "..."]]]
    bias: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    shared: bool = False


def _shared(shape: tuple[int, ...], start: float) -> Scale:
    return Scale(
        outputs=shape,
        init=lambda key: {"log_scale": jnp.full((), start)},
        split=lambda params, output: (output.reshape(-1), params["log_scale"]),
        bias=unchanged,
        shared=True,
    )


def _per_pixel(shape: tuple[int, ...], start: float) -> Scale:
    return Scale(
        outputs=shape,
        init=lambda key: {"log_scale": jnp.full(math.prod(shape), start)},
        split=lambda params, output: (output.reshape(-1), params["log_scale"]),
        bias=unchanged,
    )


def _of_decoder(shape: tuple[int, ...], start: float) -> Scale:
    def split(params, output):
        loc, log_scale = jnp.split(output, 2, axis=-1)
        bounded = jnp.clip(start + log_scale.reshape(-1), -_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)
        return loc.reshape(-1), bounded

    return Scale(
        outputs=(*shape[:-1], 2 * shape[-1]),
        init=lambda key: {},
        split=split,
        bias=lambda loc: jnp.concatenate([loc, jnp.zeros_like(loc)], axis=-1),
    )


SCALES: dict[str, Callable[[tuple[int, ...], float], Scale]] = {
    "shared": _shared,
    "pixel": _per_pixel,
    "decoder": _of_decoder,
}
"""One learned scale for all pixels; one for each; or one for each and every z, of the decoder."""


def of(name: str, shape: tuple[int, ...], start: float) -> Scale:
    """The entry `name` of `SCALES` for x of `shape`, which starts at log_scale `start`.

    Raises:
      UserError: there is none.
    """
    if name not in SCALES:
        raise unknown("scale", name, SCALES)
    return SCALES[name](shape, start)
