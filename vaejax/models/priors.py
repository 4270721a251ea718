"""Families of p(z) over the topmost latents. To add one, write it and name it in `PRIORS`."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from vaejax.types import Distribution

Encode = Callable[[Float[Array, "..."]], Distribution]


class Prior(NamedTuple):
    """A distribution of one vector of latents [Z].

    Attributes:
      init: `(key) -> params` of its own.
      distribution: `(params, encode) -> Distribution`; `encode` is x -> q(z|x), for priors
        that are made of posteriors, of an x in [0, 1] whatever its units are.
      standard_normal: whether it is N(0, I), whatever its parameters.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    distribution: Callable[[PyTree, Encode], Distribution]
    standard_normal: bool = False


def normal(size: int) -> Prior:
    """N(0, I), without parameters."""
    return Prior(
        init=lambda key: {},
        distribution=lambda params, encode: dist.Normal(jnp.zeros(size), 1.0).to_event(1),
        standard_normal=True,
    )


PRIORS: dict[str, Callable[..., Prior]] = {"normal": normal}
