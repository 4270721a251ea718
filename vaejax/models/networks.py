"""Deterministic networks. To add one, write it here and name it in `NETWORKS`.

A network is built for the shapes of its input and output and for a direction: an encoder goes
up from the data, a decoder of the same options is its mirror and comes down to it.
"""

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
    """

    inputs: Shape
    outputs: Shape
    decoder: bool = False
    output_bias: Float[np.ndarray, "..."] | None = None


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


class MLP(nn.Module):
    """Dense layers on the flat input, an activation between them, linear output."""

    widths: tuple[int, ...]
    outputs: Shape
    activation: str
    kernel_init: str
    bias: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel_init = INITIALIZERS[self.kernel_init]()
        hidden = inputs.reshape(-1)
        for width in self.widths:
            hidden = nn.Dense(width, kernel_init=kernel_init)(hidden)
            hidden = ACTIVATIONS[self.activation](hidden)
        bias_init = nn.initializers.zeros
        if self.bias is not None:
            bias_init = lambda key, shape, dtype: jnp.asarray(self.bias, dtype)  # noqa: E731
        size = int(np.prod(self.outputs))
        hidden = nn.Dense(size, kernel_init=kernel_init, bias_init=bias_init)(hidden)
        return hidden.reshape(self.outputs)


def _check_widths(hidden_dims: tuple[int, ...]) -> None:
    for width in hidden_dims:
        if not 1 <= width <= _WIDEST:
            raise UserError(f"hidden_dims: every width must be in 1..{_WIDEST}, got {width}")


def _of_module(module: nn.Module, site: Site, affine=None) -> Network:
    return Network(lambda key: module.init(key, jnp.zeros(site.inputs)), module.apply, affine)


def _bias(site: Site) -> tuple[float, ...] | None:
    return None if site.output_bias is None else tuple(np.ravel(site.output_bias).tolist())


def _check_choices(activation: str, kernel_init: str) -> None:
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    if kernel_init not in INITIALIZERS:
        raise unknown("kernel_init", kernel_init, INITIALIZERS)


def mlp(
    site: Site,
    *,
    hidden_dims: tuple[int, ...] = (200, 200),
    activation: str = "tanh",
    kernel_init: str = "glorot_uniform",
) -> Network:
    """A multilayer perceptron.

    `hidden_dims` are the widths of its hidden layers from the data up, in the encoder and, in
    reverse, in the decoder: 784-200-200-50 and back in Burda et al. (2016), section 5.

    Raises:
      UserError: a width below 1, an unknown activation or initialiser.
    """
    _check_choices(activation, kernel_init)
    _check_widths(hidden_dims)
    widths = hidden_dims[::-1] if site.decoder else hidden_dims
    return _of_module(MLP(widths, site.outputs, activation, kernel_init, _bias(site)), site)


def linear(site: Site, *, kernel_init: str = "glorot_uniform") -> Network:
    """One affine map. With normal parts around it log p(x) is known exactly.

    Raises:
      UserError: an unknown initialiser.
    """
    _check_choices("tanh", kernel_init)

    def affine(params):
        dense = params["params"]["Dense_0"]
        return dense["kernel"].T, dense["bias"]

    return _of_module(MLP((), site.outputs, "tanh", kernel_init, _bias(site)), site, affine)


NETWORKS: dict[str, Callable[..., Network]] = {"mlp": mlp, "linear": linear}
