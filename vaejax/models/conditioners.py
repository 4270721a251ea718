"""Small networks inside of flows: dense layers whose weights may be masked."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.errors import UserError

Masks = tuple[np.ndarray | None, ...]
_WIDEST = 2**20
_LAST_SCALE = 0.1  # of the last weights: a flow starts near the identity


def init(key: PRNGKeyArray, widths: tuple[int, ...]) -> list[dict[str, Array]]:
    """Dense layers from the inputs, widths[0], to the outputs; the last weights are small."""
    layers = []
    for position, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        scale = _LAST_SCALE if position == len(widths) - 2 else 1.0
        deviation = scale / np.sqrt(max(1, inputs))
        kernel = deviation * jax.random.normal(jax.random.fold_in(key, position), (inputs, outputs))
        layers.append({"kernel": kernel, "bias": jnp.zeros(outputs)})
    return layers


def apply(layers, hidden: Float[Array, "I"], masks: Masks) -> Float[Array, "O"]:
    """The outputs: an elu between layers, none after the last; None masks nothing."""
    for position, (layer, mask) in enumerate(zip(layers, masks, strict=True)):
        kernel = layer["kernel"] if mask is None else layer["kernel"] * mask
        hidden = hidden @ kernel + layer["bias"]
        if position < len(layers) - 1:
            hidden = jax.nn.elu(hidden)
    return hidden


def autoregressive_masks(
    size: int, hidden_dims: tuple[int, ...], context_dims: int, *, numbers: int = 2
) -> tuple[np.ndarray, ...]:
    """[I, O] each, 1 where an input may be seen; a hidden unit of degree d sees u_1 .. u_d.

    `numbers`: how many the network gives for each value.

    Degrees start at 0, unlike those of Germain et al.: units that see the context alone, so
    that it reaches the first value too.
    """
    inputs = np.concatenate([np.arange(1, size + 1), np.zeros(context_dims, int)])
    degrees = [inputs, *[np.arange(width) % size for width in hidden_dims]]
    outputs = np.tile(np.arange(1, size + 1), numbers)
    hidden = [low[:, None] <= high[None, :] for low, high in itertools.pairwise(degrees)]
    return tuple(np.float32(mask) for mask in [*hidden, degrees[-1][:, None] < outputs[None, :]])


def check(*, hidden_dims: tuple[int, ...], context_dims: int) -> None:
    """Raises UserError for widths that cannot be."""
    for width in hidden_dims:
        if not 1 <= width <= _WIDEST:
            raise UserError(f"hidden_dims: every width must be in 1..{_WIDEST}, got {width}")
    if not 0 <= context_dims <= _WIDEST:
        raise UserError(f"context_dims: must be in 0..{_WIDEST}, got {context_dims}")
