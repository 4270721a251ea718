"""A latent sample as one flat vector [Z], whatever the stochastic layers of the model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from vaejax.types import Latent, Model, Params

Unravel = Callable[[Float[Array, "Z"]], Latent]


def unraveller(params: Params, *, model: Model) -> tuple[int, Unravel]:
    """Z, the values in one latent sample, and the way back from [Z] to the sample."""
    like = jax.eval_shape(lambda p: model.prior(p).sample(jax.random.key(0)), params)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
    return flat.shape[0], unravel


def sample_prior(params: Params, key: PRNGKeyArray, *, model: Model) -> Float[Array, "Z"]:
    """z ~ p(z), flat."""
    return ravel_pytree(model.prior(params).sample(key))[0]


def sample_posterior(
    params: Params, key: PRNGKeyArray, x: Float[Array, "..."], *, model: Model
) -> Float[Array, "Z"]:
    """z ~ q(z|x), flat."""
    return ravel_pytree(model.posterior(params, x).sample(key))[0]


def log_joint(
    params: Params, x: Float[Array, "..."], z: Float[Array, "Z"], *, model: Model
) -> Float[Array, ""]:
    """log p(x, z) = log p(z) + log p(x|z) at a flat z, in nats."""
    latent = unraveller(params, model=model)[1](z)
    return model.prior(params).log_prob(latent) + model.likelihood(params, latent).log_prob(x)


def simulate(params: Params, key: PRNGKeyArray, *, model: Model) -> tuple[Latent, Array]:
    """(z, x) ~ p(z) p(x|z): z is an exact sample of the posterior p(z|x)."""
    z_key, x_key = jax.random.split(key)
    z = model.prior(params).sample(z_key)
    return z, model.likelihood(params, z).sample(x_key)
