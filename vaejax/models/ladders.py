"""The levels of a network of convolutions: how often it halves its image, and to what shape."""

import math
from typing import NamedTuple

from vaejax.errors import UserError
from vaejax.models import sites
from vaejax.models.sites import Shape, Site

_LARGEST_KERNEL = 31


class Ladder(NamedTuple):
    """The levels of a network, from the data up.

    Attributes:
      channels: of each level.
      strides: by how much each level divides the sides of the image, 2 or 1.
      hidden_dims: widths of the dense layers above the levels.
      top: shape of the highest level, [h, w, c].
      outputs: shape of the network's output.
      kernel_size: side of every kernel.
      activation, kernel_init: names.
      bias: where the flat outputs start; None: at zero.
      gain: what the last kernel starts multiplied with.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    hidden_dims: tuple[int, ...]
    top: Shape
    outputs: Shape
    kernel_size: int
    activation: str
    kernel_init: str
    bias: tuple[float, ...] | None
    gain: float


def make(
    name: str,
    site: Site,
    *,
    channels: tuple[int, ...],
    kernel_size: int,
    hidden_dims: tuple[int, ...],
    activation: str,
    kernel_init: str,
) -> Ladder:
    """The ladder of the network `name` at `site`.

    Raises:
      UserError: sides that cannot be halved so often, vectors where images are needed, or an
        option that is not legal.
    """
    sites.check_choices(activation, kernel_init)
    sites.check_widths("channels", channels)
    sites.check_widths("hidden_dims", hidden_dims)
    if not channels:
        raise UserError(f"{name}: channels needs at least one level, got ()")
    if not 1 <= kernel_size <= _LARGEST_KERNEL:
        raise UserError(f"{name}: kernel_size must be in 1..{_LARGEST_KERNEL}, got {kernel_size}")
    strides = _strides(name, site, channels)
    if hidden_dims and 1 not in (len(site.inputs), len(site.outputs)):
        raise UserError(
            f"{name}: hidden_dims has no place between two feature maps, got {hidden_dims}; use ()"
        )
    image = site.outputs if site.decoder else site.inputs
    divisor, (bias, gain) = math.prod(strides), sites.start(site)
    return Ladder(
        channels=channels,
        strides=strides,
        hidden_dims=hidden_dims,
        top=(image[0] // divisor, image[1] // divisor, channels[-1]),
        outputs=site.outputs,
        kernel_size=kernel_size,
        activation=activation,
        kernel_init=kernel_init,
        bias=bias,
        gain=gain,
    )


def _strides(name: str, site: Site, channels: tuple[int, ...]) -> tuple[int, ...]:
    """By how much each level divides the image, from the data up.

    Below a vector every level halves; below a feature map the lowest levels do, as many as
    lead to its sides, and the others leave them.
    """
    image, top = (site.outputs, site.inputs) if site.decoder else (site.inputs, site.outputs)
    wrong = image if len(image) < 3 else top if len(top) == 2 else None
    if wrong is not None:
        raise UserError(
            f"{name}: works on images of shape [H, W, C], got shape {wrong}; use mlp or "
            f"gated_mlp for vectors"
        )
    sides = _halved(image, len(channels))
    if len(top) > 1 and top[:2] not in sides:
        reached = ", ".join(f"{height} x {width}" for height, width in sides)
        raise UserError(
            f"{name}: channels={channels} leads from {image[0]} x {image[1]} to one of {reached}, "
            f"got a feature map of {top[0]} x {top[1]}"
        )
    if len(top) == 1 and len(sides) <= len(channels):
        possible, factor = len(sides) - 1, 2 ** len(channels)
        nearest = f"channels={channels[:possible]}" if possible else "mlp or gated_mlp"
        raise UserError(
            f"{name}: channels={channels} halves the image {len(channels)} times, which needs "
            f"sides that are multiples of {factor}; {image[0]} x {image[1]} can be halved "
            f"{possible} times: use {nearest}"
        )
    halvings = sides.index(top[:2]) if len(top) > 1 else len(channels)
    return (2,) * halvings + (1,) * (len(channels) - halvings)


def _halved(image: Shape, most: int) -> list[Shape]:
    """The sides of an image that is halved 0, 1, .. times: as often as they are even."""
    sides = [image[:2]]
    while len(sides) <= most and sides[-1][0] % 2 == sides[-1][1] % 2 == 0:
        sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
    return sides
