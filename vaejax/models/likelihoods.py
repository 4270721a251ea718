"""p(x|z) given the decoder's output. To add one, write it and name it in `LIKELIHOODS`."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.models.distributions import Bernoulli
from vaejax.types import Distribution

_LOG_SCALE_START = -1.0  # pixels lie in [0, 1]
_MEAN_CLIP = 1e-3  # Burda et al.'s code starts the decoder bias at logit(clip(mean))


class Likelihood(NamedTuple):
    """p(x|z) as a function of the decoder's output, for one example.

    Attributes:
      outputs: shape of the output it wants of the decoder.
      init: `(key) -> params` of its own, beside the decoder's output.
      output_bias: `(mean) -> outputs`, the decoder bias with which E[x|z] starts at `mean`.
      distribution: `(params, output) -> Distribution` of x.
      data: the values x may have: "binary", 0 or 1, or "real".
      log_scale: `(params) -> []` where p(x|z) = N(x; output, exp(log_scale)^2 I); None where
        it is something else.
    """

    outputs: tuple[int, ...]
    init: Callable[[PRNGKeyArray], PyTree]
    output_bias: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    distribution: Callable[[PyTree, Float[Array, "..."]], Distribution]
    data: Literal["binary", "real"]
    log_scale: Callable[[PyTree], Float[Array, ""]] | None = None


def _logit(mean: Float[Array, "..."]) -> Float[Array, "..."]:
    clipped = jnp.clip(mean, _MEAN_CLIP, 1.0 - _MEAN_CLIP)
    return jnp.log(clipped) - jnp.log1p(-clipped)


def bernoulli(shape: tuple[int, ...]) -> Likelihood:
    """Independent pixels in {0, 1}; the decoder gives their logits."""
    return Likelihood(
        outputs=shape,
        init=lambda key: {},
        output_bias=_logit,
        distribution=lambda params, logits: Bernoulli(logits),
        data="binary",
    )


def normal(shape: tuple[int, ...]) -> Likelihood:
    """Independent real values; the decoder gives their mean.

    One scale, shared by all pixels, is learned: a scale per pixel would make the likelihood
    of a pixel that never changes unbounded.
    """

    def distribution(params, loc):
        return dist.Normal(loc, jnp.exp(params["log_scale"])).to_event(len(shape))

    return Likelihood(
        outputs=shape,
        init=lambda key: {"log_scale": jnp.full((), _LOG_SCALE_START)},
        output_bias=lambda mean: mean,
        distribution=distribution,
        data="real",
        log_scale=lambda params: params["log_scale"],
    )


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {"bernoulli": bernoulli, "normal": normal}
