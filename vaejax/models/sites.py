"""What a network is, and what all networks share."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import UserError, unknown

Shape = tuple[int, ...]
ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "elu": nn.elu, "gelu": nn.gelu}
INITIALIZERS = {
    "glorot_uniform": nn.initializers.glorot_uniform,
    "lecun_normal": nn.initializers.lecun_normal,
    "he_normal": nn.initializers.he_normal,
}
_WIDEST = 2**20


class Site(NamedTuple):
    """Where a network stands.

    Attributes:
      inputs, outputs: shapes of one input and one output.
      decoder: whether it comes down to the data, as the mirror of an encoder.
      output_bias: where the outputs start, of their shape; None: at zero.
      output_gain: what the last kernel starts multiplied with: how far from there they start.
    """

    inputs: Shape
    outputs: Shape
    decoder: bool = False
    output_bias: Float[np.ndarray, "..."] | None = None
    output_gain: float = 1.0


class Network(NamedTuple):
    """A function of parameters and one input.

    Attributes:
      init: `(key) -> params`.
      apply: `(params, inputs) -> outputs`.
      affine: `(params) -> (matrix [O, I], bias [O])` with outputs = matrix inputs + bias on
        flat values, for networks that are affine; None for the others.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    apply: Callable[[PyTree, Float[Array, "..."]], Float[Array, "..."]]
    affine: Callable[[PyTree], tuple[Float[Array, "O I"], Float[Array, "O"]]] | None = None


def of_module(module: nn.Module, site: Site, affine: Callable | None = None) -> Network:
    """The network that `module` computes at `site`."""
    return Network(lambda key: module.init(key, jnp.zeros(site.inputs)), module.apply, affine)


def start(site: Site) -> tuple[tuple[float, ...] | None, float]:
    """Flat bias (None: zero) and gain of the last layer; a tuple, as modules must be hashable."""
    bias = site.output_bias
    return None if bias is None else tuple(np.ravel(bias).tolist()), site.output_gain


def starting_at(bias: tuple[float, ...] | None) -> Callable:
    """The initialiser of a bias whose flat values are `bias`."""
    if bias is None:
        return nn.initializers.zeros
    return lambda key, shape, dtype=jnp.float32: jnp.asarray(bias, dtype).reshape(shape)


def kernels(name: str, gain: float) -> Callable:
    """The initialiser `name` times `gain`."""
    initial = INITIALIZERS[name]()
    return lambda key, shape, dtype=float: gain * initial(key, shape, dtype)


def check_widths(name: str, widths: tuple[int, ...]) -> None:
    """Refuses widths that no array has.

    Raises:
      UserError: naming the option.
    """
    for width in widths:
        if not 1 <= width <= _WIDEST:
            raise UserError(f"{name}: every width must be in 1..{_WIDEST}, got {width}")


def check_choices(activation: str, kernel_init: str) -> None:
    """Refuses names that are in no table.

    Raises:
      UserError: naming the nearest.
    """
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    if kernel_init not in INITIALIZERS:
        raise unknown("kernel_init", kernel_init, INITIALIZERS)
