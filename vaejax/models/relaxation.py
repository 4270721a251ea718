"""Relaxed samples of discrete latents. To add a family, write its samples and name it in `RELAXED`.

A discrete value is the sign, or the largest, of logits with logistic, or Gumbel, noise. A sigmoid,
or a softmax, of the same numbers over a temperature T in its place has derivatives: the concrete
distribution of Maddison et al. (2017) and Jang et al. (2017). As T falls to 0 it becomes the value.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.errors import UserError
from vaejax.models.discrete import OneHot
from vaejax.models.distributions import Bernoulli, Chain
from vaejax.types import Distribution, Latent

Temperature = float | Float[Array, ""]


def sample(distribution: Distribution, key: PRNGKeyArray, *, temperature: Temperature) -> Latent:
    """One relaxed draw, differentiable in the parameters of `distribution`: values in [0, 1].

    Each layer of a hierarchy is drawn given the relaxed ones before it. `temperature` may be
    traced.

    Raises:
      UserError: a distribution of which it is not known.
    """
    for family, function in RELAXED.items():
        if isinstance(distribution, family):
            return function(distribution, key, temperature)
    raise UserError(f"concrete: q of {type(distribution).__name__} has no relaxation; use vimco")


def _bernoulli(distribution: Bernoulli, key: PRNGKeyArray, temperature: Temperature):
    logits = distribution.logits
    noise = jax.random.logistic(key, logits.shape, logits.dtype)
    return jax.nn.sigmoid((logits + noise) / temperature)


def _one_hot(distribution: OneHot, key: PRNGKeyArray, temperature: Temperature):
    logits = distribution.logits
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    return jax.nn.softmax((logits + noise) / temperature, axis=1).reshape(-1)


def _chain(distribution: Chain, key: PRNGKeyArray, temperature: Temperature) -> Latent:
    return distribution.drawn_by(
        lambda layer, key: sample(layer, key, temperature=temperature), key
    )


RELAXED: dict[type, Callable[..., Latent]] = {
    Bernoulli: _bernoulli,
    OneHot: _one_hot,
    Chain: _chain,
}
