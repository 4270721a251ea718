"""Networks of convolutions: `conv`, strided and plain, and `resnet`, with residual blocks.

Both are a ladder of levels. Up, in the encoder: each level halves the image and works on it.
Down, in the decoder: the same levels in reverse, each worked on and then doubled. What stands
at the upper end is a vector, behind dense layers, or itself a feature map [h, w, c].
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vaejax.errors import UserError, unknown
from vaejax.models import convolutions, ladders, sites
from vaejax.models.ladders import Ladder
from vaejax.models.sites import ACTIVATIONS, INITIALIZERS, Network, Site

_MOST_BLOCKS = 100


def _enlarging(initial: Callable, stride: int) -> Callable:
    """The start of a transposed convolution: linear interpolation, then a 1 x 1 convolution.

    One matrix [C, O] times the same weights for all channels (Long et al. 2015), scaled so that
    values behind relu(noise) have the mean square they have behind a plain convolution. Entries
    drawn one by one start as noise from value to value, on a grid where sides are no multiple
    of the stride (Odena et al. 2016): with 3 and 2 values see 4, 2, 2 and 1 entries by turns.
    """

    def init(key, shape):
        size = shape[0]
        near = 1.0 - np.abs(np.arange(size) - (size - 1) / 2) / stride
        near = np.maximum(near, 0.0)
        weights = near / [near[index % stride :: stride].sum() for index in range(size)]
        # Of the mean square of relu(noise) 1 / pi is that of its mean, which adds up whole.
        shrunk = (np.sum(weights**2) / stride) ** 2
        gain = ((1.0 - 1.0 / math.pi) * shrunk + 1.0 / math.pi) ** -0.5
        stamp = jnp.asarray(gain * np.outer(weights, weights))
        return stamp[:, :, None, None] * initial(key, (1, 1, *shape[2:]))

    return init


class Convolution(nn.Module):
    """A convolution that divides the sides of an image by `stride`, or its transpose.

    The kernel starts as `kernel_init` has it, times `gain`; see `_enlarging` for the transpose.
    """

    channels: int
    kernel_size: int
    kernel_init: str
    stride: int = 1
    transposed: bool = False
    use_bias: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(self, image: Float[Array, "H W C"]) -> Float[Array, "h w O"]:
        shape = (self.kernel_size, self.kernel_size, image.shape[-1], self.channels)
        initial = sites.kernels(self.kernel_init, self.gain)
        enlarges = self.transposed and self.stride > 1
        kernel = self.param(
            "kernel", _enlarging(initial, self.stride) if enlarges else initial, shape
        )
        function = convolutions.convolve_transposed if self.transposed else convolutions.convolve
        output = function(image, kernel, stride=self.stride)
        if not self.use_bias:
            return output
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return output + bias.reshape(1, 1, -1)


class Activation(nn.Module):
    """What `conv` does on a level: the activation alone."""

    ladder: Ladder

    def __call__(self, features: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return ACTIVATIONS[self.ladder.activation](features)


class GroupNorm(nn.Module):
    """Features less their mean, over their standard deviation, in groups of channels.

    Wu and He (2018): one example's statistics alone, then a learned scale and offset. There are
    as many groups as divide the channels, up to 8, of at least 4 channels: on a map of one place
    a group of one channel would always be zero.
    """

    @nn.compact
    def __call__(self, features: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        height, width, channels = features.shape
        fitting = [n for n in (2, 4, 8) if channels % n == 0 and channels >= 4 * n]
        grouped = features.reshape(height, width, max(fitting, default=1), -1)
        centred = grouped - jnp.mean(grouped, (0, 1, 3), keepdims=True)
        variance = jnp.mean(jnp.square(centred), (0, 1, 3), keepdims=True)
        normal = (centred / jnp.sqrt(variance + 1e-5)).reshape(features.shape)
        scale = self.param("scale", nn.initializers.ones, (channels,)).reshape(1, 1, -1)
        offset = self.param("offset", nn.initializers.zeros, (channels,)).reshape(1, 1, -1)
        return normal * scale + offset


class NoNorm(nn.Module):
    """Features as they are."""

    def __call__(self, features: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return features


NORMS: dict[str, Callable[[], nn.Module]] = {"none": NoNorm, "group": GroupNorm}


class ResidualBlocks(nn.Module):
    """What `resnet` does on a level: `num_blocks` times h + s * branch(h), then an activation.

    A branch is twice norm, activation, convolution. The learned number s starts at zero: every
    block starts as the identity, which is what lets it do without a norm (De and Smith 2020).
    """

    ladder: Ladder
    num_blocks: int
    norm: str

    @nn.compact
    def __call__(self, features: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        ladder, norm = self.ladder, NORMS[self.norm]
        activation = ACTIVATIONS[ladder.activation]
        for index in range(self.num_blocks):
            branch = features
            for _ in range(2):
                branch = activation(norm()(branch))
                branch = Convolution(features.shape[-1], ladder.kernel_size, ladder.kernel_init)(
                    branch
                )
            scale = self.param(f"scale_{index}", nn.initializers.zeros, ())
            features = features + scale * branch
        return activation(norm()(features))


class Up(nn.Module):
    """An encoder: every level, then dense layers to a vector or one convolution to a map."""

    ladder: Ladder
    level: Callable[[Ladder], nn.Module]

    @nn.compact
    def __call__(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
        ladder = self.ladder
        options = {"kernel_size": ladder.kernel_size, "kernel_init": ladder.kernel_init}
        hidden = image.reshape(*image.shape[:2], -1)
        for channels, stride in zip(ladder.channels, ladder.strides, strict=True):
            hidden = Convolution(channels, stride=stride, **options)(hidden)
            hidden = self.level(ladder)(hidden)
        if len(ladder.outputs) == 1:
            hidden = _dense_layers(ladder, hidden.reshape(-1), ladder.hidden_dims)
            kernel_init = sites.kernels(ladder.kernel_init, ladder.gain)
            hidden = nn.Dense(ladder.outputs[0], use_bias=False, kernel_init=kernel_init)(hidden)
        else:
            channels = math.prod(ladder.outputs[2:])
            hidden = Convolution(channels, use_bias=False, gain=ladder.gain, **options)(hidden)
        bias = self.param("bias", sites.starting_at(ladder.bias), ladder.outputs)
        return hidden.reshape(ladder.outputs) + bias


class Down(nn.Module):
    """A decoder, the mirror of `Up`: every transposed convolution stands where its own does.

    The bias of the output has a number for each of its values, so that the data's mean may be
    where the decoder starts.
    """

    ladder: Ladder
    level: Callable[[Ladder], nn.Module]

    @nn.compact
    def __call__(self, inputs: Float[Array, "..."]) -> Float[Array, "..."]:
        ladder = self.ladder
        options = {"kernel_size": ladder.kernel_size, "kernel_init": ladder.kernel_init}
        if inputs.ndim == 1:
            hidden = _dense_layers(ladder, inputs, ladder.hidden_dims[::-1])
            kernel_init = INITIALIZERS[ladder.kernel_init]()
            hidden = nn.Dense(math.prod(ladder.top), kernel_init=kernel_init)(hidden)
            hidden = hidden.reshape(ladder.top)
        else:
            hidden = Convolution(ladder.top[-1], **options)(inputs.reshape(*inputs.shape[:2], -1))
        below = (math.prod(ladder.outputs[2:]), *ladder.channels[:-1])
        for index in reversed(range(len(below))):
            hidden = self.level(ladder)(hidden)
            hidden = Convolution(
                below[index],
                stride=ladder.strides[index],
                transposed=True,
                use_bias=index > 0,
                gain=1.0 if index else ladder.gain,
                **options,
            )(hidden)
        bias = self.param("bias", sites.starting_at(ladder.bias), ladder.outputs)
        return hidden.reshape(ladder.outputs) + bias


def _dense_layers(
    ladder: Ladder, hidden: Float[Array, "I"], widths: tuple[int, ...]
) -> Float[Array, "O"]:
    for width in widths:
        hidden = nn.Dense(width, kernel_init=INITIALIZERS[ladder.kernel_init]())(hidden)
        hidden = ACTIVATIONS[ladder.activation](hidden)
    return hidden


def conv(
    site: Site,
    *,
    channels: tuple[int, ...] = (32, 64),
    kernel_size: int = 3,
    hidden_dims: tuple[int, ...] = (),
    activation: str = "relu",
    kernel_init: str = "he_normal",
) -> Network:
    """Strided convolutions, one for each of `channels`, and their transposes in the decoder.

    From the data up: 28 x 28 x 1, 14 x 14 x 32, 7 x 7 x 64, dense layers of `hidden_dims`, the
    output. Sides are halved by a stride of 2. Between an image and a feature map [h, w, c] one
    convolution takes the place of the dense layers, and the sides of the map say how often the
    image is halved.

    `kernel_init` is the one made for relu (He et al. 2015). On MNIST (version 0.2.0, learning
    rate 1e-3, one seed) the ELBO in training stood at -114 nats after two epochs from it; from
    glorot_uniform, which is smaller, the decoder stayed at the mean image, at -206 nats with a
    KL of 0.

    Raises:
      UserError: sides that cannot be halved so often, vectors where images are needed, or an
        option that is not legal.
    """
    ladder = ladders.make(
        "conv",
        site,
        channels=channels,
        kernel_size=kernel_size,
        hidden_dims=hidden_dims,
        activation=activation,
        kernel_init=kernel_init,
    )
    return sites.of_module((Down if site.decoder else Up)(ladder, Activation), site)


def resnet(
    site: Site,
    *,
    channels: tuple[int, ...] = (32, 64),
    num_blocks: int = 1,
    norm: str = "none",
    kernel_size: int = 3,
    hidden_dims: tuple[int, ...] = (),
    activation: str = "elu",
    kernel_init: str = "he_normal",
) -> Network:
    """`conv` with `num_blocks` residual blocks on every level (He et al. 2016, pre-activation).

    `norm` stands before every activation: "none", or "group" (Wu and He 2018). There is no
    batch norm, since one example's log p(x) must not depend on others.

    Raises:
      UserError: as `conv`.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if not 1 <= num_blocks <= _MOST_BLOCKS:
        raise UserError(f"resnet: num_blocks must be in 1..{_MOST_BLOCKS}, got {num_blocks}")
    ladder = ladders.make(
        "resnet",
        site,
        channels=channels,
        kernel_size=kernel_size,
        hidden_dims=hidden_dims,
        activation=activation,
        kernel_init=kernel_init,
    )
    level = functools.partial(ResidualBlocks, num_blocks=num_blocks, norm=norm)
    return sites.of_module((Down if site.decoder else Up)(ladder, level), site)
