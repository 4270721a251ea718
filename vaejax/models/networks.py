"""Deterministic networks. To add one, write it and name it in `NETWORKS`.

A network is built for the shapes of its input and output and for a direction: an encoder goes
up from the data, a decoder of the same options is its mirror and comes down to it. Networks of
dense layers stand here, those of convolutions in `image_networks`.
"""

from collections.abc import Callable

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vaejax.models import image_networks, sites
from vaejax.models.sites import ACTIVATIONS, INITIALIZERS, Network, Shape, Site


class MLP(nn.Module):
    """Dense layers on the flat input, an activation between them, linear output."""

    widths: tuple[int, ...]
    outputs: Shape
    activation: str
    kernel_init: str
    bias: tuple[float, ...] | None = None
    gain: float = 1.0

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel_init = INITIALIZERS[self.kernel_init]()
        hidden = inputs.reshape(-1)
        for width in self.widths:
            hidden = nn.Dense(width, kernel_init=kernel_init)(hidden)
            hidden = ACTIVATIONS[self.activation](hidden)
        size, bias_init = int(np.prod(self.outputs)), sites.starting_at(self.bias)
        kernel_init = sites.kernels(self.kernel_init, self.gain)
        hidden = nn.Dense(size, kernel_init=kernel_init, bias_init=bias_init)(hidden)
        return hidden.reshape(self.outputs)


class GatedMLP(nn.Module):
    """Gated dense layers, (W h + b) * sigmoid(V h + c), on the flat input; linear output."""

    widths: tuple[int, ...]
    outputs: Shape
    kernel_init: str
    bias: tuple[float, ...] | None = None
    gain: float = 1.0

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel_init = INITIALIZERS[self.kernel_init]()
        hidden = inputs.reshape(-1)
        for index, width in enumerate(self.widths):
            value = nn.Dense(width, kernel_init=kernel_init, name=f"value_{index}")(hidden)
            gate = nn.Dense(width, kernel_init=kernel_init, name=f"gate_{index}")(hidden)
            hidden = value * nn.sigmoid(gate)
        size, bias_init = int(np.prod(self.outputs)), sites.starting_at(self.bias)
        kernel_init = sites.kernels(self.kernel_init, self.gain)
        output = nn.Dense(size, kernel_init=kernel_init, bias_init=bias_init, name="output")
        return output(hidden).reshape(self.outputs)


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
    sites.check_choices(activation, kernel_init)
    sites.check_widths("hidden_dims", hidden_dims)
    widths = hidden_dims[::-1] if site.decoder else hidden_dims
    module = MLP(widths, site.outputs, activation, kernel_init, *sites.start(site))
    return sites.of_module(module, site)


def gated_mlp(
    site: Site,
    *,
    hidden_dims: tuple[int, ...] = (300, 300),
    kernel_init: str = "glorot_uniform",
) -> Network:
    """A multilayer perceptron whose hidden layers are h' = (W h + b) * sigmoid(V h + c).

    The gate takes the place of an activation, as in Tomczak and Welling (2018), section 5:
    784-300-300-40 and back. `hidden_dims` are widths from the data up, as those of `mlp`.

    Raises:
      UserError: a width below 1, an unknown initialiser.
    """
    sites.check_choices("tanh", kernel_init)
    sites.check_widths("hidden_dims", hidden_dims)
    widths = hidden_dims[::-1] if site.decoder else hidden_dims
    module = GatedMLP(widths, site.outputs, kernel_init, *sites.start(site))
    return sites.of_module(module, site)


def linear(site: Site, *, kernel_init: str = "glorot_uniform") -> Network:
    """One affine map. With normal parts around it log p(x) is known exactly.

    Raises:
      UserError: an unknown initialiser.
    """
    sites.check_choices("tanh", kernel_init)

    def affine(params):
        dense = params["params"]["Dense_0"]
        return dense["kernel"].T, dense["bias"]

    module = MLP((), site.outputs, "tanh", kernel_init, *sites.start(site))
    return sites.of_module(module, site, affine)


NETWORKS: dict[str, Callable[..., Network]] = {
    "mlp": mlp,
    "gated_mlp": gated_mlp,
    "conv": image_networks.conv,
    "resnet": image_networks.resnet,
    "linear": linear,
}
