"""Bounds on log p(x): functions of one vector of log importance weights.

A bound never sees parameters, data, keys or batches. Reduce over samples here, over
examples elsewhere, in that order. To add one, write it and name it in `BOUNDS`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vaejax import numerics

Bound = Callable[[Float[Array, "K"]], Float[Array, ""]]


def elbo(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """The evidence lower bound, (1/K) sum_k log w_k, in nats.

    Kingma and Welling (2014), eq. 2; more samples lower its variance, not its distance
    to log p(x).
    """
    return jnp.mean(log_weights)


def iwae(log_weights: Float[Array, "K"]) -> Float[Array, ""]:
    """The importance-weighted bound L_K = log((1/K) sum_k w_k), in nats.

    Burda, Grosse and Salakhutdinov (2016), eq. 8; L_1 is the ELBO and L_K rises with K
    to log p(x).
    """
    return numerics.logmeanexp(log_weights)


BOUNDS: dict[str, Bound] = {"elbo": elbo, "iwae": iwae}
