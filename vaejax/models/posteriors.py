"""Families of q(z|x), and of p(z_1|z_2): a distribution of z [Z] given a network's output.

To add one, write it here and name it in `POSTERIORS`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.errors import UserError
from vaejax.models import flows, supports
from vaejax.models.discrete import OneHot
from vaejax.models.distributions import Bernoulli, FullNormal
from vaejax.models.flows import Flow
from vaejax.models.mixtures import NormalMixture
from vaejax.types import Distribution, Support

_MOST_CORRELATED = 4096  # their covariance alone takes 64 MiB
_MOST_COMPONENTS = 2**20


class Family(NamedTuple):
    """A distribution of one vector of latents as a function of a network's output.

    Attributes:
      outputs: shape of the output it wants of the network.
      init: `(key) -> params` of its own, beside the network's.
      distribution: `(params, output) -> Distribution` of z [Z], reparameterised where z is real.
      density_steps: how many network passes, one after another, log q takes at a z that it did
        not draw itself.
      support: which z there are.
    """

    outputs: tuple[int, ...]
    init: Callable[[PRNGKeyArray], PyTree]
    distribution: Callable[[PyTree, Float[Array, "..."]], Distribution]
    density_steps: int = 1
    support: Support = supports.REAL


def normal(size: int, *, shared_scale: bool = False) -> Family:
    """Independent normals, N(z; loc, exp(log_scale)^2).

    The network gives loc and log_scale, or loc alone with `shared_scale`: one learned
    log_scale per unit then serves every x.
    """
    if shared_scale:
        return Family(
            outputs=(size,),
            init=lambda key: {"log_scale": jnp.zeros(size)},
            distribution=lambda params, loc: _independent(loc, params["log_scale"]),
        )
    return Family(
        outputs=(2 * size,),
        init=lambda key: {},
        distribution=lambda params, output: _independent(*jnp.split(output, 2)),
    )


def _independent(loc: Float[Array, "Z"], log_scale: Float[Array, "Z"]) -> Distribution:
    return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)


def full_normal(size: int, *, shared_scale: bool = False) -> Family:
    """N(z; loc, L L') with L lower triangular and exp on its diagonal.

    The network gives loc, log diagonal and the strictly lower part, Z (Z + 3) / 2 numbers; or
    loc alone with `shared_scale`: one learned L then serves every x, as in the posterior of
    a linear-Gaussian model.

    Raises:
      UserError: more than 4,096 latents.
    """
    if size > _MOST_CORRELATED:
        raise UserError(
            f"full_normal: at most {_MOST_CORRELATED:,} latents, got {size:,}; use normal"
        )
    rows, columns = jnp.tril_indices(size, -1)

    def distribution(loc, log_diagonal, lower):
        factor = jnp.diag(jnp.exp(log_diagonal)).at[rows, columns].set(lower)
        return FullNormal(loc, scale_tril=factor)

    if shared_scale:
        return Family(
            outputs=(size,),
            init=lambda key: {
                "log_diagonal": jnp.zeros(size),
                "lower": jnp.zeros(size * (size - 1) // 2),
            },
            distribution=lambda params, loc: distribution(
                loc, params["log_diagonal"], params["lower"]
            ),
        )
    return Family(
        outputs=(size * (size + 3) // 2,),
        init=lambda key: {},
        distribution=lambda params, output: distribution(
            *jnp.split(output, (size, 2 * size)),
        ),
    )


def mixture(size: int, *, num_components: int = 5) -> Family:
    """sum_m w_m N(z; loc_m, diag(scale_m)^2), all of it given by the network.

    Samples have implicit derivatives (Figurnov et al. 2018): the choice of a component is no
    obstacle to a pathwise gradient, and every gradient estimator stays unbiased. A derivative
    takes Z steps one after another, a sample or a density none.

    Raises:
      UserError: no components.
    """
    if not 1 <= num_components <= _MOST_COMPONENTS:
        raise UserError(f"num_components: must be in 1..{_MOST_COMPONENTS}, got {num_components}")

    def distribution(params, output):
        shape = (num_components, size)
        logits, loc, log_scale = jnp.split(output, (num_components, num_components * (1 + size)))
        scale = jnp.exp(log_scale.reshape(shape))
        return NormalMixture(jax.nn.log_softmax(logits), loc.reshape(shape), scale)

    return Family((num_components * (1 + 2 * size),), lambda key: {}, distribution)


def coupling(
    size: int,
    *,
    kind: str = "affine",
    num_layers: int = 4,
    hidden_dims: tuple[int, ...] = (64,),
    num_bins: int = 8,
    context_dims: int = 16,
) -> Family:
    """z = loc + scale T(u), u ~ N(0, I), with coupling layers T that see x; `flows.coupling`.

    `kind` is "affine" or "spline" (with `num_bins` bins). The network gives loc, log_scale and
    `context_dims` numbers that the layers see. Density and sample cost the same.

    Raises:
      UserError: see `flows.coupling`.
    """
    layers = flows.coupling(
        size,
        kind=kind,
        num_layers=num_layers,
        hidden_dims=hidden_dims,
        num_bins=num_bins,
        context_dims=context_dims,
    )
    outer = flows.location_scale()

    def distribution(params, output):
        loc, log_scale, context = jnp.split(output, (size, 2 * size))
        standard = _independent(jnp.zeros_like(loc), jnp.zeros_like(loc))
        return Flow(Flow(standard, params, context, layers), {}, (loc, log_scale), outer)

    return Family((2 * size + context_dims,), layers.init, distribution)


def iaf(
    size: int,
    *,
    num_layers: int = 2,
    hidden_dims: tuple[int, ...] = (64,),
    context_dims: int = 16,
) -> Family:
    """Inverse autoregressive flow, z = T(u), u ~ N(loc, diag(scale)^2); `flows.autoregressive`.

    Kingma et al. (2016), algorithm 1. The network gives loc, log_scale and `context_dims` numbers
    that the layers see. A sample and its density are one pass of each layer. The density at
    another z takes Z passes of each, one after another: gradient estimators other than
    `pathwise`, and chains that start at q(z|x), are slow with many latents.

    Raises:
      UserError: see `flows.autoregressive`.
    """
    layers = flows.autoregressive(
        size, num_layers=num_layers, hidden_dims=hidden_dims, context_dims=context_dims
    )

    def distribution(params, output):
        loc, log_scale, context = jnp.split(output, (size, 2 * size))
        return Flow(_independent(loc, log_scale), params, context, layers)

    outputs = (2 * size + context_dims,)
    return Family(outputs, layers.init, distribution, density_steps=num_layers * size)


def bernoulli(size: int) -> Family:
    """Independent values in {0, 1}; the network gives their logits. Samples have no path."""
    return Family(
        outputs=(size,),
        init=lambda key: {},
        distribution=lambda params, logits: Bernoulli(logits),
        support=supports.BINARY,
    )


def categorical(size: int, *, num_classes: int = 10) -> Family:
    """Independent choices of one of `num_classes`, each a group of that many values of z.

    In a group one value is 1 and the others are 0: 5 choices of 10 classes are 50 latents. The
    network gives their logits. Samples have no path.

    Raises:
      UserError: fewer than two classes, or latents that are no whole number of groups.
    """
    check_classes(size, num_classes)
    return Family(
        outputs=(size,),
        init=lambda key: {},
        distribution=lambda params, logits: OneHot(logits.reshape(-1, num_classes)),
        support=supports.one_of(num_classes),
    )


def check_classes(size: int, num_classes: int) -> None:
    """Raises UserError where `size` values are no groups of `num_classes`."""
    if num_classes < 2 or size % num_classes:
        raise UserError(
            f"num_classes: must be at least 2 and divide the latents of each layer, {size} (one "
            f"choice takes num_classes of them), got {num_classes}"
        )


def conditional_of(support: Support) -> Callable[[int], Family]:
    """The family of p(z_l|z_l+1), independent values, where z_l has this support."""
    if support.values == "one_of":
        return functools.partial(categorical, num_classes=support.num_classes)
    return bernoulli if support.values == "binary" else normal


POSTERIORS: dict[str, Callable[..., Family]] = {
    "normal": normal,
    "full_normal": full_normal,
    "mixture": mixture,
    "coupling": coupling,
    "iaf": iaf,
    "bernoulli": bernoulli,
    "categorical": categorical,
}
