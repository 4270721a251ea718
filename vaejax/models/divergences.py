"""KL(q || p) in closed form, where it has one."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from vaejax import numerics
from vaejax.models.distributions import Bernoulli
from vaejax.models.mixtures import is_diagonal_normal
from vaejax.types import Distribution


def kl_groups(q: Distribution, p: Distribution) -> Float[Array, "G"] | None:
    """KL(q || p) in nats, one number for each group of latents independent in both, or None.

    Two diagonal normals, or two of independent values in {0, 1}: one group per unit. A full normal
    against a diagonal one: a single group, by hand: numpyro's solves a triangular system, which a
    diagonal p does not need. Sums over groups are the KL.
    """
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        return _bernoulli_kl(q.logits, p.logits)
    if not is_diagonal_normal(p):
        return None
    if is_diagonal_normal(q):
        return dist.kl_divergence(q.base_dist, p.base_dist)
    if isinstance(q, dist.MultivariateNormal):
        loc, scale = jnp.broadcast_arrays(p.base_dist.loc, p.base_dist.scale)
        variance = jnp.sum(jnp.square(q.scale_tril), axis=1)
        log_ratio = jnp.log(scale) - jnp.log(jnp.diagonal(q.scale_tril))
        quadratic = (variance + jnp.square(q.loc - loc)) / jnp.square(scale)
        return jnp.sum(log_ratio + 0.5 * (quadratic - 1.0))[None]
    return None


def _bernoulli_kl(q: Float[Array, "Z"], p: Float[Array, "Z"]) -> Float[Array, "Z"]:
    """m (q - p) + softplus(p) - softplus(q) of each unit, from logits; m = sigmoid(q)."""
    return jax.nn.sigmoid(q) * (q - p) + numerics.softplus(p) - numerics.softplus(q)
