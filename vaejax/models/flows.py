"""Normalising flows: bijections of one vector [Z], and the distribution of a moved sample.

A bijection gives log |det d output / d input| beside its output, in nats, in both directions. Its
context is whatever it is conditioned on: an array, or () for nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import UserError, unknown
from vaejax.models import conditioners, distributions, splines
from vaejax.types import Distribution

Moved = tuple[Float[Array, "Z"], Float[Array, ""]]
Map = Callable[[PyTree, Float[Array, "Z"], Any], Moved]
_LARGEST_LOG_SCALE = 3.0  # of one layer: a scale is never above 20 or below 1/20


class Bijection(NamedTuple):
    """An invertible map of vectors [Z].

    Attributes:
      init: `(key) -> params`.
      forward: `(params, u, context) -> (z, log |det dz/du|)`.
      inverse: `(params, z, context) -> (u, log |det du/dz|)`.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    forward: Map
    inverse: Map


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flow:
    """z = T(u) with u ~ base: log q(z) = log base(u) - log |det dT/du|.

    Rezende and Mohamed (2015), eq. 5. It has no `mean`.

    Attributes:
      base: distribution of u [Z].
      params: of the bijection T.
      context: what T is conditioned on.
      bijection: T.
    """

    base: Distribution
    params: PyTree
    context: Any
    bijection: Bijection = dataclasses.field(metadata={"static": True})

    def sample(self, key: PRNGKeyArray) -> Float[Array, "Z"]:
        """One draw, differentiable in all parameters."""
        return self.bijection.forward(self.params, self.base.sample(key), self.context)[0]

    def log_prob(self, value: Float[Array, "Z"]) -> Float[Array, ""]:
        """In nats, by the inverse."""
        u, log_det = self.bijection.inverse(self.params, value, self.context)
        return self.base.log_prob(u) + log_det

    def sample_and_log_prob(self, key: PRNGKeyArray) -> tuple[Float[Array, "Z"], Float[Array, ""]]:
        """One draw and its log density, without the inverse."""
        u, log_base = distributions.sample_and_log_prob(self.base, key)
        z, log_det = self.bijection.forward(self.params, u, self.context)
        return z, log_base - log_det


def location_scale() -> Bijection:
    """z = loc + exp(log_scale) u, both [Z] from the context."""

    def forward(params, u, context):
        loc, log_scale = context
        return loc + jnp.exp(log_scale) * u, jnp.sum(log_scale)

    def inverse(params, z, context):
        loc, log_scale = context
        return (z - loc) * jnp.exp(-log_scale), -jnp.sum(log_scale)

    return Bijection(lambda key: {}, forward, inverse)


def reversal() -> Bijection:
    """z = u from the last value to the first."""
    flip = lambda params, value, context: (value[::-1], jnp.zeros((), value.dtype))  # noqa: E731
    return Bijection(lambda key: {}, flip, flip)


def inverted(bijection: Bijection) -> Bijection:
    """The same map with its two directions exchanged."""
    return Bijection(bijection.init, bijection.inverse, bijection.forward)


def composed(bijections: Sequence[Bijection]) -> Bijection:
    """One after another, the first one next to u."""

    def through(maps: Sequence[Map]) -> Map:
        def run(params, value, context):
            total = jnp.zeros((), value.dtype)
            for position, apply in maps:
                value, log_det = apply(params[position], value, context)
                total += log_det
            return value, total

        return run

    forward = [(position, each.forward) for position, each in enumerate(bijections)]
    inverse = [(position, each.inverse) for position, each in enumerate(bijections)][::-1]

    def init(key):
        keys = jax.random.split(key, len(bijections))
        return [each.init(own) for each, own in zip(bijections, keys, strict=True)]

    return Bijection(init, through(forward), through(inverse))


def coupling(
    size: int,
    *,
    kind: str,
    num_layers: int,
    hidden_dims: tuple[int, ...],
    num_bins: int,
    context_dims: int = 0,
) -> Bijection:
    """Layers that move every other value, as a network of the values between them says.

    "affine" is Dinh et al. (2017), eq. 7 and 8, a shift and a scale; "spline" the rational
    quadratic splines of Durkan et al. (2019). Both directions cost the same.

    Raises:
      UserError: an unknown kind, no layers, fewer than 2 bins, or a width below 1.
    """
    if kind not in ELEMENTWISE:
        raise unknown("kind", kind, ELEMENTWISE)
    _check(num_layers=num_layers, hidden_dims=hidden_dims, context_dims=context_dims)
    if not 2 <= num_bins <= splines.MOST_BINS:
        raise UserError(f"num_bins: must be in 2..{splines.MOST_BINS}, got {num_bins}")
    element = ELEMENTWISE[kind](num_bins)
    parity = [index % min(2, size) for index in range(num_layers)]
    return composed([_coupling_layer(size, p, element, hidden_dims, context_dims) for p in parity])


class _Elementwise(NamedTuple):
    """A map of one value as a function of `outputs` numbers, the identity where they are 0.

    Attributes:
      outputs: how many numbers it wants of a network.
      forward, inverse: `(value [], numbers [outputs]) -> (value, log derivative)`.
    """

    outputs: int
    forward: Callable
    inverse: Callable


def _bounded(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    return _LARGEST_LOG_SCALE * jnp.tanh(raw / _LARGEST_LOG_SCALE)


def _affine(num_bins: int) -> _Elementwise:
    def forward(u, numbers):
        log_scale = _bounded(numbers[1])
        return numbers[0] + jnp.exp(log_scale) * u, log_scale

    def inverse(z, numbers):
        log_scale = _bounded(numbers[1])
        return (z - numbers[0]) * jnp.exp(-log_scale), -log_scale

    return _Elementwise(2, forward, inverse)


def _spline(num_bins: int) -> _Elementwise:
    return _Elementwise(splines.outputs(num_bins), splines.forward, splines.inverse)


ELEMENTWISE: dict[str, Callable[[int], _Elementwise]] = {"affine": _affine, "spline": _spline}


def _coupling_layer(size, parity, element, hidden_dims, context_dims) -> Bijection:
    moved = np.arange(parity, size, 2)
    kept = np.setdiff1d(np.arange(size), moved)
    widths = (len(kept) + context_dims, *hidden_dims, len(moved) * element.outputs)
    masks = (None,) * (len(widths) - 1)

    def through(apply) -> Map:
        def run(params, value, context):
            inputs = jnp.concatenate([value[kept], *_parts(context)])
            numbers = conditioners.apply(params, inputs, masks).reshape(len(moved), element.outputs)
            new, log_derivatives = jax.vmap(apply)(value[moved], numbers)
            return value.at[moved].set(new), jnp.sum(log_derivatives)

        return run

    init = lambda key: conditioners.init(key, widths)  # noqa: E731
    return Bijection(init, through(element.forward), through(element.inverse))


def autoregressive(
    size: int, *, num_layers: int, hidden_dims: tuple[int, ...], context_dims: int = 0
) -> Bijection:
    """Layers z_i = m_i(u_<i) + s_i(u_<i) u_i with masked networks; the order turns between them.

    Kingma et al. (2016), eq. 10, with the masks of Germain et al. (2015). Forward is one pass
    of each network; the inverse finds one value after another, Z passes of each.

    Raises:
      UserError: no layers, or a width below 1.
    """
    _check(num_layers=num_layers, hidden_dims=hidden_dims, context_dims=context_dims)
    layer = _autoregressive_layer(size, hidden_dims, context_dims)
    layers = [layer]
    for _ in range(num_layers - 1):
        layers += [reversal(), layer]
    return composed(layers)


def _autoregressive_layer(size, hidden_dims, context_dims) -> Bijection:
    widths = (size + context_dims, *hidden_dims, 2 * size)
    masks = conditioners.autoregressive_masks(size, hidden_dims, context_dims)

    def numbers(params, u, context):
        shift, raw = jnp.split(
            conditioners.apply(params, jnp.concatenate([u, *_parts(context)]), masks), 2
        )
        return shift, _bounded(raw)

    def forward(params, u, context):
        shift, log_scale = numbers(params, u, context)
        return shift + jnp.exp(log_scale) * u, jnp.sum(log_scale)

    def inverse(params, z, context):
        def step(u, index):
            shift, log_scale = numbers(params, u, context)
            own = (z[index] - shift[index]) * jnp.exp(-log_scale[index])
            return u.at[index].set(own), log_scale[index]

        u, log_scales = jax.lax.scan(step, jnp.zeros_like(z), jnp.arange(size))
        return u, -jnp.sum(log_scales)

    return Bijection(lambda key: conditioners.init(key, widths), forward, inverse)


def _parts(context: Any) -> list[Float[Array, "C"]]:
    return [] if isinstance(context, tuple) else [context]


def _check(*, num_layers: int, hidden_dims: tuple[int, ...], context_dims: int) -> None:
    if not 1 <= num_layers <= 1000:
        raise UserError(f"num_layers: must be in 1..1000, got {num_layers}")
    conditioners.check(hidden_dims=hidden_dims, context_dims=context_dims)
